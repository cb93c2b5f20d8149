"""Curves as a matplotlib figure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, MaxNLocator

from .future import Curve, Future
from .style import (
    GREY,
    INK,
    LABEL_GAP,
    apart,
    colours,
    dress,
    limits,
    numerals,
    worth_a_label,
    write,
)

__all__ = ["draw", "size"]

WIDTH, PANEL, HEADER = 9.0, 2.6, 0.8  # inches
FEW = 50  # steps that are seen one by one


def size(future: Future) -> tuple[float, float]:
    """Width and height for a future's picture, in inches."""
    return WIDTH, HEADER + PANEL * len(future.values)


def draw(future: Future, figure: Figure) -> None:
    """Draw a future on an empty figure: one panel a hyperparameter."""
    figure.set_layout_engine("constrained")
    rows = figure.subplots(len(future.values), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(rows, future.values, strict=True):
        _panel(axes, future, name)
    rows[-1].set_xlabel("step", color=GREY)
    if future.title:
        title = textwrap.fill(future.title, 80)
        figure.suptitle(title, x=0.01, ha="left", color=INK, size=13, weight="bold")


def _panel(axes: Axes, future: Future, name: str) -> None:
    curves = future.curves(name)
    low, high = limits(future.values[name])
    room = 0.05 * (high - low)
    dress(axes)
    axes.set_ylim(low and low - room, high and high + room)
    axes.set_title(name, loc="left", color=GREY, size=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(_Numerals())
    marker = "o" if len(future.steps) <= FEW else None
    for curve, colour in zip(curves, colours(len(curves)), strict=True):
        axes.plot(
            future.steps,
            curve.values,
            color=colour,
            lw=1.8,
            marker=marker,
            ms=3,
            clip_on=False,
        )
    _label(axes, curves)


def _label(axes: Axes, curves: Sequence[Curve]) -> None:
    """Beside the end of each curve, in its colour: its groups."""
    shown = [i for i in sorted(worth_a_label(len(curves))) if curves[i].label]
    hues = colours(len(curves))
    low, high = axes.get_ylim()
    # Of curves that end together, the one that was higher has its label above.
    ends = [
        float(curves[i].values[-1] + 1e-6 * np.nanmean(curves[i].values) - low)
        / (high - low)
        for i in shown
    ]
    gap = 1.5 * LABEL_GAP  # a panel is half as high as the picture of a race
    for index, height in zip(shown, apart(ends, gap), strict=True):
        write(axes, 1.01, height, curves[index].label, hues[index], size=9)


class _Numerals(Formatter):
    """Numbers on the axis with one exponent."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return numerals([x])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        return numerals(values)
