"""What was found on a GPU, as Markdown and pictures."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean

import torch

import polyak

from ..markdown import facts_list, number, table
from .checking import Outcome
from .device import Device
from .speed import GRAPH, POLYAK, Figure

__all__ = ["facts", "pictures", "text"]

TORCH = ("fused", "foreach", "loop", "compile")
NONE = "–"


def facts(device: Device, bandwidth: float) -> dict[str, str]:
    """The device, the versions, and the bandwidth of a copy."""
    from importlib.metadata import version

    found = {
        "device": device.name(),
        "bandwidth of a copy": f"{bandwidth / 1e9:.0f} GB/s",
        "polyak": polyak.__version__,
        "torch": torch.__version__,
        "triton": version("triton"),
        "Python": platform.python_version(),
    }
    if not device.dry:
        found["CUDA"] = str(torch.version.cuda)
    return found


def text(
    about: Mapping[str, str],
    checks: Sequence[Outcome],
    figures: Sequence[Figure],
    bandwidth: float,
    notes: Sequence[str],
) -> str:
    """The report."""
    parts = ["# polyak on a GPU", facts_list(about)]
    if notes:
        parts.append("\n".join(notes))
    if checks:
        parts += ["## Checks", table(("check", "", "seen"), map(_check, checks))]
    if figures:
        parts += [
            "## Speed",
            "Milliseconds of a step on the device, at best; polyak's share of the "
            "bandwidth of a copy that was measured in the same run; how many times "
            "faster polyak is than the fastest of torch's; microseconds in which the "
            "host hands the step over, and polyak's ratio; kernels + copies launched.",
            table(_HEAD, map(_row, figures, [bandwidth] * len(figures))),
            *_summary(figures),
            *_failures(figures),
        ]
    return "\n\n".join(parts) + "\n"


def _check(outcome: Outcome) -> tuple[str, str, str]:
    words = {True: "holds", False: "**fails**", None: "not made"}
    detail = outcome.detail.replace("|", "\\|").replace("\n", " ")
    return outcome.name, words[outcome.passed], detail


_HEAD = (
    *("parameters", "dtype", "optimizer", "polyak ms", "share of copy", "fused ms"),
    *("foreach ms", "loop ms", "compile ms", "times faster", "graph ms", "host µs"),
    *("torch host µs", "times faster", "launches", "torch's"),
)


def _row(figure: Figure, bandwidth: float) -> tuple[str, ...]:
    times, ours = figure.times, figure.times.get(POLYAK)
    theirs = [side for side in TORCH if side in times]
    device = min((times[side].device for side in theirs), default=None)
    host = min((times[side].host for side in theirs), default=None)
    share = ours and figure.traffic / ours.device / bandwidth
    return (
        figure.case.title,
        str(figure.dtype).removeprefix("torch."),
        figure.optimizer,
        _scaled(ours and ours.device, 1e3),
        _scaled(share, 1),
        *(_scaled(times[s].device if s in times else None, 1e3) for s in TORCH),
        _scaled(device and ours and device / ours.device, 1),
        _scaled(times[GRAPH].device if GRAPH in times else None, 1e3),
        _scaled(ours and ours.host, 1e6),
        _scaled(host, 1e6),
        _scaled(host and ours and host / ours.host, 1),
        _launches(figure, POLYAK),
        "; ".join(f"{side} {_launches(figure, side)}" for side in theirs),
    )


def _scaled(value: float | None, scale: float) -> str:
    return NONE if value is None else number(value * scale)


def _launches(figure: Figure, side: str) -> str:
    kernels, copies = figure.launches.get(side, (0, 0))
    return f"{kernels} + {copies}"


def _summary(figures: Sequence[Figure]) -> Iterator[str]:
    for side in TORCH:
        ratios = [
            f.times[side].device / f.times[POLYAK].device
            for f in figures
            if side in f.times and POLYAK in f.times
        ]
        if ratios:
            yield (
                f"Against `{side}`: {number(geometric_mean(ratios))} times faster on "
                f"the device (geometric mean of {len(ratios)}; "
                f"{number(min(ratios))} to {number(max(ratios))})."
            )


def _failures(figures: Sequence[Figure]) -> Iterator[str]:
    lines = [
        f"- {f.case.title}, {f.dtype}, {f.optimizer}, {side}: {why}"
        for f in figures
        for side, why in f.failed.items()
    ]
    if lines:
        yield "Not measured:\n\n" + "\n".join(lines)


def pictures(figures: Sequence[Figure], bandwidth: float, folder: Path) -> list[str]:
    """Draw the times; names of the files, none where matplotlib is missing."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return []
    drawn = []
    for what, label in (("device", "ms on the device"), ("host", "ms of the host")):
        shown = [figure for figure in figures if POLYAK in figure.times]
        names = [f"{f.optimizer}, {f.case.title}, {str(f.dtype)[6:]}" for f in shown]
        sketch, axes = pyplot.subplots(figsize=(9, 1 + 0.45 * len(shown)))
        sides = [s for s in (POLYAK, GRAPH, *TORCH) if any(s in f.times for f in shown)]
        for place, side in enumerate(sides):
            rows = [row for row, f in enumerate(shown) if side in f.times]
            axes.barh(
                [row + (place - len(sides) / 2) * 0.16 for row in rows],
                [1e3 * getattr(shown[row].times[side], what) for row in rows],
                height=0.15,
                label=side,
            )
        if what == "device":
            least = [1e3 * f.traffic / bandwidth for f in shown]
            axes.plot(least, range(len(shown)), "k|", ms=12, label="a copy's bandwidth")
        axes.set(xscale="log", xlabel=label, yticks=range(len(shown)))
        axes.set_yticklabels(names, fontsize=7)
        axes.invert_yaxis()
        axes.legend(fontsize=7)
        sketch.tight_layout()
        sketch.savefig(folder / f"gpu-{what}.svg")
        pyplot.close(sketch)
        drawn.append(f"gpu-{what}.svg")
    return drawn
