"""How time is measured: sides take turns, and every repeat is kept."""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from time import perf_counter

import torch

__all__ = ["SLOWER", "Side", "Times", "fastest", "interleave", "quiet"]

# A rival that needs SLOWER times the fastest rival's time, in two rounds and in this
# share of the whole time, will not turn out to be the fastest: its time is better spent
# on more rounds of the others.
SLOWER = 1.5
TRIAL = 0.25
MOST_ROUNDS = 5000


@dataclass(frozen=True)
class Side:
    """One of the things compared.

    Args:
        run: what is timed.
        before: what is done before each repeat, outside of the time.
    """

    run: Callable[[], object]
    before: Callable[[], object] | None = None

    def repeat(self) -> float:
        """Run once; the seconds it took."""
        if self.before is not None:
            self.before()
        start = perf_counter()
        self.run()
        return perf_counter() - start


@dataclass(frozen=True)
class Times:
    """The seconds of all repeats."""

    seconds: tuple[float, ...]

    @cached_property
    def sorted(self) -> list[float]:
        """The seconds, the least first."""
        return sorted(self.seconds)

    @property
    def minimum(self) -> float:
        """What the work costs when nothing disturbs it."""
        return self.sorted[0]

    @cached_property
    def median(self) -> float:
        """What it usually costs."""
        return median(self.sorted)

    @property
    def p99(self) -> float:
        """What 99 of 100 repeats do not exceed: with few repeats, the worst."""
        return self.sorted[-1 - (len(self.sorted) // 100)]


def fastest(times: Mapping[str, Times], names: Collection[str]) -> str:
    """Which of ``names`` has the least minimum."""
    return min(names, key=lambda name: times[name].minimum)


def interleave(
    sides: Mapping[str, Side],
    seconds: float,
    *,
    rivals: Collection[str] = (),
    least: int = 5,
) -> dict[str, Times]:
    """Repeat all sides in turn, so that what disturbs the machine disturbs them all.

    Args:
        sides: what to repeat, by name. Who comes first changes from round to round.
        seconds: when to stop, once there were ``least`` rounds.
        rivals: sides of which only the fastest matters; the slow ones (:data:`SLOWER`)
            are left out once they had their :data:`TRIAL`.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    running = list(sides)
    start = perf_counter()
    for done in range(MOST_ROUNDS):
        spent = perf_counter() - start
        if done >= least and spent >= seconds:
            break
        if done >= 2 and rivals and spent >= TRIAL * seconds:
            running, rivals = _without_slow(running, rivals, taken), ()
        turn = done % len(running)
        for name in (*running[turn:], *running[:turn]):
            taken[name].append(sides[name].repeat())
    return {name: Times(tuple(values)) for name, values in taken.items()}


def _without_slow(
    running: list[str], rivals: Collection[str], taken: Mapping[str, list[float]]
) -> list[str]:
    limit = SLOWER * min(min(taken[name]) for name in rivals)
    return [n for n in running if n not in rivals or min(taken[n]) <= limit]


@contextmanager
def quiet(threads: int) -> Iterator[None]:
    """Without garbage collection, with torch's number of threads fixed."""
    before, collected = torch.get_num_threads(), gc.isenabled()
    gc.collect()
    gc.disable()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if collected:
            gc.enable()
