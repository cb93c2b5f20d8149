"""What each part found, as sections of the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from .averages import Averaged, InStep
from .fresh import First, Memory
from .markdown import NONE, number, table, times, times_faster
from .schedules import Curve, Stepped
from .step import BANDWIDTH, ONE_GROUP, POLYAK, Result
from .team import Grain, Size

__all__ = [
    "averages_section",
    "bandwidth_section",
    "glance_section",
    "memory_section",
    "schedules_section",
    "startup_section",
    "step_section",
    "team_section",
]


def glance_section(results: Sequence[Result]) -> str:
    """How many times faster, of all optimizers on all cases."""
    cases = {result.case.name: result.case.title for result in results}
    parts = ["## How many times faster than torch's fastest (minima)"]
    for threads in sorted({result.threads for result in results}):
        found = {
            (r.contender.name, r.case.name): r for r in results if r.threads == threads
        }
        rows = [
            [name, *(_glance(found.get((name, case))) for case in cases)]
            for name in dict.fromkeys(name for name, _ in found)
        ]
        parts.append(f"### {_threads(threads)}")
        parts.append(table(["optimizer", *cases.values()], rows))
    return "\n\n".join(parts)


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
    """The share of the machine's bandwidth that steps reach, by their minima."""
    rows = []
    for result in results:
        if BANDWIDTH not in result.times:
            continue
        numel = result.case.shapes[0][0]
        plain = 8 * numel / result.times[BANDWIDTH].minimum
        ours = result.traffic / result.times[POLYAK].minimum
        best = result.times[result.torch].minimum if result.torch else None
        rows.append(
            [
                result.contender.name,
                str(result.threads),
                str(result.traffic // numel),
                number(plain / 1e9),
                number(ours / 1e9),
                f"{ours / plain:.2f}",
                NONE if best is None else f"{result.traffic / best / plain:.2f}",
            ]
        )
    rows.sort(key=lambda row: int(row[1]))
    headers = [
        "optimizer",
        "threads",
        "bytes a number",
        "`mul_`, GB/s",
        "polyak, GB/s",
        "polyak's share",
        "torch's share",
    ]
    return f"## Bandwidth, one tensor of 25 million\n\n{table(headers, rows)}"


def memory_section(found: Sequence[Memory]) -> str:
    """Peak memory of a step."""
    rows = [
        [
            entry.optimizer,
            entry.implementation,
            number(entry.state / 2**20),
            number(entry.extra / 2**20),
            f"{entry.extra / entry.numel:.2f}",
        ]
        for entry in found
    ]
    headers = ["optimizer", "", "state, MiB", "extra, MiB", "extra bytes a number"]
    return f"## Peak memory of a step, one large tensor\n\n{table(headers, rows)}"


def startup_section(found: Iterable[First], imports: Mapping[str, float]) -> str:
    """First steps and imports."""
    steps = table(
        ["", "making the optimizer, ms", "first step, ms", "third step, ms"],
        [
            [row.what, *(number(1e3 * v) for v in (row.made, row.first, row.third))]
            for row in found
        ],
    )
    loaded = table(
        ["import", "ms"],
        [
            ["torch", number(1e3 * imports["torch"])],
            ["polyak, after torch", number(1e3 * imports["polyak"])],
        ],
    )
    return f"## The start of a process, AdamW on 200 tensors\n\n{steps}\n\n{loaded}"


def team_section(threads: int, sizes: Iterable[Size], grains: Iterable[Grain]) -> str:
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


def averages_section(results: Iterable[Averaged], steps: Iterable[InStep]) -> str:
    """An update of an exponential moving average, by itself and inside a step."""
    headers = ["weights", "threads", "`multi_avg_fn`, µs", "`WeightAverage`, µs"]
    headers += ["ratio", "torch's `AveragedModel`, µs", "polyak's, µs", "ratio"]
    headers += ["GB/s", "`mul_`, GB/s"]
    rows = [
        [
            result.case.title,
            str(result.threads),
            times(result.pass_torch, "µs"),
            times(result.pass_polyak, "µs"),
            times_faster(result.pass_torch.minimum / result.pass_polyak.minimum),
            times(result.model_torch, "µs"),
            times(result.model_polyak, "µs"),
            times_faster(result.model_torch.minimum / result.model_polyak.minimum),
            number(1e-9 * result.moved),
            number(1e-9 * result.bandwidth),
        ]
        for result in results
    ]
    inside = ["weights", "optimizer", "threads", "torch, µs", "polyak, µs", "ratio"]
    inside += ["without average, µs", "with / without"]
    step_rows = [
        [
            result.case.title,
            result.optimizer,
            str(result.threads),
            times(result.torch, "µs"),
            times(result.polyak, "µs"),
            times_faster(result.torch.minimum / result.polyak.minimum),
            times(result.plain, "µs"),
            times_faster(result.polyak.minimum / result.plain.minimum),
        ]
        for result in steps
    ]
    return "\n\n".join(
        [
            "## Averages of weights",
            table(headers, rows),
            "### Inside the step",
            table(inside, step_rows),
        ]
    )


def schedules_section(stepped: Iterable[Stepped], curves: Iterable[Curve]) -> str:
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
