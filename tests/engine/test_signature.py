"""The signature of a rule, and the values that it is given."""

import functools

import pytest
import torch

from polyak import Slot

from .support import engines, parameter, probe


def without_grad(param, *, lr): ...
def with_self(self, param, grad, *, lr): ...
def with_args(param, grad, *slots, lr): ...
def with_kwargs(param, grad, **hyperparameters): ...
def positional_only(param, grad, buffer, /, *, lr): ...
def complete(param, grad, buffer, *, step, lr, weight_decay): ...


@pytest.mark.parametrize(
    "rule",
    [without_grad, with_self, with_args, with_kwargs, positional_only],
    ids=lambda rule: rule.__name__,
)
def test_a_wrong_signature_is_refused_with_the_class(rule):
    """What is no rule is a TypeError when the class is made, naming the class."""
    with pytest.raises(TypeError, match=r"Probe\.rule\("):
        probe(rule)


def test_a_forgotten_staticmethod_is_named():
    """A rule that takes self gets the remedy."""
    with pytest.raises(TypeError, match="@staticmethod"):
        probe(with_self)


def test_a_declared_slot_must_be_taken():
    """``slots`` cannot name what the rule does not take."""
    with pytest.raises(TypeError, match=r"Probe\.slots declares bufer"):
        probe(complete, {"bufer": Slot()})


def test_a_step_must_be_counted():
    """A rule that takes the step needs the counter."""
    with pytest.raises(TypeError, match="counts_steps"):
        probe(complete, counts_steps=False)


def test_a_hyperparameter_that_the_groups_lack_is_named():
    """A rule that wants what no group has says so, by name."""
    with pytest.raises(Exception, match="weight_decay") as error:
        probe(complete)([parameter([1.0], [1.0])], lr=0.1).step()
    assert not isinstance(error.value, KeyError)


def test_a_hyperparameter_may_be_a_function():
    """What is no number is passed as it is; another one gets another kernel."""

    def rule(param, grad, *, lr, shape):
        return param - lr * shape(grad)

    param = parameter([1.0], [4.0])
    optimizer = probe(rule)([param], lr=0.25, shape=torch.sqrt)
    optimizer.step()
    assert param.item() == 0.5
    optimizer.param_groups[0]["shape"] = torch.sign
    optimizer.step()
    assert param.item() == 0.25
    assert engines(optimizer) == "kernel"


@pytest.mark.parametrize("value", [{"lr": 0.25}, {0.25}, torch.ones(2)], ids=str)
def test_a_hyperparameter_that_no_kernel_can_stand_on_is_refused(value):
    """What may change inside is refused with what is possible."""

    def rule(param, grad, *, table):
        return param

    with pytest.raises(TypeError, match="numbers, 1-element tensors, strings"):
        probe(rule)([parameter([1.0], [1.0])], table=value).step()


def wrapped(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize(
    "decorate",
    [wrapped, torch.no_grad(), functools.partial],
    ids=["wraps", "no_grad", "partial"],
)
def test_a_decorated_rule_is_a_rule(decorate):
    """A rule may be wrapped: its signature is that of what it wraps."""

    @decorate
    def rule(param, grad, buffer, *, lr):
        local = buffer + grad
        return param - lr * local, local

    param = parameter([1.0], [1.0])
    optimizer = probe(rule)([param], lr=0.5)
    optimizer.step()
    assert engines(optimizer) == "kernel"
    assert (param.item(), optimizer.state[param]["buffer"].item()) == (0.5, 1.0)
