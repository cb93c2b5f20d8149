"""The race: every contender runs a lap with every seed, until done or stopped."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from .contender import Contender
from .lap import Lap, run_lap
from .task import Task

Watch = Callable[[Sequence[Lap], Contender, int], None]
"""Told at every epoch: the finished laps, who runs now, and the epochs behind it."""


def ignore(laps: Sequence[Lap], contender: Contender, epoch: int) -> None:
    """Watch nothing."""


@dataclass(frozen=True)
class Results:
    """What a race came to: its laps, all that were planned unless it was stopped."""

    task: Task
    seeds: Sequence[int]
    laps: Sequence[Lap]
    planned: int

    @property
    def stopped(self) -> bool:
        """Whether the race was interrupted before its last lap was finished."""
        return len(self.laps) < self.planned


def race(
    task: Task,
    contenders: Sequence[Contender],
    *,
    seeds: Sequence[int] = (0,),
    watch: Watch = ignore,
) -> Results:
    """Run all laps, seed by seed; Ctrl-C leaves those that were finished."""
    laps: list[Lap] = []
    with suppress(KeyboardInterrupt):
        for seed in seeds:
            for contender in contenders:
                told = partial(watch, laps, contender)
                laps.append(run_lap(task, contender, seed, told))
    return Results(task, seeds, laps, len(seeds) * len(contenders))
