"""Host overhead: steps on tensors of one number, by how many there are.

They are measured with a learning rate that stays, and with one that a schedule sets
anew before each step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, groupby

import numpy as np
import torch
from torch import nn

from .contenders import Contender, Make
from .markdown import number, table, times, times_faster
from .step import POLYAK, warm_up
from .timing import Side, Times, fastest, interleave, quiet

__all__ = [
    "COUNTS",
    "OPTIMIZERS",
    "SCHEDULED",
    "Host",
    "fit",
    "hosts",
    "scheduled",
    "section",
]

COUNTS = (1, 10, 100, 1000, 5000)
# Groups with rates of their own, and tensors in each.
SCHEDULED = ((1, 1), (1, 1000), (30, 1), (1000, 1))
OPTIMIZERS = ("SGD", "AdamW")


@dataclass(frozen=True)
class Host:
    """A step on so many tensors of one number, on one thread.

    Attributes:
        times: by side: polyak, and each of torch's implementations.
        groups: of how many groups the learning rates changed before each step.
    """

    optimizer: str
    count: int
    times: Mapping[str, Times]
    groups: int = 0

    @property
    def torch(self) -> str:
        """The fastest of torch's implementations."""
        return fastest(self.times, [name for name in self.times if name != POLYAK])


def hosts(
    counts: Sequence[int] = COUNTS,
    optimizers: Sequence[str] = OPTIMIZERS,
    *,
    seconds: float = 0.5,
) -> Iterator[Host]:
    """Steps of each optimizer on each number of tensors, gradients exchanged."""
    for optimizer in optimizers:
        contender = Contender(optimizer)
        makers = {POLYAK: contender.polyak, **contender.torch()}
        for count in counts:
            sides = {name: _side(make, count) for name, make in makers.items()}
            with quiet(1):
                yield Host(optimizer, count, interleave(sides, seconds))


def scheduled(
    cases: Sequence[tuple[int, int]] = SCHEDULED,
    optimizers: Sequence[str] = OPTIMIZERS,
    *,
    seconds: float = 0.5,
) -> Iterator[Host]:
    """Steps before which every group gets another learning rate.

    Args:
        cases: so many groups, with so many tensors each.
        optimizers: their names.
        seconds: for each case and optimizer.
    """
    for optimizer in optimizers:
        contender = Contender(optimizer)
        makers = {POLYAK: contender.polyak, **contender.torch()}
        for groups, each in cases:
            sides = {
                name: _side(make, each, groups, moves=True)
                for name, make in makers.items()
            }
            with quiet(1):
                times = interleave(sides, seconds)
            yield Host(optimizer, groups * each, times, groups)


def _side(make: Make, count: int, groups: int = 1, *, moves: bool = False) -> Side:
    """A step before which every gradient becomes another tensor, as by a backward.

    Args:
        make: makes the optimizer.
        count: the tensors of a group.
        groups: their number.
        moves: the learning rates change, too.
    """
    params = [nn.Parameter(torch.ones(1)) for _ in range(groups * count)]
    turns = cycle([[torch.ones(1) for _ in params] for _ in range(2)])

    def exchange() -> None:
        for param, grad in zip(params, next(turns), strict=True):
            param.grad = grad

    exchange()
    optimizer = make(
        [{"params": params[at * count : (at + 1) * count]} for at in range(groups)]
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    factors = cycle(1 - step / 2000 for step in range(1000))

    def move() -> None:
        exchange()
        factor = next(factors)
        for place, (group, rate) in enumerate(
            zip(optimizer.param_groups, rates, strict=True)
        ):
            group["lr"] = factor * rate / (1 + place)

    warm_up(optimizer)
    return Side(optimizer.step, move if moves else exchange)


def fit(points: Mapping[int, float]) -> tuple[float, float]:
    """The constant and the cost of a tensor, of seconds by number of tensors.

    The relative errors are made small, so that the least times count as well.
    """
    counts, seconds = np.array(list(points)), np.array(list(points.values()))
    cost, constant = np.polyfit(counts, seconds, 1, w=1 / seconds)
    return float(constant), float(cost)


def section(results: Iterable[Host], picture: str = "") -> str:
    """The times, and what a tensor costs."""
    found = list(results)
    still, moving = (
        [h for h in found if bool(h.groups) is moves] for moves in (False, True)
    )
    fits = []
    for optimizer, several in groupby(still, lambda host: host.optimizer):
        same = list(several)
        for side in same[0].times:
            points = {host.count: host.times[side].minimum for host in same}
            if len(points) > 1:
                constant, cost = fit(points)
                row = [optimizer, side if side == POLYAK else f"torch, {side}"]
                fits.append([*row, number(1e6 * cost), number(1e6 * constant)])
    parts = [
        "## Host overhead, tensors of one number, 1 thread",
        _times(still, []),
        table(["optimizer", "", "µs a tensor", "constant, µs"], fits),
    ]
    if moving:
        parts.append(_times(moving, ["groups whose rate changes"]))
    return "\n\n".join([*parts, *([picture] if picture else [])])


def _times(found: Sequence[Host], more: Sequence[str]) -> str:
    headers = ["optimizer", "tensors", *more]
    headers += ["polyak, µs", "fastest of torch", "torch, µs", "ratio of minima"]
    rows = []
    for host in found:
        ours, theirs = host.times[POLYAK], host.times[host.torch]
        groups = [str(host.groups)] if host.groups else []
        row = [host.optimizer, str(host.count), *groups, times(ours, "µs"), host.torch]
        ratio = times_faster(theirs.minimum / ours.minimum)
        rows.append([*row, times(theirs, "µs"), ratio])
    return table(headers, rows)
