"""The tables of step time: at a glance, in full, and as bandwidth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from math import prod

from .markdown import NONE, number, table, times, times_faster
from .step import BANDWIDTH, ONE_GROUP, POLYAK, Result

__all__ = [
    "bandwidth_section",
    "glance_section",
    "step_section",
]


def glance_section(results: Sequence[Result]) -> str:
    """How many times faster, of all optimizers on all cases."""
    parts = ["## How many times faster than torch's fastest (minima)"]
    for threads in sorted({result.threads for result in results}):
        parts.append(f"### {_threads(threads)}")
        found = [result for result in results if result.threads == threads]
        for some in (False, True):
            chosen = [r for r in found if bool(r.case.optimizers) == some]
            if chosen:
                parts.append(_glance_table(chosen))
    return "\n\n".join(parts)


def _glance_table(results: Sequence[Result]) -> str:
    cases = {result.case.name: result.case.title for result in results}
    found = {(r.contender.name, r.case.name): r for r in results}
    rows = [
        [name, *(_glance(found.get((name, case))) for case in cases)]
        for name in dict.fromkeys(name for name, _ in found)
    ]
    return table(["optimizer", *cases.values()], rows)


def _glance(result: Result | None) -> str:
    return NONE if result is None else times_faster(result.ratio())


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def step_section(results: Sequence[Result]) -> str:
    """The times behind the ratios, a table for each case."""
    parts = ["## Step time"]
    for case, found in groupby(results, key=lambda result: result.case):
        several = sorted(found, key=lambda result: result.threads)
        unit = case.unit
        headers = [
            "optimizer",
            "threads",
            "fastest of torch",
            f"torch, {unit}",
            f"polyak, {unit}",
            "ratio of minima",
            "of medians",
            "repeats",
        ]
        if case.groups:
            headers += [f"polyak in one group, {unit}", "many groups / one, minima"]
        parts.append(f"### {case.title}")
        parts.append(table(headers, map(_step_row, several)))
    return "\n\n".join(parts)


def _step_row(result: Result) -> list[str]:
    unit, ours = result.case.unit, result.times[POLYAK]
    theirs = NONE if result.torch is None else times(result.times[result.torch], unit)
    row = [
        result.contender.name,
        str(result.threads),
        result.torch or NONE,
        theirs,
        times(ours, unit),
        times_faster(result.ratio()),
        times_faster(result.ratio("median")),
        str(len(ours.seconds)),
    ]
    if ONE_GROUP in result.times:
        one = result.times[ONE_GROUP]
        row += [times(one, unit), times_faster(ours.minimum / one.minimum)]
    return row


def bandwidth_section(results: Iterable[Result]) -> str:
    """What moving as many bytes as a step must takes, and so how fast it can be."""
    measured = [result for result in results if BANDWIDTH in result.times]
    headers = [
        "tensors",
        "optimizer",
        "threads",
        "bytes a number",
        "`mul_`, GB/s",
        "polyak, GB/s",
        "polyak's share",
        "torch's share",
        "torch / polyak",
        "torch / `mul_`, the most there can be",
    ]
    return f"## Bandwidth\n\n{table(headers, map(_bandwidth_row, measured))}"


def _bandwidth_row(result: Result) -> list[str]:
    """By the minima."""
    plain, ours = result.times[BANDWIDTH].minimum, result.times[POLYAK].minimum
    best = result.times[result.torch].minimum if result.torch else None
    return [
        result.case.title,
        result.contender.name,
        str(result.threads),
        number(result.traffic / sum(map(prod, result.case.shapes))),
        number(result.traffic / plain / 1e9),
        number(result.traffic / ours / 1e9),
        f"{plain / ours:.2f}",
        NONE if best is None else f"{plain / best:.2f}",
        times_faster(result.ratio()),
        times_faster(None if best is None else best / plain),
    ]
