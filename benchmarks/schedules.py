"""Schedulers against torch's of the same name, and schedules at a million steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import lr_scheduler as torch_schedulers

import polyak

from .markdown import number, table, times, times_faster
from .timing import Side, Times, interleave, quiet

__all__ = [
    "CURVES",
    "GROUPS",
    "SCHEDULERS",
    "Curve",
    "Stepped",
    "curves",
    "section",
    "stepped",
]

GROUPS = (1000, 1)
STEPS = 1_000_000

# Calls in a row whose time stands for that of all steps.
SAMPLE = 1000

# Expressions, made of either library. What has an end is too long to reach it.
SCHEDULERS = (
    "LambdaLR(optimizer, lambda k: 0.9999**k)",
    "MultiplicativeLR(optimizer, lambda k: 0.9999)",
    "StepLR(optimizer, 30)",
    "MultiStepLR(optimizer, [1000, 2000])",
    "ConstantLR(optimizer, total_iters=10**6)",
    "LinearLR(optimizer, total_iters=10**6)",
    "ExponentialLR(optimizer, 0.9999)",
    "PolynomialLR(optimizer, 10**6, 2.0)",
    "CosineAnnealingLR(optimizer, 10**6)",
    "CosineAnnealingWarmRestarts(optimizer, 100, 2)",
    "CyclicLR(optimizer, 0.01, 0.1, 40)",
    "OneCycleLR(optimizer, 0.1, 10**6)",
    "ReduceLROnPlateau(optimizer, patience=30)",
    "SequentialLR(optimizer, [LinearLR(optimizer), ExponentialLR(optimizer, 0.9999)], "
    "milestones=[5])",
    "ChainedScheduler([LinearLR(optimizer, total_iters=10**6), "
    "ExponentialLR(optimizer, 0.9999)])",
)

CURVES = (
    "constant(0.5)",
    "step(30_000)",
    "multistep([300_000, 800_000])",
    "linear(1, 0.01, 1_000_000)",
    "exponential(0.99999)",
    "polynomial(1_000_000, 2)",
    "cosine(1_000_000)",
    "cosine_restarts(10_000, 2)",
    "cyclic(10, 2000)",
    "cyclic(10, 2000, mode='triangular2')",
    "cyclic(10, 2000, mode='exp_range', gamma=0.99999)",
    "one_cycle(1_000_000)",
    "warmup(10_000)",
    "warmup_cosine(10_000, 1_000_000)",
    "wsd(10_000, 790_000, 200_000, shape='sqrt')",
    "inverse_sqrt(4000)",
    "rex(1_000_000)",
    "warmup(10_000) | 0.5 * cosine(990_000)",
    "custom(lambda k: 0.5)",
    "multiplicative(lambda k: 0.99999)",
)


@dataclass(frozen=True)
class Stepped:
    """A scheduler's step, torch's and polyak's."""

    scheduler: str
    groups: int
    torch: Times
    polyak: Times


@dataclass(frozen=True)
class Curve:
    """A schedule at ``steps`` steps: all at once, and the first ``calls`` in turn."""

    schedule: str
    steps: int
    calls: int
    at_once: Times
    in_turn: Times

    @property
    def all_in_turn(self) -> float:
        """Seconds for all the steps in turn, if the others take what those took."""
        return self.in_turn.minimum * self.steps / self.calls


def stepped(
    groups: Sequence[int] = GROUPS,
    schedulers: Sequence[str] = SCHEDULERS,
    *,
    seconds: float = 0.3,
) -> Iterator[Stepped]:
    """The step of each scheduler, with each number of parameter groups."""
    for count in groups:
        params = [nn.Parameter(torch.ones(1)) for _ in range(count)]
        for text in schedulers:
            sides = {
                "torch": Side(scheduler_of(text, torch_schedulers, params)[1]),
                "polyak": Side(scheduler_of(text, polyak.lr_scheduler, params)[1]),
            }
            with quiet(1):
                times = interleave(sides, seconds)
            yield Stepped(text, count, times["torch"], times["polyak"])


def scheduler_of(
    text: str, library: ModuleType, params: Sequence[nn.Parameter]
) -> tuple[Any, Callable[[], object]]:
    """A scheduler of either library, past its first steps, and its step."""
    groups = [{"params": [p], "lr": 0.1 / i} for i, p in enumerate(params, 1)]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    with warnings.catch_warnings():
        # torch's SequentialLR warns of what it does itself.
        warnings.simplefilter("ignore")
        scheduler = made(text, library, optimizer=optimizer)
        optimizer.step()
        metric = (1.0,) * text.startswith("ReduceLROnPlateau")
        for _ in range(10):
            scheduler.step(*metric)
    return scheduler, lambda: scheduler.step(*metric)


def curves(
    texts: Sequence[str] = CURVES, steps: int = STEPS, *, seconds: float = 0.5
) -> Iterator[Curve]:
    """Each schedule at the steps from 0, as one array and by one call a step."""
    every = np.arange(steps)
    calls = range(min(SAMPLE, steps))
    for text in texts:
        schedule = made(text, polyak.schedules)
        sides = {
            "at once": Side(lambda s=schedule: s.value_at(every)),
            "in turn": Side(lambda s=schedule: [s.value_at(k) for k in calls]),
        }
        with quiet(1):
            times = interleave(sides, seconds)
        yield Curve(text, steps, len(calls), times["at once"], times["in turn"])


def made(text: str, library: ModuleType, **names: Any) -> Any:
    """What an expression of a library's names makes."""
    return eval(text, {**vars(library), **names})


def section(stepped: Iterable[Stepped], curves: Iterable[Curve]) -> str:
    """The steps of schedulers, and the values of schedules."""
    parts = ["## Schedules"]
    for groups, found in groupby(stepped, key=lambda result: result.groups):
        count = "1 group" if groups == 1 else f"{groups} groups"
        headers = ["scheduler", "torch, µs", "polyak, µs"]
        headers += ["ratio of minima", "of medians"]
        rows = [
            [
                f"`{result.scheduler}`",
                times(result.torch, "µs"),
                times(result.polyak, "µs"),
                times_faster(result.torch.minimum / result.polyak.minimum),
                times_faster(result.torch.median / result.polyak.median),
            ]
            for result in found
        ]
        parts.append(f"### `scheduler.step()`, {count}")
        parts.append(table(headers, rows))
    for steps, drawn in groupby(curves, key=lambda curve: curve.steps):
        headers = ["schedule", "in turn, ms", "at once, ms", "ratio of minima"]
        rows = [
            [
                f"`{curve.schedule}`".replace("|", r"\|"),
                number(1e3 * curve.all_in_turn),
                times(curve.at_once, "ms"),
                times_faster(curve.all_in_turn / curve.at_once.minimum),
            ]
            for curve in drawn
        ]
        parts.append(f"### `schedule.value_at`, {steps:,} steps")
        parts.append(table(headers, rows))
    return "\n\n".join(parts)
