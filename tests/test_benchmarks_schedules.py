"""The benchmark of schedules measures what it says: no time is asserted here."""

import re

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as torch_schedulers

import polyak
from benchmarks import schedules
from benchmarks.timing import Times


def test_every_scheduler_of_torch_is_measured():
    measured = {text.partition("(")[0] for text in schedules.SCHEDULERS}

    assert measured == {*torch_schedulers.__all__} - {"LRScheduler"}


def test_every_schedule_is_measured():
    def in_none(name):
        return not any(re.search(rf"\b{name}\(", c) for c in schedules.CURVES)

    assert [*filter(in_none, polyak.schedules.__all__)] == [
        "Schedule",
        "absolute",
        "parse",
    ]


@pytest.mark.parametrize("text", schedules.SCHEDULERS)
def test_both_sides_of_a_schedulers_step_do_the_same(text):
    params = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    sides = [
        schedules.scheduler_of(text, library, params)
        for library in (torch_schedulers, polyak.lr_scheduler)
    ]
    for _ in range(100):
        for _, step in sides:
            step()
    (theirs, _), (ours, _) = sides

    assert type(theirs).__name__ == type(ours).__name__
    assert ours.last_epoch == 110
    assert theirs.get_last_lr() == pytest.approx(ours.get_last_lr(), rel=1e-9)


def test_schedulers_are_measured_with_each_number_of_groups():
    text = "StepLR(optimizer, 2)"
    found = [*schedules.stepped((3, 1), [text], seconds=0.0)]

    assert [(result.scheduler, result.groups) for result in found] == [
        (text, 3),
        (text, 1),
    ]
    section = schedules.section(found, [])
    assert "### `scheduler.step()`, 3 groups\n\n| scheduler | torch, µs |" in section
    assert "### `scheduler.step()`, 1 group\n" in section


def test_a_schedule_in_turn_takes_what_all_of_its_steps_would():
    curve = schedules.Curve("a | b", 1000, 10, Times((0.5, 0.25)), Times((3.0, 2.0)))

    assert curve.all_in_turn == 200
    assert "| `a \\| b` | 200000 | 250 / 375 / 500 | 800.00 |" in (
        schedules.section([], [curve])
    )


def test_schedules_are_evaluated_at_once_and_in_turn(monkeypatch):
    asked = []

    class Recorded(polyak.schedules.Schedule):
        def value_at(self, step):
            asked.append(step)

    monkeypatch.setattr(schedules, "made", lambda text, library: Recorded())
    monkeypatch.setattr(schedules, "SAMPLE", 2)
    (curve,) = schedules.curves(["anything"], steps=4, seconds=0.0)

    assert (curve.steps, curve.calls) == (4, 2)
    assert len(curve.at_once.seconds) == len(curve.in_turn.seconds) == 5
    np.testing.assert_array_equal(asked[0], [0, 1, 2, 3])
    assert asked[1:3] == [0, 1]
