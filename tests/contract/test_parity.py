"""Every optimizer does what torch's does, step for step: values, state and layout."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from tests.contract.case import LAYOUTS
from tests.contract.comparison import assert_same_training
from tests.contract.harness import (
    NAMES,
    SMALL,
    advance,
    argument_sets,
    before_lr_changes,
    case_of,
    every_grouped_optimizer,
    every_optimizer,
    every_separable_optimizer,
    find_case,
    make,
    ours,
    parameters,
    params_of,
    reference,
    takes,
)

STEPS = 7
# How the step may be asked to run; torch's side is its for-loop, its own reference.
FLAGS = {
    "foreach": {"foreach": True},
    "for_loop": {"foreach": False},
    "fused": {"fused": True},
    "differentiable": {"differentiable": True},
    "capturable": {"capturable": True},
}
DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "complex64": torch.complex64,
}


def cases():
    """Each optimizer with each of its dtypes and each set of arguments."""
    for name in NAMES:
        for label, dtype in DTYPES.items():
            case = find_case(name)
            if dtype.is_complex and case and not case.complex:
                continue
            for set_name, arguments in argument_sets(name).items():
                yield pytest.param(
                    name, dtype, arguments, id=f"{name}-{label}-{set_name}"
                )


def flagged():
    """Each optimizer with each flag that it takes and each set of arguments."""
    for name in NAMES:
        for flag, flags in FLAGS.items():
            if not all(takes(name, key) for key in flags):
                continue
            for set_name, arguments in argument_sets(name).items():
                # Refused by torch and by polyak: see the error inputs of torch's table.
                if flag == "foreach" and isinstance(arguments.get("lr"), Tensor):
                    continue
                yield pytest.param(
                    name, flag, arguments, id=f"{name}-{flag}-{set_name}"
                )


def in_precision(value, dtype):
    """Arguments with tensors in the dtype's precision: torch computes in theirs."""
    if isinstance(value, Tensor):
        return value.to(dtype.to_real())
    if isinstance(value, tuple):
        return tuple(in_precision(part, dtype) for part in value)
    if isinstance(value, dict):
        return {key: in_precision(part, dtype) for key, part in value.items()}
    return value


def pair(name, arguments, ours_only=(), **how):
    """polyak's optimizer and torch's, on equal parameters."""
    plain = {"foreach": False} if takes(name, "foreach") else {}
    return (
        make(ours(name), parameters(name, **how), {**arguments, **dict(ours_only)}),
        make(reference(name), parameters(name, **how), {**arguments, **plain}),
    )


def assert_same_steps(name, actual, expected, *, steps=STEPS, like_params=None):
    """Do the same steps with both; compare all there is after each."""
    scales = {}
    assert_same_training(actual, expected, scales=scales)
    # A step with a closure is many iterations, and its history is compared, too.
    for step in range(2 if case_of(name).closure else steps):
        # Every third gradient lies in memory as autograd would never lay it.
        alike = step % 3 != 2 if like_params is None else like_params
        for optimizer in (actual, expected):
            advance(name, optimizer, params_of(optimizer), step, like_params=alike)
        assert_same_training(actual, expected, case_of(name).ulps * (step + 1), scales)


@pytest.mark.parametrize(("name", "dtype", "arguments"), list(cases()))
def test_steps_are_those_of_torch(name, dtype, arguments):
    """Every argument set of torch's table, for parameters of every layout."""
    how = {"layouts": LAYOUTS, "dtype": dtype}
    actual, expected = pair(name, in_precision(arguments, dtype), **how)
    assert_same_steps(name, actual, expected)


@pytest.mark.parametrize(("name", "flag", "arguments"), list(flagged()))
def test_flags_do_not_change_the_steps(name, flag, arguments):
    """``foreach``, ``fused``, ``differentiable`` and ``capturable`` choose how."""
    # A demand for a kernel is refused where memory has gaps.
    layouts = (*SMALL, "empty", "channels_last" if flag == "fused" else "sliced")
    how = {"layouts": layouts, "requires_grad": flag != "differentiable"}
    actual, expected = pair(name, arguments, FLAGS[flag], **how)
    alike = True if flag == "fused" else None
    assert_same_steps(name, actual, expected, steps=4, like_params=alike)


@every_separable_optimizer
def test_groups_have_their_own_values(name):
    """One group for each argument set, all in one optimizer."""
    groups = deepcopy(list(argument_sets(name).values()))
    actual, expected = (
        kind([{"params": parameters(name), **group} for group in groups])
        for kind in (ours(name), reference(name))
    )
    assert_same_steps(name, actual, expected)


@every_grouped_optimizer
def test_parameters_of_every_dtype_in_one_optimizer(name):
    """What shares an optimizer need not share a dtype."""
    case = case_of(name)
    dtypes = [d for d in DTYPES.values() if case.complex or not d.is_complex]
    actual, expected = (
        kind([p for dtype in dtypes for p in parameters(name, SMALL, dtype)])
        for kind in (ours(name), reference(name))
    )
    assert_same_steps(name, actual, expected)


@every_optimizer
def test_hyperparameters_change_between_steps(name):
    """What is written into a group takes effect at the next step."""
    actual, expected = pair(name, {})
    scales = {}
    for step in range(STEPS):
        for optimizer in (actual, expected):
            group = optimizer.param_groups[0]
            group["lr"] = 0.1 / (step + 1)
            if "weight_decay" in group:
                group["weight_decay"] = 0.05 * (step % 3)
            advance(name, optimizer, params_of(optimizer), step)
        assert_same_training(actual, expected, case_of(name).ulps * (step + 1), scales)


@every_optimizer
def test_a_tensor_learning_rate_changes_in_place(name):
    """Schedulers fill a tensor ``lr``: the next step sees it."""
    actual, expected = pair(name, {"lr": torch.tensor(0.01)})
    scales = {}
    for step in range(STEPS):
        for optimizer in (actual, expected):
            before_lr_changes(name, optimizer)
            optimizer.param_groups[0]["lr"].fill_(0.1 / (step + 1))
            advance(name, optimizer, params_of(optimizer), step)
        assert_same_training(actual, expected, case_of(name).ulps * (step + 1), scales)
