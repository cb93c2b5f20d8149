"""Autograd is told of every tensor that a kernel writes."""

import pytest
import torch

import polyak
from polyak import Slot

from .support import engines, parameter, probe


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
        ("SGD", {"momentum": 0.9}),
        ("ASGD", {}),
        ("Rprop", {}),
    ],
    ids=["Adam", "SGD", "ASGD", "Rprop"],
)
def test_versions_advance_by_one(kind, options):
    """Parameters, slots and counters: once a step each. Gradients are only read."""
    params = [parameter(torch.ones(size), torch.ones(size)) for size in (3, 70_000, 0)]
    optimizer = getattr(polyak, kind)(params, lr=0.1, **options)
    optimizer.step()
    optimizer.step()
    plan = optimizer._plan
    state = [tensor for param in params for tensor in optimizer.state[param].values()]
    written = [*params, *state]
    grads = [param.grad for param in params]
    before = [tensor._version for tensor in written]
    before_grads = [grad._version for grad in grads]
    optimizer.step()
    assert engines(optimizer) == "kernel"
    assert optimizer._plan is plan
    assert [t._version for t in written] == [version + 1 for version in before]
    assert [grad._version for grad in grads] == before_grads


def test_number_slots_advance():
    """A slot that is a number is a tensor, too."""

    def rule(param, grad, speed, *, lr):
        return param - lr * grad, speed + 1

    slots = {"speed": Slot(lambda param, group: 0.0, number=True)}
    param = parameter([1.0], [1.0])
    optimizer = probe(rule, slots)([param], lr=0.1)
    optimizer.step()
    speed = optimizer.state[param]["speed"]
    before = speed._version
    optimizer.step()
    assert speed._version == before + 1


def test_idle_parameters_do_not_advance():
    """What is not written is not said to be."""
    params = [parameter([1.0], [1.0]), parameter([1.0])]
    optimizer = polyak.Adam(params)
    before = params[1]._version
    optimizer.step()
    optimizer.step()
    assert params[1]._version == before


@pytest.mark.parametrize("library", [polyak, torch.optim], ids=["polyak", "torch"])
def test_backward_through_an_old_graph_is_an_error(library):
    """A graph that needs the parameter as it was before the step: torch's own error."""
    param = parameter([1.0, 2.0])
    optimizer = library.Adam([param])
    loss = (param**2).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_views_are_told():
    """A graph that saved a view of the parameter finds out as well."""
    param = parameter(torch.ones(2, 3))
    optimizer = polyak.SGD([param], lr=0.1)
    loss = (param[0] * param[1]).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_graph_without_the_parameter_goes_on():
    """backward() twice is right where nothing that was saved has changed."""
    param, other = parameter([1.0, 2.0]), torch.tensor([3.0, 4.0])
    optimizer = polyak.SGD([param], lr=0.1)
    loss = (param * other).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    optimizer.zero_grad()
    loss.backward()
    assert torch.equal(param.grad, other)


def test_a_failing_step_tells_nothing():
    """Where nothing was written, versions stay."""
    param = parameter([1.0, 2.0], [1.0, 1.0])
    optimizer = polyak.Adam([param])
    optimizer.step()
    before = param._version
    param.grad = param.grad.to_sparse()
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert param._version == before
