"""swap_in_optimizer_params_and_state: other parameters and state, for a block."""

from copy import deepcopy

import pytest

import polyak
from polyak import swap_in_optimizer_params_and_state as swap_in
from tests.contract.comparison import (
    assert_nothing_changed,
    assert_same,
    assert_same_training,
    everything,
    states_of,
)
from tests.contract.harness import (
    case_of,
    every_optimizer,
    make,
    ours,
    parameters,
    params_of,
    train,
)


def trained(name, steps=range(3)):
    """An optimizer that has state, after some steps."""
    optimizer = make(ours(name), parameters(name), case_of(name).stateful)
    train(name, optimizer, params_of(optimizer), steps)
    return optimizer


def elsewhere(optimizer):
    """Other parameters and another state for an optimizer: those of a copy of it."""
    copy = deepcopy(optimizer)
    params = {f"p{i}": param for i, param in enumerate(params_of(copy))}
    for param in params.values():
        param.data.mul_(2)
    return copy, params, copy.state_dict()


def begun(optimizer):
    """The state of each parameter; None where there is nothing yet."""
    return [state or None for state in states_of(optimizer)]


@every_optimizer
def test_steps_in_the_block_are_those_of_what_was_swapped_in(name):
    """As an optimizer of these parameters does them, with hyperparameters of theirs."""
    optimizer = trained(name)
    expected, params, state = elsewhere(optimizer)
    swapped, inside = deepcopy((params, state))
    inside["param_groups"][0]["lr"] = 0.05
    expected.param_groups[0]["lr"] = 0.05
    with swap_in(optimizer, swapped, inside):
        for step in range(3, 6):
            train(name, optimizer, params_of(optimizer), [step])
            train(name, expected, params_of(expected), [step])
            assert_same(params_of(optimizer), params_of(expected))
            assert_same(begun(optimizer), begun(expected))
    assert_same(list(swapped.values()), list(params.values()))


@every_optimizer
def test_the_optimizer_is_what_it_was_afterwards(name):
    """Every bit and every object, and its next steps are those it would have done."""
    optimizer, twin = trained(name), trained(name)
    _, params, state = elsewhere(optimizer)
    before = everything(optimizer)
    with swap_in(optimizer, params, state):
        train(name, optimizer, params_of(optimizer), range(3, 5))
    assert_nothing_changed(optimizer, before)
    for each in (optimizer, twin):
        train(name, each, params_of(each), range(3, 6))
    assert_same_training(optimizer, twin)


@every_optimizer
def test_an_error_in_the_block_restores_the_optimizer(name):
    """Whatever was done to groups and state before it."""
    optimizer = trained(name)
    _, params, state = elsewhere(optimizer)
    before = everything(optimizer)
    with pytest.raises(KeyError), swap_in(optimizer, params, state):  # noqa: PT012
        optimizer.param_groups[0]["lr"] = 5.0
        optimizer.state.clear()
        raise KeyError
    assert_nothing_changed(optimizer, before)


@every_optimizer
def test_hooks_see_what_was_swapped_in(name):
    """Before and after each step in the block."""
    optimizer, seen = trained(name), []
    _, params, state = elsewhere(optimizer)

    def look(optimizer, args, kwargs):
        seen.append(params_of(optimizer))

    optimizer.register_step_pre_hook(look)
    optimizer.register_step_post_hook(look)
    with swap_in(optimizer, params, state):
        train(name, optimizer, params_of(optimizer), [3])
    assert len(seen) == 2
    for found in seen:
        assert all(a is b for a, b in zip(found, params.values(), strict=True))


def test_what_does_not_fit_is_refused():
    """In torch's words, and nothing changes."""
    optimizer = trained("AdamW")
    _, params, state = elsewhere(optimizer)
    before = everything(optimizer)
    fewer = dict(list(params.items())[:-1])
    unknown = deepcopy(state)
    unknown["param_groups"][0]["bogus"] = 1
    for given, words in (
        ((fewer, state), "match optimizer.param_groups ordering"),
        ((params, unknown), "Keys only in swap-in: \\['bogus'\\]"),
        ((params, {**state, "param_groups": []}), "different number of parameter"),
    ):
        with pytest.raises(RuntimeError, match=words), swap_in(optimizer, *given):
            pass
    assert_nothing_changed(optimizer, before)
    fresh = polyak.AdamW(parameters("AdamW"))
    with (
        pytest.raises(RuntimeError, match="requires initialized optimizer state"),
        swap_in(fresh, params, state),
    ):
        pass
