"""Copies continue bit for bit: by deepcopy, by pickle, together with their model."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch.nn import ParameterList
from torch.optim import lr_scheduler

from polyak.hooks import HOOK_KINDS
from tests.contract.comparison import assert_same, assert_same_training
from tests.contract.harness import (
    NAMES,
    advance,
    case_of,
    every_optimizer,
    make,
    ours,
    parameters,
    params_of,
    train,
)


def by_pickle(value):
    return pickle.loads(pickle.dumps(value))


def by_old_pickle(value):
    return pickle.loads(pickle.dumps(value, protocol=2))


def by_torch(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = [copy.deepcopy, by_pickle, by_old_pickle, by_torch]
every_way = pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])


def build(name, kind=None, **arguments):
    """A model and its optimizer."""
    model = ParameterList(parameters(name))
    arguments = {**case_of(name).stateful, **arguments}
    return model, make(kind or ours(name), model.parameters(), arguments)


@every_optimizer
@every_way
@pytest.mark.parametrize("steps", [0, 3], ids=["fresh", "trained"])
def test_a_model_and_its_optimizer_continue(name, way, steps):
    """The copy's optimizer trains the copy's model; the original stands still."""
    model, optimizer = build(name)
    train(name, optimizer, params_of(optimizer), range(steps))
    model_copy, other = way((model, optimizer))
    assert type(other) is ours(name)
    assert_same_training(other, optimizer)
    assert_same(other.defaults, optimizer.defaults)
    assert all(
        a is b for a, b in zip(params_of(other), model_copy.parameters(), strict=True)
    )
    before = copy.deepcopy(list(model.parameters()))
    train(name, other, params_of(other), range(steps, steps + 3))
    assert_same(list(model.parameters()), before)
    train(name, optimizer, params_of(optimizer), range(steps, steps + 3))
    assert_same_training(other, optimizer)


@every_optimizer
@every_way
def test_copies_share_nothing(name, way):
    """Neither tensors nor groups."""
    _, optimizer = build(name, lr=torch.tensor(0.01))
    train(name, optimizer, params_of(optimizer), range(2))
    other = way(optimizer)
    other.param_groups[0]["lr"].fill_(0.5)
    other.defaults["note"] = 1
    assert optimizer.param_groups[0]["lr"].item() != 0.5
    assert "note" not in optimizer.defaults
    other.state.clear()
    assert bool(optimizer.state)


@every_optimizer
def test_a_shallow_copy_shares_all(name):
    """``copy.copy`` drives the same parameters, with the same groups and hooks."""
    _, optimizer = build(name)
    train(name, optimizer, params_of(optimizer), range(2))
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append("called"))
    other = copy.copy(optimizer)
    assert all(
        a is b for a, b in zip(params_of(other), params_of(optimizer), strict=True)
    )
    assert other.state is optimizer.state
    assert other.param_groups is optimizer.param_groups
    _, control = build(name)
    train(name, control, params_of(control), range(4))
    advance(name, other, params_of(other), 2)
    advance(name, optimizer, params_of(optimizer), 3)
    assert_same_training(optimizer, control)
    assert seen == ["called"] * 2


@every_optimizer
@every_way
def test_after_a_scheduler_wrapped_the_step(name, way):
    """Its wrapper belongs to the original; a copy with its scheduler goes on alike."""
    model, optimizer = build(name)
    schedule = lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    advance(name, optimizer, params_of(optimizer), 0)
    schedule.step()
    if way is copy.deepcopy:
        model_copy, other, schedule_copy = way((model, optimizer, schedule))
        assert schedule_copy.optimizer is other
    else:
        model_copy, other = way((model, optimizer))
        schedule_copy = lr_scheduler.StepLR(other, 1, gamma=0.5, last_epoch=0)
        other.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"]
        schedule_copy.load_state_dict(schedule.state_dict())
    for each, its in ((optimizer, schedule), (other, schedule_copy)):
        for step in range(1, 4):
            advance(name, each, params_of(each), step)
            its.step()
    assert_same_training(other, optimizer)
    assert_same(other.state_dict(), optimizer.state_dict())
    assert_same(list(model_copy.parameters()), list(model.parameters()))


def module_level_hook(*_):
    """A hook that a pickle can name."""
    module_level_hook.calls += 1


module_level_hook.calls = 0


def register_all(optimizer, hook):
    """One hook of each kind."""
    optimizer.register_step_pre_hook(hook)
    optimizer.register_step_post_hook(hook)
    optimizer.register_state_dict_pre_hook(hook)
    optimizer.register_state_dict_post_hook(hook)
    optimizer.register_load_state_dict_pre_hook(hook)
    optimizer.register_load_state_dict_post_hook(hook)


def hooks_of(optimizer):
    """All hooks, by kind."""
    return {kind: list(getattr(optimizer, kind).values()) for kind in HOOK_KINDS}


@every_optimizer
@every_way
def test_module_level_hooks_are_kept(name, way):
    """By every way, and they run."""
    _, optimizer = build(name)
    register_all(optimizer, module_level_hook)
    other = way(optimizer)
    assert hooks_of(other) == {kind: [module_level_hook] for kind in HOOK_KINDS}
    module_level_hook.calls = 0
    advance(name, other, params_of(other), 0)
    other.load_state_dict(other.state_dict())
    assert module_level_hook.calls == 6


@every_optimizer
def test_local_hooks_are_kept_by_deepcopy(name):
    """A function is not copied; it is the same one."""
    _, optimizer = build(name)
    seen = []

    def hook(*_):
        seen.append("called")

    register_all(optimizer, hook)
    other = copy.deepcopy(optimizer)
    assert hooks_of(other) == hooks_of(optimizer)
    advance(name, other, params_of(other), 0)
    assert seen == ["called"] * 2


@every_optimizer
@pytest.mark.parametrize("way", [by_pickle, by_torch], ids=["by_pickle", "by_torch"])
def test_pickle_warns_of_the_hooks_it_leaves_out(name, way):
    """What cannot be pickled is left out with a warning, the rest is kept."""
    _, optimizer = build(name)

    def local_hook(*_):
        pass

    optimizer.register_step_pre_hook(local_hook)
    optimizer.register_step_pre_hook(module_level_hook)
    with pytest.warns(UserWarning, match="local_hook"):
        other = way(optimizer)
    hooks = list(other._optimizer_step_pre_hooks.values())
    assert hooks == [module_level_hook]
    assert len(optimizer._optimizer_step_pre_hooks) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        advance(name, other, params_of(other), 0)


def subclass_of(name):
    """A subclass with state of its own, which a pickle can find in this module."""

    def __init__(self, params, note, **arguments):
        self.note = note
        super(subclass, self).__init__(params, **arguments)
        self.history = [1.0, torch.ones(2)]

    label = f"Annotated{name}"
    body = {"__init__": __init__, "__module__": __name__, "__qualname__": label}
    subclass = type(label, (ours(name),), body)
    globals()[label] = subclass
    return subclass


SUBCLASSES = {name: subclass_of(name) for name in NAMES}


@every_optimizer
@every_way
def test_attributes_of_subclasses_are_kept(name, way):
    """A copy is of the same class, without its constructor being called."""
    optimizer = SUBCLASSES[name](parameters(name), note="mine")
    optimizer.later = {"best": 0.5}
    train(name, optimizer, params_of(optimizer), range(2))
    other = way(optimizer)
    assert type(other) is SUBCLASSES[name]
    assert (other.note, other.later) == ("mine", {"best": 0.5})
    assert_same(other.history, optimizer.history)
    assert other.history is not optimizer.history
    for each in (optimizer, other):
        train(name, each, params_of(each), range(2, 4))
    assert_same_training(other, optimizer)


@every_optimizer
def test_a_copy_of_a_copy(name):
    """Nothing is lost on the way."""
    _, optimizer = build(name)
    train(name, optimizer, params_of(optimizer), range(2))
    other = by_pickle(copy.deepcopy(by_torch(optimizer)))
    for each in (optimizer, other):
        train(name, each, params_of(each), range(2, 4))
    assert_same_training(other, optimizer)
