"""Pictures of optimizers: their way down Rosenbrock's valley."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from polyak import Optimizer
from polyak.pictures.style import COLOURS, GREY, INK, dress

START, STEPS = (-1.5, -0.5), 200
RATES = [float(f"{m}e{e}") for e in range(-4, 1) for m in (1, 2, 5)]
X, Y = (-2.0, 2.0), (-1.0, 3.0)  # what the picture shows
TICKS_X, TICKS_Y = [-2, -1, 0, 1, 2], [-1, 0, 1, 2, 3]
CONTOUR = "#cccccc"

# What differs from the defaults, and why.
ARGUMENTS: dict[str, dict[str, Any]] = {
    # One iteration a step, so that each is a point of the path. The line search finds
    # the length of the step.
    "LBFGS": {"lr": 1, "max_iter": 1, "max_eval": 25, "line_search_fn": "strong_wolfe"},
    # The minimum is not at zero.
    "Muon": {"weight_decay": 0.0},
}


@dataclass(frozen=True)
class Path2d:
    """Where an optimizer went.

    Attributes:
        lr: with what learning rate.
        points: the start, and the point after each step.
    """

    lr: float
    points: NDArray[np.float64]

    @property
    def stays(self) -> bool:
        """Whether it never climbed above its start."""
        return bool(self.heights.max() <= self.heights[0])

    @property
    def heights(self) -> NDArray[np.float64]:
        """The function's value at each point."""
        return rosenbrock(*self.points.T)


def rosenbrock(x: Any, y: Any) -> Any:
    """A curved, flat valley between steep walls; its minimum is 0 at (1, 1)."""
    return (1 - x) ** 2 + 10 * (y - x * x) ** 2


def best(kind: type[Optimizer]) -> Path2d:
    """Of the paths that stay below their start, the one that ends lowest."""
    paths = [walk(kind, lr) for lr in rates(kind)]
    return min((path for path in paths if path.stays), key=lambda p: p.heights[-1])


def rates(kind: type[Optimizer]) -> list[float]:
    """The learning rates to choose from."""
    given = ARGUMENTS.get(kind.__name__, {})
    return [given["lr"]] if "lr" in given else RATES


def walk(kind: type[Optimizer], lr: float) -> Path2d:
    """Do the steps with one rate, while it stays below its start."""
    point = torch.tensor([START], dtype=torch.float64, requires_grad=True)
    optimizer = kind([point], **{**ARGUMENTS.get(kind.__name__, {}), "lr": lr})
    points = [point.tolist()[0]]
    for _ in range(STEPS):
        optimizer.step(partial(downhill, point, kind.__name__ == "SparseAdam"))
        points.append(point.tolist()[0])
        if not rosenbrock(*points[-1]) <= rosenbrock(*START):
            break
    return Path2d(lr, np.array(points))


def downhill(point: torch.Tensor, sparse: bool) -> torch.Tensor:
    """The closure: the height, with its gradient."""
    x, y = point.tolist()[0]
    slope = [2 * (x - 1) - 40 * x * (y - x * x), 20 * (y - x * x)]
    grad = torch.tensor([slope], dtype=torch.float64)
    point.grad = grad.to_sparse(1) if sparse else grad
    return torch.tensor(rosenbrock(x, y), dtype=torch.float64)


def draw(path: Path2d, file: Path) -> None:
    """The path, from above, on the function's contours."""
    figure, axes = panel("the path")
    x, y = np.linspace(*X, 101), np.linspace(*Y, 101)
    levels = np.geomspace(0.1, 300, 9)
    axes.contour(x, y, rosenbrock(*np.meshgrid(x, y)), levels, colors=CONTOUR)
    axes.plot(*path.points.T, ".-", color=COLOURS[0], lw=1, ms=3)
    axes.plot(1, 1, "*", color=COLOURS[1], ms=10)
    axes.set(xlim=X, ylim=Y, xticks=TICKS_X, yticks=TICKS_Y)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=GREY, labelsize=9)
    save(figure, file)


def draw_heights(path: Path2d, file: Path) -> None:
    """The height against the step."""
    figure, axes = panel("f after each step")
    axes.semilogy(path.heights, color=COLOURS[0], lw=1.4)
    dress(axes)
    save(figure, file)


def panel(title: str) -> tuple[Figure, Any]:
    """A picture that a phone shows as large as it is; a page has two in a row."""
    figure = Figure(figsize=(3.4, 3.1), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, size=10, color=INK, loc="left")
    return figure, axes


def save(figure: Figure, file: Path) -> None:
    """The same bytes of the same figure."""
    style = {
        "svg.fonttype": "none",
        "font.sans-serif": ["DejaVu Sans", "Verdana"],
        "svg.hashsalt": file.stem,
    }
    with matplotlib.rc_context(style):
        figure.savefig(file, metadata={"Date": None})
