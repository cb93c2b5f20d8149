"""torch's schedulers drive every optimizer to the values that torch's ends at."""

import pytest
import torch
from torch.optim import lr_scheduler

import polyak
from tests.contract.comparison import assert_same, assert_same_training
from tests.contract.harness import (
    advance,
    before_lr_changes,
    case_of,
    every_optimizer,
    every_separable_optimizer,
    make,
    ours,
    parameters,
    params_of,
    reference,
)

STEPS = 8

SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, step_size=2, gamma=0.5),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=5),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(
        o,
        max_lr=0.1,
        total_steps=STEPS + 1,
        cycle_momentum=any(key in o.defaults for key in ("momentum", "betas")),
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (step + 1)),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o,
        [
            lr_scheduler.LinearLR(o, start_factor=0.1, total_iters=3),
            lr_scheduler.ExponentialLR(o, gamma=0.7),
        ],
        milestones=[3],
    ),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(
        o, T_0=3
    ),
}


def trained(name, kind, scheduler, lr):
    """An optimizer after training with a scheduler, and the rates it had."""
    optimizer = make(kind, parameters(name), {**case_of(name).stateful, "lr": lr})
    schedule = SCHEDULERS[scheduler](optimizer)
    rates = []
    for step in range(STEPS):
        advance(name, optimizer, params_of(optimizer), step)
        before_lr_changes(name, optimizer)
        schedule.step(*([1.0] if scheduler == "ReduceLROnPlateau" else []))
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return optimizer, rates


@every_optimizer
@pytest.mark.parametrize("lr", [0.05, torch.tensor(0.05)], ids=["number", "tensor"])
@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
def test_values_are_those_of_torchs_optimizer(name, scheduler, lr):
    """The same rates, bit for bit, and the same parameters and state."""
    actual, rates = trained(name, ours(name), scheduler, lr)
    expected, due = trained(name, reference(name), scheduler, lr)
    assert rates == due
    assert len(set(rates)) > 1
    assert_same(
        actual.state_dict()["param_groups"], expected.state_dict()["param_groups"]
    )
    assert_same_training(actual, expected, case_of(name).ulps * STEPS, {})


@every_optimizer
@pytest.mark.parametrize("scheduler", ["OneCycleLR", "LambdaLR", "SequentialLR"])
def test_polyaks_schedulers_do_the_same(name, scheduler, monkeypatch):
    """On every optimizer: rates and momentum but for rounding, and the steps."""
    expected, due = trained(name, reference(name), scheduler, 0.05)
    monkeypatch.setitem(globals(), "lr_scheduler", polyak.lr_scheduler)
    actual, rates = trained(name, ours(name), scheduler, 0.05)
    assert rates == pytest.approx(due, rel=1e-14)
    assert_same_training(actual, expected, case_of(name).ulps * STEPS, {})


@every_optimizer
def test_a_schedule_sets_every_number_of_a_group(name):
    """Each hyperparameter that is a number, not the rate alone."""
    optimizer = make(ours(name), parameters(name), case_of(name).stateful)
    begin = {
        key: value
        for key, value in optimizer.param_groups[0].items()
        if type(value) is float and value
    }
    half = polyak.schedules.constant(0.5)
    scheduler = polyak.Scheduler(optimizer, **dict.fromkeys(begin, half))
    for step in range(2):
        advance(name, optimizer, params_of(optimizer), step)
        scheduler.step()
    group = optimizer.param_groups[0]
    assert {key: group[key] for key in begin} == {k: v / 2 for k, v in begin.items()}


@every_optimizer
def test_a_scheduler_does_not_see_a_step_that_was_none(name):
    """The scheduler's counter of the optimizer's steps, which it warns by."""
    optimizer = make(ours(name), parameters(name), {})
    schedule = lr_scheduler.StepLR(optimizer, 1)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        schedule.step()
    optimizer = make(ours(name), parameters(name), {})
    schedule = lr_scheduler.StepLR(optimizer, 1)
    advance(name, optimizer, params_of(optimizer), 0)
    schedule.step()


@every_separable_optimizer
def test_schedules_over_several_groups(name):
    """Each group has its own rate."""
    pair = []
    for kind in (ours(name), reference(name)):
        optimizer = kind(
            [
                {"params": param, "lr": 0.1 / (index + 1)}
                for index, param in enumerate(parameters(name))
            ]
        )
        schedule = lr_scheduler.LambdaLR(
            optimizer,
            [
                lambda step, k=k: 0.9 ** (step * k)
                for k in range(len(optimizer.param_groups))
            ],
        )
        for step in range(STEPS):
            advance(name, optimizer, params_of(optimizer), step)
            schedule.step()
        pair.append(optimizer)
    assert_same_training(*pair, case_of(name).ulps * STEPS, {})
