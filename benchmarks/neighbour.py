"""A spinning neighbour: a step while another process spins on one of the cores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from .cases import CASES, Case
from .contenders import Contender
from .markdown import number, table, times
from .step import POLYAK, sides
from .timing import Side, Times, fastest, interleave, quiet

__all__ = ["OPTIMIZERS", "Disturbed", "disturbed", "section", "spinning"]

OPTIMIZERS = (Contender("SGD", {"momentum": 0.9}), Contender("AdamW"))
STEPS = tuple(CASES[name] for name in ("small", "medium", "resnet50"))

SPIN = "while True: pass"
LOOP = "loop"


@dataclass(frozen=True)
class Disturbed:
    """A step's times without the neighbour and with it.

    Attributes:
        torch: the fastest of torch's implementations without the neighbour.
        length: of the bare loop, in seconds: polyak's median without the neighbour.
        quiet: by side: polyak, and that of torch.
        busy: the same with the neighbour.
    """

    case: Case
    contender: Contender
    threads: int
    torch: str
    length: float
    quiet: Mapping[str, Times]
    busy: Mapping[str, Times]

    def worst(self, side: str) -> float:
        """The 99th percentile with the neighbour, over the median without."""
        return self.busy[side].p99 / self.quiet[side].median

    @property
    def least(self) -> float:
        """The same of a loop that does nothing for as long as polyak's step takes."""
        return self.busy[LOOP].p99 / self.length


@contextmanager
def spinning() -> Iterator[int]:
    """A process that spins, on the last core that this process may use."""
    with subprocess.Popen([sys.executable, "-c", SPIN]) as spinner:
        try:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(spinner.pid, {max(os.sched_getaffinity(0))})
            yield spinner.pid
        finally:
            spinner.kill()


def disturbed(
    threads: Sequence[int],
    cases: Sequence[Case] = STEPS,
    contenders: Sequence[Contender] = OPTIMIZERS,
    *,
    seconds: float = 2.0,
) -> Iterator[Disturbed]:
    """Each optimizer on each case: quiet, and then with the neighbour."""
    for case in cases:
        for contender in contenders:
            ready = sides(case, contender)
            rivals = tuple(contender.torch())
            for count in threads:
                yield _disturbed(case, contender, count, ready, rivals, seconds)


def _disturbed(
    case: Case,
    contender: Contender,
    threads: int,
    ready: Mapping[str, Side],
    rivals: Sequence[str],
    seconds: float,
) -> Disturbed:
    with quiet(threads):
        alone = interleave(ready, seconds, rivals=rivals)
        best = fastest(alone, rivals)
        length = alone[POLYAK].median
        busy_sides = {name: ready[name] for name in (POLYAK, best)}
        busy_sides[LOOP] = Side(partial(_wait, length))
        with spinning():
            busy = interleave(busy_sides, seconds)
    return Disturbed(case, contender, threads, best, length, alone, busy)


def _wait(seconds: float) -> None:
    """Keep a core busy for so long, or longer if it is taken away meanwhile."""
    end = perf_counter() + seconds
    while perf_counter() < end:
        pass


def section(results: Iterable[Disturbed]) -> str:
    """Quiet and disturbed times side by side."""
    headers = ["parameters", "optimizer", "threads", "", "unit", "quiet", "disturbed"]
    headers += ["disturbed 99th / quiet median", "of a bare loop", "repeats"]
    rows = [
        [
            result.case.title,
            result.contender.name,
            str(result.threads),
            side if side == POLYAK else f"torch, {side}",
            result.case.unit,
            times(result.quiet[side], result.case.unit),
            times(result.busy[side], result.case.unit),
            number(result.worst(side)),
            number(result.least) if side == POLYAK else "",
            str(len(result.busy[side].seconds)),
        ]
        for result in results
        for side in (POLYAK, result.torch)
    ]
    return f"## A spinning neighbour on one core\n\n{table(headers, rows)}"
