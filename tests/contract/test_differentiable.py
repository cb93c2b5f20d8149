"""With ``differentiable=True`` gradients flow through the step, as through torch's."""

import pytest
import torch
from torch import Tensor

from tests.contract.case import Case
from tests.contract.comparison import assert_same
from tests.contract.harness import (
    NAMES,
    argument_sets,
    find_case,
    make,
    ours,
    reference,
    takes,
)

DIFFERENTIABLE = [name for name in NAMES if takes(name, "differentiable")]
# The optimizers whose hyperparameters torch's own tests differentiate by, and those.
TESTED_BY_TORCH = ("Adam", "AdamW", "SGD")
HYPERPARAMETERS = {
    "lr": lambda value: {"lr": value},
    "weight_decay": lambda value: {"lr": 0.3, "weight_decay": value},
    "betas": lambda value: {"lr": 0.3, "betas": (value, value + 0.05)},
}


@pytest.fixture
def float64_counters():
    """Step counters in float64: torch computes scalars in their precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def cases():
    """Each optimizer that can be differentiated, with each set of arguments."""
    for name in DIFFERENTIABLE:
        for set_name, arguments in argument_sets(name).items():
            if "lr" not in arguments or not isinstance(arguments["lr"], Tensor):
                yield pytest.param(name, arguments, id=f"{name}-{set_name}")


def randn(seed):
    """Ten numbers in float64, with gradients, none of them near zero."""
    rng = torch.Generator().manual_seed(seed)
    numbers = torch.randn(10, dtype=torch.float64, generator=rng)
    return (numbers + 0.3 * numbers.sign()).requires_grad_()


def some_state(name, arguments):
    """A parameter's state with values like weights, ready to be differentiated by."""
    param = randn(5).detach().requires_grad_()
    optimizer = make(reference(name), [param], arguments)
    for seed in (6, 7):
        param.grad = randn(seed).detach()
        optimizer.step()
    state = optimizer.state[param]
    for index, (key, value) in enumerate(state.items()):
        if isinstance(value, Tensor) and value.dim():
            # Positive and alike: no root of a negative number, no maximum near a tie.
            rng = torch.Generator().manual_seed(20 + index)
            state[key] = 0.5 + 0.1 * torch.rand(10, dtype=value.dtype, generator=rng)
            state[key].requires_grad_()
        elif isinstance(value, Tensor):
            # torch computes scalars in the precision of the counter.
            state[key] = value.double()
    return dict(state)


def step_from(kind, arguments, param, grad, state):
    """The parameter and its differentiable state after a step, as functions."""
    param = param.clone()
    param.grad = grad
    # The state may be written in place, like the parameter.
    state = {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}
    optimizer = make(kind, [param], {**arguments, "differentiable": True})
    optimizer.state[param].update(state)
    optimizer.step()
    after = optimizer.state[param]
    return (param, *(after[key] for key, value in state.items() if tracked(value)))


def tracked(value):
    """Whether a state value takes part in differentiation."""
    return isinstance(value, Tensor) and value.requires_grad


@pytest.mark.parametrize(("name", "arguments"), list(cases()))
def test_gradients_are_those_through_torchs_step(name, arguments):
    """By the parameter, the gradient and the state; values are the same, too."""
    found = []
    for kind in (ours(name), reference(name)):
        state = some_state(name, arguments)
        inputs = [randn(1), randn(2), *filter(tracked, state.values())]
        outputs = step_from(kind, arguments, *inputs[:2], state)
        weights = [randn(10 + index).detach() for index in range(len(outputs))]
        total = sum((w * o).sum() for w, o in zip(weights, outputs, strict=True))
        gradients = torch.autograd.grad(total, inputs, materialize_grads=True)
        found.append([*(output.detach() for output in outputs), *gradients])
    assert_same(*found, ulps=64)


@pytest.mark.parametrize(("name", "arguments"), list(cases()))
def test_gradients_are_those_of_finite_differences(name, arguments):
    """By the parameter, the gradient and the state."""
    state = some_state(name, arguments)
    keys = [key for key, value in state.items() if tracked(value)]

    def step(param, grad, *values):
        given = {**state, **dict(zip(keys, values, strict=True))}
        return step_from(ours(name), arguments, param, grad, given)

    inputs = (randn(1), randn(2), *(state[key] for key in keys))
    assert torch.autograd.gradcheck(step, inputs)


def gradient_at(param):
    """A gradient that depends on the parameter as it is now."""
    now = param.clone()
    return 0.5 * now**2 + now


def hypergradient_cases():
    """Each optimizer with each hyperparameter that may be a tensor."""
    for name in DIFFERENTIABLE:
        for key in HYPERPARAMETERS:
            by_torch = name in TESTED_BY_TORCH and takes(name, key)
            lr_flows = not (find_case(name) or Case()).lr_in_state
            if by_torch or (key == "lr" and lr_flows):
                yield name, key


@pytest.mark.parametrize(("name", "key"), list(hypergradient_cases()))
def test_hypergradients_are_those_of_finite_differences(name, key, float64_counters):
    """By a tensor hyperparameter, through steps whose gradients depend on the last."""
    value = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)

    def train(value):
        param = randn(1).clone()
        arguments = {**HYPERPARAMETERS[key](value), "differentiable": True}
        optimizer = ours(name)([param], **arguments)
        for _ in range(3):
            param.grad = gradient_at(param)
            optimizer.step()
        return param.square().sum()

    assert torch.autograd.gradcheck(train, (value,))
    assert torch.autograd.grad(train(value), value)[0].abs() > 1e-6


@pytest.mark.parametrize(
    ("name", "key"), [c for c in hypergradient_cases() if c[0] in TESTED_BY_TORCH]
)
def test_hypergradients_are_torchs(name, key, float64_counters):
    """Those that torch's own tests look at."""
    found = []
    for kind in (ours(name), reference(name)):
        value = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
        param = randn(1).clone()
        arguments = {**HYPERPARAMETERS[key](value), "differentiable": True}
        optimizer = kind([param], **arguments)
        for _ in range(3):
            param.grad = gradient_at(param)
            optimizer.step()
        found.append(torch.autograd.grad(param.square().sum(), value)[0])
    assert_same(*found, ulps=256)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_steps_leave_no_graph_where_they_are_not_differentiable(name):
    """By default a step is not recorded, whatever the grad mode."""
    param = randn(1).detach().requires_grad_()
    optimizer = make(ours(name), [param], {})
    param.grad = randn(2).detach().requires_grad_() * 2
    with torch.enable_grad():
        optimizer.step()
    assert param.is_leaf
    assert all(
        not value.requires_grad
        for value in optimizer.state.get(param, {}).values()
        if isinstance(value, Tensor)
    )


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_rate_with_gradient_is_a_number_elsewhere(name):
    """Without ``differentiable``, a tensor ``lr`` may require gradients: no warning."""
    value = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    params = []
    for lr in (value, 0.5):
        param = randn(1).detach().requires_grad_()
        optimizer = make(ours(name), [param], {"lr": lr})
        for seed in (2, 3):
            param.grad = randn(seed).detach()
            optimizer.step()
        params.append(param)
    assert_same(*params)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_differentiable_step_takes_any_rate(name):
    """Also where no gradient flows to it, because it enters the state as a number."""
    value = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    param = randn(1).clone()
    optimizer = ours(name)([param], lr=value, differentiable=True)
    for _ in range(2):
        param.grad = gradient_at(param)
        optimizer.step()
    torch.autograd.grad(param.sum(), value, allow_unused=True)
