"""A step with a closure computes the loss anew, once, and returns it."""

import pytest
import torch

from tests.contract.comparison import (
    assert_nothing_changed,
    assert_same_training,
    everything,
)
from tests.contract.harness import (
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


def trained(name, kind=None, steps=2):
    """An optimizer after some steps."""
    optimizer = make(kind or ours(name), parameters(name), case_of(name).stateful)
    train(name, optimizer, params_of(optimizer), range(steps))
    return optimizer


@every_optimizer
@pytest.mark.parametrize("outside", ["no_grad", "enable_grad"])
def test_the_closure_runs_with_gradients_enabled(name, outside):
    """Whatever the mode around the step, which is as before after it."""
    optimizer = trained(name)
    closure = any_closure(name, optimizer, params_of(optimizer), 2)
    modes = []

    def watched():
        modes.append(torch.is_grad_enabled())
        return closure()

    with getattr(torch, outside)():
        before = torch.is_grad_enabled()
        optimizer.step(watched)
        assert torch.is_grad_enabled() == before
    assert all(modes)
    if not case_of(name).closure:
        assert len(modes) == 1


@every_optimizer
@pytest.mark.parametrize("by_name", [False, True], ids=["positional", "keyword"])
def test_the_loss_is_returned(name, by_name):
    """The object itself that the closure returned first."""
    optimizer = trained(name)
    closure = any_closure(name, optimizer, params_of(optimizer), 2)
    losses = []

    def watched():
        losses.append(closure())
        return losses[-1]

    result = optimizer.step(closure=watched) if by_name else optimizer.step(watched)
    assert result is losses[0]


@every_optimizer
def test_closures_give_torchs_steps(name):
    """Values and state, step for step."""
    actual, expected = trained(name), trained(name, reference(name))
    scales = {}
    for step in range(2, 6):
        for optimizer in (actual, expected):
            params = params_of(optimizer)
            optimizer.step(any_closure(name, optimizer, params, step))
        assert_same_training(actual, expected, case_of(name).ulps * 8, scales)


@every_optimizer
@pytest.mark.parametrize("steps", [0, 2], ids=["first_step", "later_step"])
def test_an_exception_in_the_closure_changes_nothing(name, steps):
    """It comes through; the next step is as if nothing had been."""
    optimizer, control = trained(name, steps=steps), trained(name, steps=steps)
    before = everything(optimizer)

    def failing():
        raise KeyError("no data")

    with torch.no_grad(), pytest.raises(KeyError, match="no data"):
        optimizer.step(failing)
    assert torch.is_grad_enabled()
    assert_nothing_changed(optimizer, before)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    for each in (optimizer, control):
        train(name, each, params_of(each), range(steps, steps + 2))
    assert_same_training(optimizer, control)
    assert calls == ["after"] * 2
