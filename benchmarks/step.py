"""The time of a step: every optimizer, against the fastest that torch has of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .cases import Case, Tensors
from .contenders import Contender, Make
from .timing import Side, Times, fastest, interleave, quiet

__all__ = [
    "BANDWIDTH",
    "ONE_GROUP",
    "PLAIN",
    "POLYAK",
    "Result",
    "measure",
    "sides",
    "warm_up",
]

POLYAK = "polyak"
ONE_GROUP = "polyak, one group"
BANDWIDTH = "mul_ of as many bytes"
PLAIN = "mul_ of all tensors"

# The step from which the measured ones count: rules that begin differently (RAdam) are
# measured as they are for the rest of the training.
AGE = 100.0


@dataclass(frozen=True)
class Result:
    """One optimizer on one case, with one number of threads.

    Attributes:
        times: by side: polyak, torch's implementations, and what the case adds.
        torch: the fastest of torch's implementations, or None if it has none.
        traffic: the bytes that the step must move.
    """

    case: Case
    contender: Contender
    threads: int
    times: dict[str, Times]
    torch: str | None
    traffic: int

    def ratio(self, statistic: str = "minimum") -> float | None:
        """How many times as long as polyak torch's fastest takes."""
        if self.torch is None:
            return None
        ours, theirs = self.times[POLYAK], self.times[self.torch]
        return float(getattr(theirs, statistic) / getattr(ours, statistic))


def measure(
    case: Case,
    contenders: Sequence[Contender],
    threads: Sequence[int],
    *,
    scale: float = 1.0,
) -> Iterator[Result]:
    """Measure optimizers on a case, each for ``scale`` times the case's own time."""
    tensors = Tensors(case)
    for contender in contenders:
        yield from _measure_one(case, contender, tensors, threads, scale)


def _measure_one(
    case: Case,
    contender: Contender,
    tensors: Tensors,
    threads: Sequence[int],
    scale: float,
) -> Iterator[Result]:
    sides, params = _sides(case, contender, tensors)
    rivals = tuple(contender.torch())
    for count in threads:
        with quiet(count):
            seconds = scale * case.seconds
            times = interleave(sides, seconds, rivals=rivals, least=case.least)
        best = fastest(times, rivals) if rivals else None
        yield Result(case, contender, count, times, best, _traffic(*params))


def _sides(
    case: Case, contender: Contender, tensors: Tensors
) -> tuple[dict[str, Side], tuple[torch.optim.Optimizer, list[Tensor]]]:
    """What takes turns, each warmed up; and polyak's optimizer with its parameters."""
    makers: dict[str, Make] = {POLYAK: contender.polyak, **contender.torch()}
    if case.groups:
        makers[ONE_GROUP] = contender.polyak
    sides = {}
    made: list[Any] = []
    for index, (name, make) in enumerate(makers.items()):
        params, before = tensors.side(index)
        apart = case.groups and name != ONE_GROUP
        optimizer = make([{"params": [p]} for p in params] if apart else params)
        warm_up(optimizer)
        sides[name] = Side(optimizer.step, before)
        made.append((optimizer, params))
    if case.bandwidth:
        sides[BANDWIDTH] = _in_place(_traffic(*made[0]) / 2)
    if case.plain:
        sides[PLAIN] = _in_place(sum(map(sum, _sizes(*made[0]))))
    return sides, made[0]


def sides(case: Case, contender: Contender) -> dict[str, Side]:
    """polyak's step on a case, and that of each of torch's implementations."""
    return _sides(case, contender, Tensors(case))[0]


def warm_up(optimizer: torch.optim.Optimizer) -> None:
    """Make the state and what is compiled or cached, and skip the first steps."""
    optimizer.step()
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].fill_(AGE)
    optimizer.step()


def _in_place(nbytes: float) -> Side:
    """The plainest pass over so much memory: every number is read and written."""
    numbers = torch.ones(int(nbytes) // 4)
    return Side(lambda: numbers.mul_(-1.0))


def _traffic(optimizer: torch.optim.Optimizer, params: Sequence[Tensor]) -> int:
    """Bytes: the parameters and their state read and written, the gradients read."""
    sizes = _sizes(optimizer, params)
    return sum(2 * param + 2 * state + grad for param, state, grad in sizes)


def _sizes(
    optimizer: torch.optim.Optimizer, params: Sequence[Tensor]
) -> Iterator[tuple[int, int, int]]:
    """Bytes of each parameter, of its state but for single numbers, of its gradient."""
    for param in params:
        slots = optimizer.state.get(param, {}).values()
        tensors = [slot for slot in slots if isinstance(slot, Tensor) and slot.dim()]
        yield param.nbytes, sum(slot.nbytes for slot in tensors), param.nbytes
