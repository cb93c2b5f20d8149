"""One thread or a team: what the thresholds of ``polyak/engine/team.py`` stand on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

import polyak
from polyak.engine import team

from .cases import Case, Tensors
from .markdown import number, table, times, times_faster
from .timing import Side, Times, interleave, quiet

__all__ = [
    "GRAINS",
    "OPTIMIZERS",
    "SIZES",
    "Grain",
    "Size",
    "grains",
    "section",
    "sizes",
]

OPTIMIZERS = ("SGD", "AdamW")
SIZES = tuple(1 << power for power in range(17, 26))
GRAINS = tuple(1 << power for power in range(15, 22))
GRAIN_TENSORS = 1000

# Numbers in a tensor: no piece of work is smaller than one.
SIZE_LENGTH = 4096
GRAIN_LENGTH = 1024

_NEVER = 1 << 62


@dataclass(frozen=True)
class Size:
    """A step that moves ``traffic`` bytes, by one thread and by a team."""

    optimizer: str
    traffic: int
    alone: Times
    team: Times


@dataclass(frozen=True)
class Grain:
    """A step whose threads claim ``grain`` bytes at a time."""

    optimizer: str
    grain: int
    times: Times


def sizes(
    threads: int, traffics: Sequence[int] = SIZES, *, seconds: float = 0.25
) -> Iterator[Size]:
    """Steps of growing size, on tensors of 4096, alone and with a team in turn."""
    for traffic in traffics:
        for name in OPTIMIZERS:
            count = max(1, round(traffic / (SIZE_LENGTH * _width(name))))
            alone, shared = (_optimizer(name, count, SIZE_LENGTH) for _ in range(2))
            moved = count * SIZE_LENGTH * _width(name)
            sides = {
                "alone": Side(alone.step, _setter("SERIAL_BYTES", _NEVER)),
                "team": Side(shared.step, _setter("SERIAL_BYTES", 0)),
            }
            with _restored(), quiet(threads):
                times = interleave(sides, seconds)
            yield Size(name, moved, times["alone"], times["team"])


def grains(
    threads: int, choices: Sequence[int] = GRAINS, *, seconds: float = 2.0
) -> Iterator[Grain]:
    """A step on a thousand tensors of 1024, shared out in pieces of several sizes."""
    for name in OPTIMIZERS:
        sides = {}
        with _restored(), quiet(threads):
            team.SERIAL_BYTES = 0
            for grain in choices:
                team.GRAIN_BYTES = grain
                optimizer = _optimizer(name, GRAIN_TENSORS, GRAIN_LENGTH)
                sides[str(grain)] = Side(optimizer.step)
            times = interleave(sides, seconds)
        for grain in choices:
            yield Grain(name, grain, times[str(grain)])


def _optimizer(name: str, count: int, length: int) -> torch.optim.Optimizer:
    """An optimizer of ``count`` tensors that has done its first steps."""
    case = Case("", "", 0.0, "µs", ((length,),) * count)
    params, _ = Tensors(case).side(0)
    optimizer: torch.optim.Optimizer = getattr(polyak, name)(params)
    optimizer.step()
    optimizer.step()
    return optimizer


def _width(name: str) -> int:
    """The bytes that a step moves for each number."""
    return {"SGD": 12, "AdamW": 28}[name]


def _setter(name: str, value: int) -> Callable[[], None]:
    return lambda: setattr(team, name, value)


@contextmanager
def _restored() -> Iterator[None]:
    """Put back the thresholds, which the measurement changes."""
    before = team.SERIAL_BYTES, team.GRAIN_BYTES
    try:
        yield
    finally:
        team.SERIAL_BYTES, team.GRAIN_BYTES = before


def section(threads: int, sizes: Iterable[Size], grains: Iterable[Grain]) -> str:
    """When more threads are worth it, and how to share."""
    size_rows = [
        [
            size.optimizer,
            number(size.traffic / 2**10),
            times(size.alone, "µs"),
            times(size.team, "µs"),
            times_faster(size.alone.minimum / size.team.minimum),
            times_faster(size.alone.median / size.team.median),
        ]
        for size in sorted(sizes, key=lambda size: size.optimizer)
    ]
    grain_rows = [
        [grain.optimizer, number(grain.grain / 2**10), times(grain.times, "µs")]
        for grain in grains
    ]
    size_headers = ["optimizer", "step moves, KiB", "1 thread, µs"]
    size_headers += [f"{threads} threads, µs", "ratio of minima", "of medians"]
    grain_headers = ["optimizer", "a thread claims, KiB", f"{threads} threads, µs"]
    return "\n\n".join(
        [
            "## One thread or a team",
            table(size_headers, size_rows),
            table(grain_headers, grain_rows),
        ]
    )
