"""The same bits as torch's schedulers, where those are computed without a history."""

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from polyak import schedules as s

STEPS = 60


def make(scheduler, *args, lr=1.0, **keywords):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=lr)
    optimizer.param_groups[0]["momentum"] = 0.9
    optimizer.defaults["momentum"] = 0.9
    return optimizer, scheduler(optimizer, *args, **keywords)


def walked(scheduler, *args, steps=STEPS, **keywords):
    """torch's rates and momenta, step by step."""
    optimizer, schedule = make(scheduler, *args, **keywords)
    rates, momenta = [], []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        schedule.step()
    return rates, momenta


def closed(scheduler, *args, **keywords):
    """torch's closed form, at a base value of 1."""
    _, schedule = make(scheduler, *args, **keywords)
    rates = []
    for schedule.last_epoch in range(STEPS):
        rates += schedule._get_closed_form_lr()
    return rates


@pytest.mark.parametrize(
    ("schedule", "scheduler", "args"),
    [
        (s.step(7, 0.3), theirs.StepLR, (7, 0.3)),
        (s.multistep([3, 9, 9, 20], 0.3), theirs.MultiStepLR, ([3, 9, 9, 20], 0.3)),
        (s.exponential(0.97), theirs.ExponentialLR, (0.97,)),
        (s.polynomial(37, 0.9), theirs.PolynomialLR, (37, 0.9)),
        (s.cosine(37, 0.1, True), theirs.CosineAnnealingLR, (37, 0.1)),
    ],
    ids=repr,
)
def test_closed_form(schedule, scheduler, args):
    assert [schedule.value_at(k) for k in range(STEPS)] == closed(scheduler, *args)


def test_linear():
    ours = [s.linear(0.3, 0.9, 37).value_at(k) for k in range(37)]
    assert ours == closed(theirs.LinearLR, 0.3, 0.9, 37)[:37]


@pytest.mark.parametrize(("first", "mult"), [(7, 1), (3, 2), (1, 3)])
def test_warm_restarts(first, mult):
    rates, _ = walked(theirs.CosineAnnealingWarmRestarts, first, mult, eta_min=0.1)
    schedule = s.cosine_restarts(first, mult, 0.1)
    assert [schedule.value_at(k) for k in range(STEPS)] == rates


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
@pytest.mark.parametrize(("up", "down"), [(4, None), (5, 11), (7, 3)])
def test_cyclic(mode, up, down):
    rates, momenta = walked(
        theirs.CyclicLR, 0.001, 0.37, up, down, mode, 0.97, base_momentum=0.83
    )
    schedule = s.cyclic(370, up, down, mode, 0.97)
    heights = [schedule.height(k) for k in range(STEPS)]
    scaled = mode == "exp_range"  # rounded in another order
    assert [0.001 + (0.37 - 0.001) * h for h in heights] == (
        pytest.approx(rates, rel=1e-15) if scaled else rates
    )
    assert [0.9 - (0.9 - 0.83) * h for h in heights] == (
        pytest.approx(momenta, rel=1e-15) if scaled else momenta
    )
    assert [0.001 * schedule.value_at(k) for k in range(STEPS)] == pytest.approx(rates)


@pytest.mark.parametrize("by", ["cycle", "iterations"])
def test_cyclic_with_a_function(by):
    def scale(x):
        return 1 / (x + 1)

    rates, _ = walked(theirs.CyclicLR, 0.001, 0.37, 5, 3, scale_fn=scale, scale_mode=by)
    schedule = s.cyclic(370, 5, 3, scale=scale, scale_by=by)
    heights = (schedule.height(k) for k in range(STEPS))
    assert [0.001 + (0.37 - 0.001) * h for h in heights] == pytest.approx(
        rates, rel=1e-14
    )


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("pct", [0.0, 0.05, 0.3, 0.45, 1 / 3])
def test_one_cycle(anneal, three_phase, pct):
    rates, momenta = walked(
        theirs.OneCycleLR,
        0.37,
        STEPS,
        pct_start=pct,
        anneal_strategy=anneal,
        div_factor=23.0,
        final_div_factor=1e3,
        three_phase=three_phase,
    )
    initial = 0.37 / 23.0
    schedule = s.one_cycle(STEPS, pct, anneal, 23.0, 1e3, three_phase)
    levels = initial, 0.37, initial / 1e3
    assert [schedule.between(k, *levels) for k in range(STEPS)] == rates
    assert [schedule.between(k, 0.95, 0.85, 0.95) for k in range(STEPS)] == momenta
    assert [0.37 * schedule.value_at(k) for k in range(STEPS)] == pytest.approx(rates)
