"""In bfloat16 a step is computed in float32 and rounded once, when it is stored.

torch rounds after each operation instead, so its steps are near ours, not the same. The
two are compared for one step at a time, from the same state.
"""

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from tests.contract.comparison import assert_same, largest
from tests.contract.harness import (
    NAMES,
    SMALL,
    argument_sets,
    case_of,
    give_gradients,
    make,
    ours,
    parameters,
    params_of,
    reference,
    takes,
)

STEPS = 5
# By then every parameter has state: fresh values such as Rprop's are rounded, too.
WARM_UP = 2
LAYOUTS = (*SMALL, "transposed")
# Several roundings of half a unit each; 1.4 is the most that was seen, in Adadelta.
TORCH_ULPS = 3


def cases():
    """Each optimizer whose step is a rule, with each set of arguments."""
    for name in NAMES:
        if hasattr(ours(name), "rule"):
            for set_name, arguments in argument_sets(name).items():
                yield pytest.param(name, arguments, id=f"{name}-{set_name}")


every_rule = pytest.mark.parametrize(("name", "arguments"), list(cases()))


def build(name, kind, dtype, arguments):
    """An optimizer on the bfloat16 parameters, held in a dtype."""
    params = [p.detach().to(dtype) for p in parameters(name, LAYOUTS, torch.bfloat16)]
    return make(kind, [p.requires_grad_() for p in params], arguments)


def as_dtype(value, dtype):
    """A state dict with its tensors of numbers converted, but for the step counters."""
    if isinstance(value, dict):
        return {
            key: part if key == "step" else as_dtype(part, dtype)
            for key, part in value.items()
        }
    return value.to(dtype) if isinstance(value, Tensor) and value.dim() else value


def continue_from(optimizer, source):
    """Take over the parameters and the state of another optimizer, converted."""
    dtype = params_of(optimizer)[0].dtype
    # torch would share what it loads.
    state = as_dtype(deepcopy(source.state_dict()["state"]), dtype)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    with torch.no_grad():
        for param, other in zip(params_of(optimizer), params_of(source), strict=True):
            param.copy_(other)


def numbers(optimizer):
    """All tensors of numbers: the parameters and their state."""
    found = {}
    for index, param in enumerate(params_of(optimizer)):
        found[f"params[{index}]"] = param.detach()
        for key, value in optimizer.state.get(param, {}).items():
            if isinstance(value, Tensor) and key != "step":
                found[f"state[{index}][{key!r}]"] = value
    return found


def half_an_ulp(exact):
    """Half the distance between bfloat16 numbers, at each number of a tensor."""
    exponent = exact.abs().frexp().exponent
    return torch.ldexp(torch.ones_like(exact), exponent - 9)


def advance_rounded(name, optimizer, step):
    """Do a step on gradients that are bfloat16 numbers, whatever the dtype."""
    give_gradients(name, params_of(optimizer), step)
    for param in params_of(optimizer):
        if param.grad is not None:
            param.grad = param.grad.to(torch.bfloat16).to(param.dtype)
    optimizer.step()


def steps_from_same_state(name, source, other):
    """Let both do each step from where ``source`` is; yield magnitudes before it."""
    for step in range(WARM_UP):
        advance_rounded(name, source, step)
    for step in range(WARM_UP, STEPS):
        continue_from(other, source)
        before = {where: largest(value) for where, value in numbers(source).items()}
        advance_rounded(name, other, step)
        advance_rounded(name, source, step)
        yield before


@every_rule
def test_a_step_is_the_exact_one_rounded_once(name, arguments):
    """Half a unit in the last place from what torch computes in float64."""
    narrow = build(name, ours(name), torch.bfloat16, arguments)
    exact = build(name, reference(name), torch.float64, arguments)
    for before in steps_from_same_state(name, narrow, exact):
        due = numbers(exact)
        for where, value in numbers(narrow).items():
            scale = max(before[where], largest(due[where]))
            float32_error = 2 * case_of(name).ulps * 2**-23 * scale
            error = (value.double() - due[where].double()).abs()
            bound = half_an_ulp(due[where].double()) + float32_error
            assert (error <= bound).all(), where


@every_rule
@pytest.mark.parametrize("engine", ["default", "eager"])
def test_a_step_is_the_float32_step_rounded_once(name, arguments, engine):
    """The rule is computed in float32, whatever the tensors are stored in."""
    if engine == "eager" and takes(name, "foreach"):
        arguments = {**arguments, "foreach": False}
    narrow = build(name, ours(name), torch.bfloat16, arguments)
    wide = build(name, ours(name), torch.float32, arguments)
    for _ in steps_from_same_state(name, narrow, wide):
        rounded = as_dtype(numbers(wide), torch.bfloat16)
        due = {key: rounded[key].to(v.dtype) for key, v in numbers(narrow).items()}
        assert_same(numbers(narrow), due)


@every_rule
def test_a_step_is_near_torchs(name, arguments):
    """A few units in the last place at the tensor's scale, and torch's state layout."""
    actual = build(name, ours(name), torch.bfloat16, arguments)
    expected = build(name, reference(name), torch.bfloat16, arguments)
    for before in steps_from_same_state(name, expected, actual):
        due = numbers(expected)
        assert list(numbers(actual)) == list(due)
        for where, value in numbers(actual).items():
            scale = max(before[where], largest(due[where]))
            error = largest(value.double() - due[where].double())
            assert value.dtype == due[where].dtype, where
            assert error <= TORCH_ULPS * 2**-7 * scale, where
