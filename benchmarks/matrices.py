"""Optimizers of matrices, Muon and Adafactor, against torch's."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from time import perf_counter

import torch

from .cases import Case
from .contenders import Contender
from .markdown import NONE, table, times, times_faster
from .shapes import Shape, gpt2_small, resnet50
from .step import PLAIN, POLYAK, Result, measure

__all__ = ["MATRICES", "fitting", "measured", "section"]

PATIENCE = 20.0  # seconds, for a step


def _of(count: int, *shape: int) -> tuple[str, tuple[Shape, ...]]:
    return f"{count} x {shape}".replace(",)", ")"), (shape,) * count


_SMALL, _MEDIUM, _LARGE = _of(400, 64, 64), _of(100, 256, 256), _of(12, 1024, 1024)
_VECTORS = _of(200, 64)
_RESNET50 = ("ResNet-50", resnet50())
_GPT2 = ("GPT-2 small", gpt2_small())


def _muon(title: str, shapes: tuple[Shape, ...], seconds: float, least: int) -> Case:
    return Case(title, title, seconds, "ms", shapes, least=least)


def _adafactor(title: str, shapes: tuple[Shape, ...], seconds: float) -> Case:
    return Case(title, title, seconds, "ms", shapes, plain=True, least=3)


# What a large matrix costs Muon is arithmetic, seconds of it: two rounds must do. torch
# has it in bfloat16: minutes on a processor that has no instructions for that.
MATRICES: Mapping[str, tuple[Case, ...]] = {
    "Muon": (
        _muon(*_SMALL, 2.0, 3),
        _muon(*_MEDIUM, 3.0, 3),
        _muon(*_LARGE, 3.0, 2),
    ),
    "Adafactor": (
        _adafactor(*_VECTORS, 1.0),
        _adafactor(*_SMALL, 1.5),
        _adafactor(*_MEDIUM, 2.0),
        _adafactor(*_LARGE, 2.0),
        _adafactor(*_RESNET50, 3.0),
        _adafactor(*_GPT2, 5.0),
    ),
}


def fitting(cases: Iterable[Case]) -> Iterator[Case]:
    """The cases that take seconds with torch's Muon, not minutes."""
    square = torch.ones(512, 512, dtype=torch.bfloat16)
    square @ square
    start = perf_counter()
    square @ square
    each = (perf_counter() - start) / 512**3
    for case in cases:
        # Five iterations of three products.
        products = sum(15 * min(shape) ** 2 * max(shape) for shape in case.shapes)
        if each * products < PATIENCE:
            yield case
        else:
            print(f"{case.title}: left out, torch is slow in bfloat16", file=sys.stderr)


def measured(
    threads: Sequence[int],
    matrices: Mapping[str, Sequence[Case]],
    *,
    scale: float = 1.0,
) -> Iterator[Result]:
    """The step of each optimizer on each of its cases."""
    for optimizer, cases in matrices.items():
        for case in cases:
            yield from measure(case, [Contender(optimizer)], threads, scale=scale)


def section(results: Iterable[Result]) -> str:
    """A table for each optimizer."""
    parts = ["## Optimizers of matrices"]
    for optimizer, found in groupby(results, lambda r: r.contender.optimizer):
        rows = list(found)
        plain = any(result.case.plain for result in rows)
        headers = ["parameters", "threads", "fastest of torch", "torch, ms"]
        headers += ["polyak, ms", "ratio of minima", "of medians", "rounds"]
        headers += ["`mul_`, ms", "polyak / `mul_`", "torch / `mul_`"] * plain
        parts.append(f"### {optimizer}")
        parts.append(table(headers, map(_row, rows)))
    return "\n\n".join(parts)


def _row(result: Result) -> list[str]:
    unit, ours = result.case.unit, result.times[POLYAK]
    theirs = result.times[result.torch] if result.torch else None
    row = [
        result.case.title,
        str(result.threads),
        result.torch or NONE,
        times(theirs, unit) if theirs else NONE,
        times(ours, unit),
        times_faster(result.ratio()),
        times_faster(result.ratio("median")),
        str(len(ours.seconds)),
    ]
    if PLAIN in result.times:
        plain = result.times[PLAIN]
        row += [
            times(plain, unit),
            times_faster(ours.minimum / plain.minimum),
            times_faster(theirs.minimum / plain.minimum) if theirs else NONE,
        ]
    return row
