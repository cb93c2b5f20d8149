"""The race as a picture: the training loss of each optimizer at its best rate."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from ..pictures.style import (
    COLOURS,
    GREY,
    INK,
    LABEL_GAP,
    apart,
    dress,
    unwritable,
    write,
)
from .errors import RaceError
from .run import Results
from .standings import Standing, podium, rank


def check_path(path: Path) -> None:
    """Refuse before the race what could not be written after it."""
    if reason := unwritable(path):
        raise RaceError(reason)


def draw(results: Results, path: Path) -> None:
    """Write the loss curves of all that did not diverge, the winner's on top."""
    rows = podium(rank(results.laps))
    colours = _colours(results)
    memory = max(1, len(rows[0].laps[0].losses) // 20)
    figure = Figure(figsize=(9, 5.2))
    axes = figure.add_axes((0.08, 0.11, 0.6, 0.74))
    ends = [_plot(axes, row, memory, colours) for row in rows]
    _dress(axes, results, memory)
    _label(axes, rows, ends, colours)
    figure.savefig(path, dpi=200, bbox_inches="tight", pad_inches=0.25)


def _colours(results: Results) -> dict[str, str]:
    """A colour for each optimizer, in the order in which they ran."""
    names = dict.fromkeys(lap.contender.name for lap in results.laps)
    return dict(zip(names, cycle(COLOURS), strict=False))


def _plot(
    axes: Axes, row: Standing, memory: int, colours: Mapping[str, str]
) -> tuple[int, float]:
    """Draw a row's mean curve, and the range of its seeds; tell where it ends."""
    curves = _smooth(row, memory)
    mean = curves.mean(axis=0)
    steps = np.arange(1, len(mean) + 1)
    colour = colours[row.contender.name]
    won = row.place == 1
    axes.plot(steps, mean, color=colour, lw=2.6 if won else 1.5, zorder=4 if won else 3)
    if len(curves) > 1:
        low, high = curves.min(axis=0), curves.max(axis=0)
        axes.fill_between(steps, low, high, color=colour, alpha=0.1, lw=0, zorder=2)
    return len(mean), float(mean[-1])


def _smooth(row: Standing, memory: int) -> NDArray[np.float64]:
    """The exponential mean of each seed's losses, not biased towards its start."""
    length = min(len(lap.losses) for lap in row.laps)
    losses = np.array([lap.losses[:length] for lap in row.laps])
    decay = 1 - 1 / memory
    total, weight = np.zeros(len(losses)), 0.0
    for step in range(length):
        total = decay * total + losses[:, step]
        weight = decay * weight + 1
        losses[:, step] = total / weight
    return losses


def _dress(axes: Axes, results: Results, memory: int) -> None:
    """The scales, the title and what else is not a curve."""
    if axes.dataLim.ymin > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    dress(axes)
    axes.set_xlabel("step", color=GREY)
    mean = f", exponential mean over {memory} steps" if memory > 1 else ""
    bands = f" Bands span {len(results.seeds)} seeds." if len(results.seeds) > 1 else ""
    subtitle = f"Training loss{mean}. Each optimizer at its best learning rate."
    write(axes, 0, 1.06, subtitle + bands, GREY, size=10)
    write(axes, 0, 1.14, f"Race on {results.task.name}", INK, size=15, weight="bold")


def _label(
    axes: Axes,
    rows: Sequence[Standing],
    ends: Sequence[tuple[int, float]],
    colours: Mapping[str, str],
) -> None:
    """Beside the end of each curve, in its colour: test accuracy, name and rate."""
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = apart([float(to_axes.transform(end)[1]) for end in ends])
    for row, end, height in zip(rows, ends, heights, strict=True):
        colour = colours[row.contender.name]
        weight = "bold" if row.place == 1 else "normal"
        axes.annotate(
            f"{100 * (row.accuracy or 0):.1f} %",
            xy=end,
            xytext=(1.06, height),
            textcoords="axes fraction",
            color=colour,
            weight=weight,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "relpos": (0, 0.5)},
        )
        name = f"{row.contender.name}, lr {row.contender.lr:g}"
        write(axes, 1.18, height, name, colour, size=10, weight=weight)
    write(axes, 1.06, max(heights) + LABEL_GAP, "test accuracy", GREY, size=9)
