"""A step changes what has a gradient, and nothing else."""

import pytest
import torch
from torch.nn import Parameter

from tests.contract.comparison import assert_nothing_changed, assert_same, everything
from tests.contract.harness import (
    case_of,
    every_given_gradients,
    every_optimizer,
    give_gradients,
    make,
    ours,
    parameters,
    params_of,
    train,
)


@every_given_gradients
@pytest.mark.parametrize("steps", [0, 2], ids=["fresh", "trained"])
def test_a_step_without_gradients_does_nothing(name, steps):
    """No parameter, no state and no group changes, and no state is made."""
    optimizer = make(ours(name), parameters(name), case_of(name).stateful)
    train(name, optimizer, params_of(optimizer), range(steps))
    optimizer.zero_grad()
    before = everything(optimizer)
    assert optimizer.step() is None
    assert_nothing_changed(optimizer, before)
    assert bool(optimizer.state) == bool(steps)


@every_given_gradients
def test_parameters_without_gradient_stand_still(name):
    """They and their state; and they join when they get one."""
    params = parameters(name)
    frozen, *others = params
    optimizer = make(ours(name), params, case_of(name).stateful)
    before = frozen.detach().clone()
    for step in range(3):
        give_gradients(name, others, step)
        frozen.grad = None
        optimizer.step()
        assert frozen not in optimizer.state
    assert_same(frozen.detach(), before)
    give_gradients(name, [frozen], 0)
    optimizer.step()
    assert not torch.equal(frozen, before)


@every_optimizer
def test_reading_the_state_of_a_new_parameter_makes_none(name):
    """``state[p]`` of a parameter without state is an empty dict, which is no state."""
    optimizer = make(ours(name), parameters(name), {})
    param = params_of(optimizer)[0]
    assert optimizer.state[param] == {}
    train(name, optimizer, params_of(optimizer), range(1))


@every_given_gradients
def test_gradients_are_left_as_they_are(name):
    """A step reads them; also where it goes up the gradient."""
    optimizer = make(ours(name), parameters(name), case_of(name).stateful)
    params = params_of(optimizer)
    for step in range(3):
        give_gradients(name, params, step)
        held = [param.grad for param in params]
        copies = [None if grad is None else grad.clone() for grad in held]
        optimizer.step()
        assert all(p.grad is g for p, g in zip(params, held, strict=True))
        assert_same(held, copies)


@every_optimizer
def test_autograd_is_told_that_parameters_changed(name):
    """A graph that needs the old value of a parameter fails, as after any write."""
    optimizer = make(ours(name), parameters(name), {})
    train(name, optimizer, params_of(optimizer), range(2))
    param = params_of(optimizer)[0]
    loss = (param * param).sum()
    train(name, optimizer, params_of(optimizer), [2])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@every_optimizer
def test_parameters_stay_leaves_and_the_same_tensors(name):
    """A step writes into their memory: no other tensor takes their place."""
    optimizer = make(ours(name), parameters(name), case_of(name).stateful)
    params = params_of(optimizer)
    addresses = [param.data_ptr() for param in params]
    train(name, optimizer, params, range(3))
    assert all(isinstance(p, Parameter) and p.is_leaf for p in params)
    assert [param.data_ptr() for param in params] == addresses
    assert all(p.requires_grad and p.grad_fn is None for p in params)
