"""How pictures look: colours, axes, labels that keep apart, files that can be written.

matplotlib is imported only by what draws: the terminal has these colours too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "COLOURS",
    "GREY",
    "GRID",
    "INK",
    "LABEL_GAP",
    "apart",
    "colours",
    "dress",
    "limits",
    "numerals",
    "ticks",
    "unwritable",
    "worth_a_label",
    "write",
]

# Ten hues that stay apart on white, to the colour-blind as well.
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#c2569b", "#dd9a00",
    "#46a5dc", "#6f4fa8", "#9c5a2c", "#8a8f00", "#7a7a7a",
)  # fmt: skip
INK, GREY, GRID = "#222222", "#767676", "#e6e6e6"
_SHADES = (COLOURS[0], COLOURS[3], COLOURS[4])
LABEL_GAP = 0.06  # from label to label, in heights of the axes


def unwritable(path: Path) -> str | None:
    """Why no picture can be written there, or None: asked before the work is done."""
    from matplotlib.backend_bases import FigureCanvasBase

    if path.suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
        return (
            f"no picture can be written as {str(path)!r}: end its name in .png, .svg "
            "or .pdf"
        )
    if not path.parent.is_dir():
        return f"there is no directory {str(path.parent)!r} for the picture"
    return None


def dress(axes: Axes) -> None:
    """Axes that leave the ink to the curves."""
    axes.margins(x=0)
    axes.grid(color=GRID, lw=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(which="both", length=0, labelcolor=GREY, labelsize=9)


def write(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    colour: str,
    *,
    size: float,
    weight: str = "normal",
) -> None:
    """Write at a point of the axes, in fractions of their size."""
    style = {"color": colour, "size": size, "weight": weight, "va": "center"}
    axes.text(x, y, text, style, transform=axes.transAxes)


def apart(heights: Sequence[float], gap: float = LABEL_GAP) -> list[float]:
    """The nearest heights that keep labels apart: an isotonic regression."""
    order = np.argsort(heights)
    blocks: list[tuple[float, int]] = []  # (mean, size) of labels that touch
    for above, index in enumerate(order):
        mean, size = heights[index] - above * gap, 1
        while blocks and blocks[-1][0] > mean:
            other, count = blocks.pop()
            mean = (mean * size + other * count) / (size + count)
            size += count
        blocks.append((mean, size))
    levels = [mean for mean, size in blocks for _ in range(size)]
    result = np.empty(len(heights))
    result[order] = np.clip(levels, 0, 1 - len(heights) * gap)
    result[order] += np.arange(len(heights)) * gap
    return [float(height) for height in result]


# Numbers on axes


def limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """The lowest and the highest value to show; from zero where that is near."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    if 0 <= low <= high / 2 or low == high:
        low, high = min(low, 0.0), max(high, 0.0)
    return (low, high) if low < high else (0.0, 1.0)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from ``low`` to ``high``, ``count`` intervals of them at most."""
    least = (high - low) / max(count, 1)
    unit = 10.0 ** math.floor(math.log10(least))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= least * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def numerals(values: Sequence[float]) -> list[str]:
    """Numbers as text; the small and the large ones all with one exponent.

    >>> numerals([0, 0.5, 1])
    ['0', '0.5', '1']
    >>> numerals([0, 5e-5, 1.5e-4])
    ['0', '0.5e-4', '1.5e-4']
    """
    largest = max(map(abs, values), default=0.0)
    exponent = math.floor(math.log10(largest)) if largest else 0
    plain = -3 < exponent < 6
    unit, power = (1.0, "") if plain else (10.0**exponent, f"e{exponent}")
    rounded = [value if abs(value) > 1e-9 * largest else 0.0 for value in values]
    return [f"{value / unit:g}{power}" if value else "0" for value in rounded]


# Many curves


def colours(count: int) -> list[str]:
    """Colours that differ; of more than there are hues, shades that follow another."""
    if count <= len(COLOURS):
        return list(COLOURS[:count])
    stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in _SHADES])
    at = np.linspace(0, len(stops) - 1, count)
    channels = [np.interp(at, range(len(stops)), channel) for channel in stops.T]
    return [f"#{bytes(rgb).hex()}" for rgb in np.stack(channels, 1).astype(np.uint8)]


def worth_a_label(count: int) -> set[int]:
    """Which of so many curves have their label shown."""
    if count <= len(COLOURS):
        return set(range(count))
    return {round(index) for index in np.linspace(0, count - 1, 6)}
