"""Host overhead: steps on tensors of one number, by how many there are."""

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

__all__ = ["COUNTS", "OPTIMIZERS", "Host", "fit", "hosts", "section"]

COUNTS = (1, 10, 100, 1000, 5000)
OPTIMIZERS = ("SGD", "AdamW")


@dataclass(frozen=True)
class Host:
    """A step on so many tensors of one number, on one thread.

    Attributes:
        times: by side: polyak, and each of torch's implementations.
    """

    optimizer: str
    count: int
    times: Mapping[str, Times]

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


def _side(make: Make, count: int) -> Side:
    """A step before which every gradient becomes another tensor, as by a backward."""
    params = [nn.Parameter(torch.ones(1)) for _ in range(count)]
    turns = cycle([[torch.ones(1) for _ in params] for _ in range(2)])

    def exchange() -> None:
        for param, grad in zip(params, next(turns), strict=True):
            param.grad = grad

    exchange()
    optimizer = make(params)
    warm_up(optimizer)
    return Side(optimizer.step, exchange)


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
    rows = [
        [
            host.optimizer,
            str(host.count),
            times(host.times[POLYAK], "µs"),
            host.torch,
            times(host.times[host.torch], "µs"),
            times_faster(host.times[host.torch].minimum / host.times[POLYAK].minimum),
        ]
        for host in found
    ]
    fits = []
    for optimizer, several in groupby(found, lambda host: host.optimizer):
        same = list(several)
        for side in same[0].times:
            points = {host.count: host.times[side].minimum for host in same}
            if len(points) > 1:
                constant, cost = fit(points)
                row = [optimizer, side if side == POLYAK else f"torch, {side}"]
                fits.append([*row, number(1e6 * cost), number(1e6 * constant)])
    headers = ["optimizer", "tensors", "polyak, µs", "fastest of torch", "torch, µs"]
    parts = [
        "## Host overhead, tensors of one number, 1 thread",
        table([*headers, "ratio of minima"], rows),
        table(["optimizer", "", "µs a tensor", "constant, µs"], fits),
    ]
    return "\n\n".join([*parts, *([picture] if picture else [])])
