"""Steps that a loss scaler leaves out, and steps that are forgotten."""

import warnings

import pytest
import torch
from torch.amp import GradScaler

import polyak.lr_scheduler as ours
from tests.lr_scheduler.harness import (
    both_optimizers,
    cases,
    driven,
    every_case,
    start,
)
from tests.lr_scheduler.nodes import sgd


def scaled_step(run, scaler, *, overflow):
    """A step as AMP users write it."""
    scale = scaler.scale(torch.tensor(1.0)).item()
    for group in run.optimizer.param_groups:
        for param in group["params"]:
            param.grad = torch.ones_like(param) * scale
            if overflow:
                param.grad[0] = float("inf")
    scaler.step(run.optimizer)
    scaler.update()
    run.step_scheduler()


@every_case
@both_optimizers
def test_an_overflow_at_the_first_step_does_not_warn(label, optimizers):
    """The scaler was right to leave the step out. By default the schedule goes on."""
    run = start(label, optimizers=optimizers)
    scaler = GradScaler("cpu", init_scale=4.0)
    scaled_step(run, scaler, overflow=True)
    scaled_step(run, scaler, overflow=False)
    scaled_step(run, scaler, overflow=True)
    expected = start(label).steps(3)
    assert driven(run.optimizer) == driven(expected.optimizer)


@every_case
@both_optimizers
def test_a_schedule_can_follow_the_optimizer(label, optimizers):
    """``follows_optimizer``: where no step was done, the schedule does not advance."""
    run = start(label, optimizers=optimizers)
    run.scheduler.follows_optimizer = True
    scaler = GradScaler("cpu", init_scale=4.0)
    expected = start(label)
    for overflow in (True, False, True, True, False, False):
        before = run.seen()
        scaled_step(run, scaler, overflow=overflow)
        if overflow:
            assert run.seen() == before
        else:
            # The metric of this epoch, whatever became of the earlier ones.
            expected.epoch = run.epoch - 1
            expected.step()
            assert run.seen() == expected.seen()


@cases(lambda case: not case.metrics)
def test_following_survives_a_checkpoint(label):
    """The count of steps is the process's own; the choice is saved or made again."""
    run = start(label)
    run.scheduler.follows_optimizer = True
    run.steps(4)
    other = start(label)
    other.scheduler.follows_optimizer = True
    other.scheduler.load_state_dict(run.scheduler.state_dict())
    other.scheduler.step()
    assert other.seen() == run.seen()
    other.epoch = run.epoch
    other.step()
    run.step()
    assert other.seen() == run.seen()


# torch's warm restarts, whose step takes fractions of an epoch, do not warn.
@cases(
    lambda case: not case.metrics and case.node.name != "CosineAnnealingWarmRestarts"
)
@both_optimizers
def test_a_forgotten_step_warns(label, optimizers):
    """``scheduler.step()`` before ``optimizer.step()``, in torch's words, once."""
    run = start(label, optimizers=optimizers)
    if type(run.scheduler).__name__ == "CosineAnnealingWarmRestarts":
        pytest.skip("torch's takes fractions of an epoch, and does not warn")
    with pytest.warns(
        UserWarning,
        match=r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`",
    ) as caught:
        run.scheduler.step()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    run.step()


@both_optimizers
def test_no_warning_where_the_optimizer_has_stepped_before(optimizers):
    """A scheduler that is built late, mid-training."""
    optimizer = sgd(library=optimizers)
    optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = ours.StepLR(optimizer, 2)
        optimizer.step()
        first.step()
        second = ours.StepLR(optimizer, 2)
        optimizer.step()
        second.step()


@both_optimizers
def test_no_warning_for_a_loaded_optimizer(optimizers):
    """Its steps were done in another process."""
    optimizer = sgd(library=optimizers)
    optimizer.step()
    other = sgd(library=optimizers)
    other.load_state_dict(optimizer.state_dict())
    scheduler = ours.StepLR(other, 2)
    other.step()
    scheduler.step()


def test_an_optimizer_whose_step_was_replaced():
    """By a wrapper of the user's: the step is counted, and nothing warns."""
    optimizer = sgd()
    inner = optimizer.step
    optimizer.step = lambda closure=None: inner(closure)
    scheduler = ours.StepLR(optimizer, 1, 0.5)
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == [0.05]
