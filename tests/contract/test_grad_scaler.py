"""torch's GradScaler drives every optimizer as it drives torch's."""

import pytest
import torch
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_

from tests.contract.case import LAYOUTS
from tests.contract.comparison import (
    assert_nothing_changed,
    assert_same_training,
    everything,
)
from tests.contract.harness import (
    case_of,
    every_given_gradients,
    find_case,
    give_gradients,
    make,
    optimizers,
    ours,
    parameters,
    params_of,
    reference,
    takes,
)

STEPS = 6
OVERFLOWS = (0, 3)
LIMIT = 1.0
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.complex64)

# Who unscales: the scaler before the step, or the optimizer in it.
every_way = pytest.mark.parametrize("way", ["default", "fused", "unscaling"])
every_dense = optimizers(lambda case: not case.closure and case.sparse != "only")
whether_unscaled = pytest.mark.parametrize(
    "unscale", [False, True], ids=["plain", "unscaled"]
)
every_engine = pytest.mark.parametrize("foreach", [None, False], ids=["any", "eager"])


def build(name, way, **arguments):
    """One of polyak's optimizers that is to be driven in one of the ways."""
    arguments = {**case_of(name).stateful, **arguments}
    if way == "fused" and takes(name, "fused"):
        arguments["fused"] = True
    optimizer = make(ours(name), parameters(name), arguments)
    if way == "unscaling":
        optimizer._step_supports_amp_scaling = True
    return optimizer


def unscales(optimizer):
    """Whether an optimizer tells the scaler that it unscales by itself."""
    return getattr(optimizer, "_step_supports_amp_scaling", False)


def scalers():
    """One for each of two optimizers; their scale grows after two good steps."""
    return [GradScaler("cpu", init_scale=2.0**10, growth_interval=2) for _ in "ab"]


def scaled_step(name, optimizer, scaler, step, *, unscale, limit=None):
    """A step on scaled gradients, of which some overflow."""
    params = params_of(optimizer)
    give_gradients(name, params, step)
    factor = scaler.scale(torch.tensor(1.0)).item()
    for param in params:
        if param.grad is not None:
            param.grad = param.grad * factor
    if step in OVERFLOWS:
        params[0].grad = params[0].grad * float("inf")
    if unscale:
        scaler.unscale_(optimizer)
        if limit is not None:
            clip_grad_norm_(params, limit)
    scaler.step(optimizer)
    scaler.update()


def check_against_torch(name, actual, how, how_torch):
    """Overflow steps are left out; the others, and the scales, are torch's."""
    case = case_of(name)
    expected = make(reference(name), parameters(name), case.stateful)
    ours_and_torchs, scales = scalers(), {}
    for step in range(STEPS):
        before = everything(actual)
        for optimizer, scaler, options in zip(
            (actual, expected), ours_and_torchs, (how, how_torch), strict=True
        ):
            scaled_step(name, optimizer, scaler, step, **options)
        if step in OVERFLOWS:
            assert_nothing_changed(actual, before)
        assert ours_and_torchs[0].get_scale() == ours_and_torchs[1].get_scale()
        ulps = 2 * case.ulps * (step + 1)
        assert_same_training(actual, expected, ulps, scales)
    # A step that a scaler leaves out for an optimizer is never called.
    assert actual.steps == STEPS - len(OVERFLOWS)
    assert actual.skipped_steps == len(OVERFLOWS) * unscales(actual)
    assert not {"grad_scale", "found_inf"} & vars(actual).keys()


@every_given_gradients
@whether_unscaled
@every_way
def test_steps_are_those_of_torch(name, way, unscale):
    """Whoever unscales, and when."""
    limit = LIMIT if case_of(name).sparse != "only" else None
    how = {"unscale": unscale, "limit": limit}
    check_against_torch(name, build(name, way), how, how)


@every_dense
@whether_unscaled
@pytest.mark.parametrize("way", ["fused", "unscaling"])
def test_a_limit_is_that_of_unscaled_gradients(name, way, unscale):
    """As torch's loop has it: unscale_, clip_grad_norm_, step."""
    actual = build(name, way, clip_grad_norm=LIMIT)
    how_torch = {"unscale": True, "limit": LIMIT}
    # An optimizer that does not unscale is given what the scaler unscaled.
    check_against_torch(name, actual, {"unscale": unscale}, how_torch)


@every_given_gradients
@pytest.mark.parametrize("nonfinite", ["skip", "raise"])
def test_an_overflow_is_the_scalers_to_find(name, nonfinite):
    """It is counted once, and no error: scalers look for their scale by overflowing."""
    actual = build(name, "unscaling", nonfinite=nonfinite)
    how = {"unscale": False}
    check_against_torch(name, actual, how, how)


@optimizers(lambda case: not case.closure)
def test_fused_optimizers_unscale_by_themselves(name):
    """They say so, as torch's do; the others do not."""
    assert unscales(build(name, "fused")) == takes(name, "fused")
    assert not unscales(build(name, "default"))


# What a scaler sets, one by one

TYPED = [
    (name, dtype)
    for (name) in every_dense.args[1]
    for dtype in DTYPES
    if find_case(name).complex or not dtype.is_complex
]


@pytest.mark.parametrize(("name", "dtype"), TYPED)
@every_engine
@pytest.mark.parametrize("scale", [2.0**16, 2.0**-5, 3.0])
def test_gradients_are_divided_by_the_scale(name, dtype, foreach, scale):
    """And are not written to; where it is a power of two, eager steps lose no bit."""
    arguments = dict(case_of(name).stateful)
    if takes(name, "foreach"):
        arguments["foreach"] = foreach
    unscaling, plain = (
        make(ours(name), parameters(name, LAYOUTS, dtype), arguments) for _ in "ab"
    )
    scales = {}
    for step in range(STEPS):
        for optimizer in (unscaling, plain):
            give_gradients(name, params_of(optimizer), step)
        for param in params_of(unscaling):
            if param.grad is not None:
                param.grad *= scale
        before = [param.grad for param in params_of(unscaling)]
        kept = [None if grad is None else grad.clone() for grad in before]
        unscaling.grad_scale = torch.tensor(scale)
        unscaling.step()
        plain.step()
        for param, grad, bits in zip(params_of(unscaling), before, kept, strict=True):
            assert param.grad is grad
            assert grad is None or torch.equal(grad, bits)
        exact = scale != 3.0 and not plain._plan.buckets
        ulps = 0 if exact else 2 * case_of(name).ulps * (step + 1)
        assert_same_training(unscaling, plain, ulps, scales)


@every_given_gradients
@every_engine
def test_found_inf_alone_leaves_the_step_out(name, foreach):
    """Whatever the gradients are: 1 or more of them overflowed, on some device."""
    arguments = dict(case_of(name).stateful)
    if takes(name, "foreach"):
        arguments["foreach"] = foreach
    driven, plain = (make(ours(name), parameters(name), arguments) for _ in "ab")
    for step in range(STEPS):
        give_gradients(name, params_of(driven), step)
        give_gradients(name, params_of(plain), step)
        before = everything(driven)
        for found_inf in (torch.tensor(1.0), torch.tensor([2.0]), 1.0):
            driven.found_inf = found_inf
            driven.step()
            assert_nothing_changed(driven, before)
            assert len(driven.state) == len(plain.state)
        for found_inf in (torch.tensor(0.0), 0.0, None):
            driven.found_inf = found_inf
            driven.step()
            plain.step()
    assert_same_training(driven, plain)
    assert (driven.steps, driven.skipped_steps) == (3 * STEPS, 3 * STEPS)


@every_given_gradients
def test_a_skipped_step_returns_the_loss(name):
    """The closure has run."""
    optimizer = build(name, "unscaling")
    optimizer.found_inf = torch.tensor(1.0)
    assert optimizer.step(lambda: 42.0) == 42.0
    assert optimizer.skipped_steps == 1
