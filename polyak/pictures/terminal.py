"""Curves in a terminal, in dots of braille: eight to a character."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions
from rich.text import Text

from .future import Curve, Future
from .style import colours, limits, numerals, ticks, worth_a_label

__all__ = ["TerminalPicture"]

WIDEST = 110  # characters: beyond, curves become flat
BELOW = "step"  # what the numbers below the picture are
BRAILLE = 0x2800
BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])


@dataclass(frozen=True)
class TerminalPicture:
    """What rich prints for a future: one panel a hyperparameter.

    It is as wide as the console, and in ASCII where that shows nothing else.
    """

    future: Future
    height: int = 12

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[Text]:
        panels = [_Panel(self.future, name, self.height) for name in self.future.values]
        margin = max(panel.margin for panel in panels)
        yield Text(self.future.title, style="bold")
        for panel in panels:
            yield Text()
            yield from panel.lines(
                margin, min(options.max_width, WIDEST), options.ascii_only
            )


class _Panel:
    """One hyperparameter: its curves, with numbers beside and below."""

    def __init__(self, future: Future, name: str, height: int) -> None:
        self.name, self.steps, self.height = name, future.steps, height
        self.curves = future.curves(name)
        self.limits = limits(future.values[name])
        self.marks = ticks(*self.limits, height // 3)
        self.texts = numerals(self.marks)
        self.margin = max(map(len, (BELOW, *self.texts)))

    def lines(self, margin: int, width: int, ascii_only: bool) -> Iterator[Text]:
        """The text, as wide as is said, with so much of it left of the axis."""
        screen = _Screen(self.steps, self.limits, width - margin - 2, self.height)
        rows = [screen.row(mark) for mark in self.marks]
        labels = dict(zip(rows, self.texts, strict=True))
        side, corner, floor = "|+-" if ascii_only else "│└─"
        yield Text(f"{self.name:>{margin}}", style="dim")
        for row, dots in enumerate(screen.paint(self.curves, ascii_only)):
            label = f"{labels.get(row, ''):>{margin}} {side}"
            yield Text.assemble((label, "dim"), dots, no_wrap=True)
        steps = screen.numbers(ticks(*screen.span, max(screen.width // 12, 2)))
        yield Text(f"{'':{margin}} {corner}{floor * screen.width}", "dim", no_wrap=True)
        yield Text(f"{BELOW:>{margin}}  {steps}", "dim", no_wrap=True)
        yield from _legend(self.curves, ascii_only)


class _Screen:
    """A grid of characters, and the dots in it."""

    def __init__(
        self,
        steps: NDArray[np.int64],
        heights: tuple[float, float],
        width: int,
        height: int,
    ) -> None:
        self.steps, self.heights = steps, heights
        self.span = int(steps[0]), max(int(steps[-1]), int(steps[0]) + 1)
        self.width, self.height = max(width, 8), height

    def row(self, value: float) -> int:
        """The line, counted from above, in which a value lies."""
        return self.height - 1 - round(float(self._rows(value))) // 4

    def _rows(self, values: NDArray[np.float64] | float) -> NDArray[np.float64]:
        low, high = self.heights
        return (np.asarray(values) - low) / (high - low) * (4 * self.height - 1)

    def _columns(self, steps: NDArray[np.int64] | float) -> NDArray[np.float64]:
        first, last = self.span
        return (np.asarray(steps) - first) / (last - first) * (2 * self.width - 1)

    def paint(self, curves: Sequence[Curve], ascii_only: bool) -> Iterator[Text]:
        """The lines of the picture."""
        cells = np.zeros((self.height, self.width), dtype=np.int64)
        painter = np.zeros_like(cells)
        for index, curve in enumerate(curves):
            dots = self._dots(curve).reshape(self.height, 4, self.width, 2)
            bits = np.einsum("hrwc,rc->hw", dots, BITS)
            cells |= bits
            painter[bits > 0] = index
        hues = colours(len(curves))
        for codes, owners in zip(cells.tolist(), painter.tolist(), strict=True):
            line = Text()
            for owner, places in groupby(range(self.width), owners.__getitem__):
                text = "".join(_character(codes[p], ascii_only) for p in places)
                line.append(text, hues[owner])
            yield line

    def _dots(self, curve: Curve) -> NDArray[np.bool_]:
        """Which dots a curve covers: in each column, from its lowest to its highest."""
        known = np.isfinite(curve.values)
        if not known.any():
            return np.zeros((4 * self.height, 2 * self.width), dtype=bool)
        x, y = self._columns(self.steps[known]), self._rows(curve.values[known])
        # A curve leaves a column at the height at which it enters the next.
        borders = np.arange(2 * self.width - 1)
        at_borders = np.interp(borders + 0.5, x, y)
        columns = np.concatenate([np.rint(x).astype(int), borders, borders + 1])
        values = np.concatenate([y, at_borders, at_borders])
        lowest = np.full(2 * self.width, np.inf)
        highest = np.full(2 * self.width, -np.inf)
        np.minimum.at(lowest, columns, values)
        np.maximum.at(highest, columns, values)
        rows = np.arange(4 * self.height - 1, -1, -1)[:, None]
        covered: NDArray[np.bool_]
        covered = (rows >= np.rint(lowest)) & (rows <= np.rint(highest))
        return covered

    def numbers(self, marks: Sequence[float]) -> str:
        """The line below: steps at their places, as many as do not touch."""
        text = ""
        for mark in marks:
            number = f"{mark:.0f}"
            column = int(self._columns(mark)) // 2
            start = min(max(column - len(number) // 2, 0), self.width - len(number))
            if mark == int(mark) and (start > len(text) or not text):
                text = f"{text:<{start}}{number}"
        return text


def _character(code: int, ascii_only: bool) -> str:
    if not code:
        return " "
    return "*" if ascii_only else chr(BRAILLE + code)


def _legend(curves: Sequence[Curve], ascii_only: bool) -> Iterator[Text]:
    shown = worth_a_label(len(curves))
    hues = colours(len(curves))
    stroke = "--" if ascii_only else "──"
    for index, curve in enumerate(curves):
        if curve.label and index in shown:
            yield Text.assemble((f"{stroke} ", hues[index]), curve.label)
