"""The pictures of the report: speed-up by tensor size, time by number of tensors."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from polyak.pictures.style import COLOURS, GREY, INK, apart, dress, write

from .markdown import number
from .overhead import Host
from .step import POLYAK, Result

__all__ = ["BY_NUMBER", "BY_SIZE", "by_number", "by_size", "embedded"]

BY_SIZE, BY_NUMBER = "speed-up-by-size.svg", "time-by-number.svg"

Line = Mapping[float, float]

# A mark for each curve as well as a colour.
MARKS = "os^Dv<>"


def embedded(name: str, what: str) -> str:
    """A picture, as the report shows it."""
    return f"![{what}](pictures/{name})"


def by_size(results: Iterable[Result], path: Path) -> None:
    """How many times faster each optimizer is, by the length of its tensors."""
    lines: dict[str, dict[float, float]] = {}
    for result in results:
        ratio = result.ratio()
        if ratio is not None:
            length = result.case.shapes[0][0]
            lines.setdefault(result.contender.name, {})[length] = ratio
    figure, axes = _axes(
        "Times faster than torch's fastest",
        "By the length of the tensors: a thousand of them, or as many as have 4 "
        "million numbers.",
    )
    axes.axhline(1, color=GREY, lw=1, ls=(0, (4, 3)))
    _draw(axes, lines, COLOURS, "numbers in a tensor")
    _save(figure, path)


def by_number(hosts: Iterable[Host], path: Path) -> None:
    """The time of each implementation's step, by the number of its tensors."""
    found = list(hosts)
    optimizer = found[-1].optimizer
    lines: dict[str, dict[float, float]] = {}
    for host in found:
        if host.optimizer == optimizer:
            for side, taken in host.times.items():
                name = side if side == POLYAK else f"torch, {side}"
                lines.setdefault(name, {})[host.count] = 1e6 * taken.minimum
    figure, axes = _axes(
        f"µs for a step of {optimizer}",
        "Tensors of one number, whose gradients are exchanged before every step: "
        "what is not arithmetic.",
    )
    _draw(axes, lines, [*COLOURS[:1], *[GREY] * len(lines)], "tensors")
    _save(figure, path)


def _axes(title: str, subtitle: str) -> tuple[Figure, Axes]:
    # As wide as a phone shows without its letters becoming too small to read.
    figure = Figure(figsize=(6, 4.6))
    axes = figure.add_axes((0.1, 0.11, 0.62, 0.69))
    write(axes, 0, 1.2, title, INK, size=13, weight="bold")
    write(axes, 0, 1.08, textwrap.fill(subtitle, 62), GREY, size=9.5)
    return figure, axes


def _draw(
    axes: Axes, lines: Mapping[str, Line], colours: Sequence[str], label: str
) -> None:
    """The curves on log axes, each with its name beside its end."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    for (name, line), colour, mark in zip(lines.items(), colours, MARKS, strict=False):
        width = 2.6 if name == POLYAK else 1.8
        axes.plot(list(line), list(line.values()), color=colour, lw=width,
                  marker=mark, ms=4.5, clip_on=False, zorder=3)  # fmt: skip
    dress(axes)
    axes.set_xlabel(label, color=GREY)
    lengths = sorted({length for line in lines.values() for length in line})
    axes.set_xlim(lengths[0], max(lengths[-1], 1.01 * lengths[0]))
    axes.xaxis.set_major_locator(FixedLocator(lengths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: _counted(value))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(FixedLocator(_numbers_around(lines)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    _label(axes, lines, colours)


def _label(axes: Axes, lines: Mapping[str, Line], colours: Sequence[str]) -> None:
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [to_axes.transform(list(line.items())[-1])[1] for line in lines.values()]
    for name, colour, height in zip(lines, colours, apart(ends), strict=False):
        weight = "bold" if name == POLYAK else "normal"
        write(axes, 1.025, height, name, colour, size=10, weight=weight)


def _numbers_around(lines: Mapping[str, Line]) -> list[float]:
    """One, two and five times powers of ten; powers alone where these are many."""
    values = [value for line in lines.values() for value in line.values()]
    low, high = min(values), max(values)
    parts = (1, 2, 5) if high / low < 300 else (1,)
    every = [part * 10.0**power for power in range(-6, 10) for part in parts]
    return [mark for mark in every if low / 2.5 <= mark <= 1.1 * high]


def _counted(value: float) -> str:
    """A power of two in short, another number in full."""
    for unit, letter in ((1 << 20, "M"), (1 << 10, "k")):
        if value >= unit and value % unit == 0:
            return f"{value / unit:g}{letter}"
    return number(value) if value < 1 else f"{value:,.0f}"


def _save(figure: Figure, path: Path) -> None:
    """The same bytes of the same figures."""
    style = {
        "svg.fonttype": "none",
        "font.sans-serif": ["DejaVu Sans", "Verdana"],
        "svg.hashsalt": path.stem,
    }
    path.parent.mkdir(exist_ok=True)
    stamp = {"metadata": {"Date": None}} if path.suffix == ".svg" else {"dpi": 150}
    with matplotlib.rc_context(style):
        figure.savefig(path, **stamp)
