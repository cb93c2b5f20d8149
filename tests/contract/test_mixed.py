"""Mixed keeps the promises of each optimizer in it: every one, beside another."""

import copy
import io
import pickle

import pytest
import torch

import polyak
from tests.contract.case import LAYOUTS
from tests.contract.comparison import assert_same, assert_same_training
from tests.contract.harness import (
    case_of,
    give_gradients,
    make,
    optimizers,
    ours,
    parameters,
    params_of,
)

every_mixable = optimizers(lambda case: not case.closure)


def partner(name):
    """An optimizer that takes anything, and is another."""
    return "SGD" if name == "Adam" else "Adam"


def parts(name, layouts=LAYOUTS):
    """Both optimizers, each on parameters of every layout that it takes."""
    other = partner(name)
    return (
        make(ours(name), parameters(name, layouts), case_of(name).stateful),
        make(ours(other), parameters(other, layouts), {"lr": 0.05}),
    )


def give(name, own, others, step):
    """Each its gradients, some of them none, some laid out as parameters never are."""
    alike = step % 3 != 2
    give_gradients(name, own, step, like_params=alike)
    give_gradients(partner(name), others, step + 1, like_params=alike)


def train(name, mixed, count, steps):
    """Steps of Mixed, whose first ``count`` parameters are the optimizer's."""
    params = params_of(mixed)
    for step in steps:
        give(name, params[:count], params[count:], step)
        mixed.step()


@every_mixable
def test_each_does_what_it_does_alone(name):
    """Bit for bit, on every layout, with gradients that are missing now and then."""
    first, second = parts(name)
    mixed = polyak.Mixed(*parts(name))
    for step in range(5):
        give(name, params_of(first), params_of(second), step)
        first.step()
        second.step()
    train(name, mixed, len(params_of(first)), range(5))
    both = [*params_of(first), *params_of(second)]
    assert_same(params_of(mixed), both)
    states = {**first.state, **second.state}
    assert_same(
        [mixed.state.get(param) for param in params_of(mixed)],
        [states.get(param) for param in both],
    )


def by_file(optimizer):
    """What a file keeps, loaded as torch.load does without running code."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    fresh = polyak.Mixed(*parts_like(optimizer))
    fresh.load_state_dict(torch.load(file, weights_only=True))
    return fresh


def parts_like(optimizer):
    """New optimizers of the same classes, on copies of the same parameters."""
    return [
        make(
            ours(group["optimizer"]),
            [torch.nn.Parameter(param.detach().clone()) for param in group["params"]],
            {},
        )
        for group in optimizer.param_groups
    ]


WAYS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)),
    "file": by_file,
}


@every_mixable
@pytest.mark.parametrize("way", WAYS)
def test_copies_and_checkpoints_continue(name, way):
    """Bit for bit."""
    layouts = ("matrix", "vector", "transposed")
    mixed = polyak.Mixed(*parts(name, layouts))
    count = len(mixed.param_groups[0]["params"])
    train(name, mixed, count, range(3))
    other = WAYS[way](mixed)
    for optimizer in (mixed, other):
        train(name, optimizer, count, range(3, 6))
    assert_same_training(other, mixed)


@every_mixable
def test_gradients_are_left_as_they_are_and_then_dropped(name):
    """The step reads them, ``zero_grad`` drops those of all."""
    mixed = polyak.Mixed(*parts(name))
    params, count = params_of(mixed), len(mixed.param_groups[0]["params"])
    give(name, params[:count], params[count:], 0)
    grads = [param.grad for param in params]
    before = copy.deepcopy(grads)
    mixed.step()
    assert all(p.grad is g for p, g in zip(params, grads, strict=True))
    assert_same(grads, before)
    mixed.zero_grad()
    assert all(param.grad is None for param in params)


@every_mixable
def test_a_step_without_gradients_does_nothing(name):
    """No state, and every bit as it was."""
    mixed = polyak.Mixed(*parts(name))
    before = [param.detach().tolist() for param in params_of(mixed)]
    mixed.step()
    assert [param.detach().tolist() for param in params_of(mixed)] == before
    assert not any(mixed.state.get(param) for param in params_of(mixed))
