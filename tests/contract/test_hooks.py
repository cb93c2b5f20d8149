"""Hooks run around steps and state dicts, in torch's order and with torch's powers."""

from copy import deepcopy

import pytest
import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from tests.contract.comparison import assert_same, assert_same_training
from tests.contract.harness import (
    advance,
    any_closure,
    case_of,
    every_optimizer,
    make,
    ours,
    parameters,
    params_of,
    reference,
    train,
)

both_kinds = pytest.mark.parametrize("kind", [ours, reference], ids=["polyak", "torch"])


def build(name, kind=ours):
    """An optimizer that keeps state."""
    return make(kind(name), parameters(name), case_of(name).stateful)


def closure_of(name, optimizer, step=0):
    """The closure of a step, which any optimizer takes."""
    return any_closure(name, optimizer, params_of(optimizer), step)


@every_optimizer
@both_kinds
def test_step_hooks_run_in_order(name, kind):
    """Global, then own, before the step; own, then global, after it."""
    optimizer = build(name, kind)
    other = build(name, kind)
    seen = []

    def note(label):
        return lambda *_: seen.append(label)

    handles = [
        register_optimizer_step_pre_hook(note("global before")),
        register_optimizer_step_post_hook(note("global after")),
        optimizer.register_step_post_hook(note("after 1")),
        optimizer.register_step_pre_hook(note("before 1")),
        optimizer.register_step_pre_hook(note("before 2")),
        optimizer.register_step_post_hook(note("after 2")),
    ]
    try:
        advance(name, optimizer, params_of(optimizer), 0)
        own = ["before 1", "before 2", "after 1", "after 2"]
        assert seen == ["global before", *own, "global after"]
        seen.clear()
        advance(name, other, params_of(other), 0)
        assert seen == ["global before", "global after"]
    finally:
        for handle in handles:
            handle.remove()
    seen.clear()
    advance(name, optimizer, params_of(optimizer), 1)
    assert seen == []


@every_optimizer
@both_kinds
def test_step_hooks_see_the_call(name, kind):
    """The optimizer, and the arguments with the optimizer in front."""
    optimizer = build(name, kind)
    closure = closure_of(name, optimizer)
    seen = []
    optimizer.register_step_pre_hook(lambda *call: seen.append(call))
    optimizer.register_step_post_hook(lambda *call: seen.append(call))
    optimizer.step(closure)
    optimizer.step(closure=closure)
    assert seen == [
        (optimizer, (optimizer, closure), {}),
        (optimizer, (optimizer, closure), {}),
        (optimizer, (optimizer,), {"closure": closure}),
        (optimizer, (optimizer,), {"closure": closure}),
    ]


@every_optimizer
@both_kinds
def test_a_pre_hook_may_replace_the_arguments(name, kind):
    """What it returns is what the step and the hooks after it receive."""
    optimizer = build(name, kind)
    inner = closure_of(name, optimizer)
    calls = []

    def replacement():
        calls.append("replacement")
        return inner()

    def replace(opt, args, kwargs):
        return (opt, replacement), {}

    received = []
    optimizer.register_step_pre_hook(replace)
    optimizer.register_step_pre_hook(lambda _, args, kwargs: received.append(args))
    optimizer.register_step_post_hook(lambda _, args, kwargs: received.append(args))
    optimizer.step(lambda: pytest.fail("was replaced"))
    assert calls
    assert received == [(optimizer, replacement)] * 2


@every_optimizer
@both_kinds
def test_a_pre_hook_that_returns_something_else_is_refused(name, kind):
    """Neither None nor a pair: RuntimeError, before anything is done."""
    optimizer = build(name, kind)
    before = deepcopy(params_of(optimizer))
    handle = optimizer.register_step_pre_hook(lambda *_: "step")
    with pytest.raises(RuntimeError, match="must return None or a tuple"):
        optimizer.step(closure_of(name, optimizer))
    assert_same(params_of(optimizer), before)
    handle.remove()
    advance(name, optimizer, params_of(optimizer), 0)


@every_optimizer
def test_a_pre_hook_may_change_gradients_and_groups(name):
    """What it does there counts in the same step."""
    optimizers = []
    for kind in (ours, reference):
        optimizer = build(name, kind)

        def halve(opt, args, kwargs):
            for group in opt.param_groups:
                group["lr"] = group["lr"] / 2
            for param in params_of(opt):
                if param.grad is not None:
                    param.grad = param.grad * 0.5

        optimizer.register_step_pre_hook(halve)
        train(name, optimizer, params_of(optimizer), range(4))
        optimizers.append(optimizer)
    assert_same_training(*optimizers, case_of(name).ulps * 8)


@every_optimizer
@both_kinds
def test_hooks_may_remove_themselves(name, kind):
    """A hook that runs once, by its own handle; polyak's also while hooks run."""
    optimizer = build(name, kind)
    calls = []
    handle = optimizer.register_step_post_hook(lambda *_: calls.append("always"))
    advance(name, optimizer, params_of(optimizer), 0)
    handle.remove()
    advance(name, optimizer, params_of(optimizer), 1)
    assert calls == ["always"]
    if kind is ours:
        once = optimizer.register_step_pre_hook(lambda *_: once.remove())
        advance(name, optimizer, params_of(optimizer), 2)
        assert not optimizer._optimizer_step_pre_hooks


@every_optimizer
@both_kinds
def test_state_dict_hooks_run_in_order(name, kind):
    """``prepend`` puts one before those there are."""
    optimizer = build(name, kind)
    seen = []

    def note(label):
        return lambda *_: seen.append(label)

    optimizer.register_state_dict_pre_hook(note("before 2"))
    optimizer.register_state_dict_pre_hook(note("before 1"), prepend=True)
    optimizer.register_state_dict_post_hook(note("after 2"))
    optimizer.register_state_dict_post_hook(note("after 1"), prepend=True)
    optimizer.register_load_state_dict_pre_hook(note("load before 2"))
    optimizer.register_load_state_dict_pre_hook(note("load before 1"), prepend=True)
    optimizer.register_load_state_dict_post_hook(note("load after 2"))
    optimizer.register_load_state_dict_post_hook(note("load after 1"), prepend=True)
    state = optimizer.state_dict()
    assert seen == ["before 1", "before 2", "after 1", "after 2"]
    seen.clear()
    optimizer.load_state_dict(state)
    assert seen == ["load before 1", "load before 2", "load after 1", "load after 2"]


@every_optimizer
@both_kinds
def test_state_dict_hooks_may_replace_the_dict(name, kind):
    """A post hook of ``state_dict`` and a pre hook of loading return another."""
    optimizer = build(name, kind)
    optimizer.register_state_dict_post_hook(lambda _, state: {"wrapped": state})
    optimizer.register_state_dict_post_hook(lambda _, state: state.update(note=1))
    state = optimizer.state_dict()
    assert list(state) == ["wrapped", "note"]

    def unwrap(opt, state):
        assert opt is optimizer
        return state["wrapped"]

    state["wrapped"]["param_groups"][0]["lr"] = 0.125
    optimizer.register_load_state_dict_pre_hook(unwrap)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.125


@every_optimizer
@both_kinds
def test_a_load_hook_changes_a_shallow_copy(name, kind):
    """What it adds to the dict or takes out is not the caller's."""
    optimizer = build(name, kind)
    state = optimizer.state_dict()

    def spoil(_, given):
        assert given is not state
        given["note"] = 1

    optimizer.register_load_state_dict_pre_hook(spoil)
    optimizer.load_state_dict(state)
    assert list(state) == ["state", "param_groups"]


@every_optimizer
@both_kinds
def test_state_dict_hooks_are_removed_by_their_handles(name, kind):
    """Each of the four kinds."""
    optimizer = build(name, kind)
    seen = []
    for register in (
        optimizer.register_state_dict_pre_hook,
        optimizer.register_state_dict_post_hook,
        optimizer.register_load_state_dict_pre_hook,
        optimizer.register_load_state_dict_post_hook,
    ):
        register(lambda *_: seen.append("called")).remove()
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == []


@every_optimizer
def test_a_subclass_step_runs_the_hooks_once(name):
    """Also where it calls the step that it overrides."""

    class Sub(ours(name)):
        def step(self, closure=None):
            return super().step(closure)

    optimizer = make(Sub, parameters(name), {})
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    advance(name, optimizer, params_of(optimizer), 0)
    assert seen == ["before", "after"]


@every_optimizer
def test_hooks_on_two_optimizers_that_step_inside_each_other(name):
    """A hook may step another optimizer: each runs its own hooks."""
    outer, inner = build(name), build(name)
    seen = []
    inner.register_step_pre_hook(lambda *_: seen.append("inner"))
    outer.register_step_pre_hook(
        lambda *_: advance(name, inner, params_of(inner), len(seen))
    )
    advance(name, outer, params_of(outer), 0)
    assert seen == ["inner"]
    with torch.no_grad():
        advance(name, outer, params_of(outer), 1)
    assert seen == ["inner"] * 2
