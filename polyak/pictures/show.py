"""Pictures where they can be seen: a file, a window, a notebook, the terminal."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .future import Future, future
from .style import unwritable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot"]

# The backends of matplotlib that write files.
HEADLESS = frozenset({"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"})


def plot(
    what: Any,
    steps: int | None = None,
    *,
    lr: float | None = None,
    to: str | PathLike[str] | None = None,
) -> Figure:
    """Draw what each group's hyperparameters will be.

    The picture goes to the file ``to``; without one to a window or a notebook; and
    where matplotlib has no display, into the terminal. Nothing is changed by it: not
    the schedulers, the optimizer, its parameters or the state of random generators.

    Args:
        what: a schedule (:mod:`polyak.schedules`); a scheduler, of polyak, of torch or
            of your own; a list of schedulers that step together on one optimizer; or an
            optimizer that schedulers of polyak drive.
        steps: how many steps, from where the schedulers stand; by default until the
            schedule ends.
        lr: the learning rate of which a pure schedule is a factor.
        to: the file to write, in ``.png``, ``.svg``, ``.pdf`` or what else matplotlib
            writes.

    Returns:
        The matplotlib figure, with a panel for ``lr`` and one for each other
        hyperparameter that changes. Groups with the same values share a curve. A
        ReduceLROnPlateau is drawn as if it never reduced.

    Raises:
        TypeError: none of these.
        ValueError: no ``steps`` for what never ends, an optimizer without schedulers, a
            file that cannot be written.

    >>> from polyak.schedules import cosine, warmup
    >>> figure = plot(warmup(500) | cosine(10_000), lr=3e-4)  # doctest: +SKIP
    """
    path = None if to is None else Path(to)
    if path is not None and (reason := unwritable(path)):
        raise ValueError(reason)
    seen = future(what, steps, lr=lr)
    if path is not None:
        figure = drawn(seen)
        figure.savefig(path, dpi=200)
        return figure
    return _shown(seen)


def drawn(seen: Future) -> Figure:
    """The figure of a future, which no window shows."""
    from matplotlib.figure import Figure

    from .figure import draw, size

    figure = Figure(figsize=size(seen))
    draw(seen, figure)
    return figure


def _shown(seen: Future) -> Figure:
    from matplotlib import pyplot

    backend = pyplot.get_backend().lower()
    if backend in HEADLESS:
        from rich.console import Console

        from .terminal import TerminalPicture

        Console().print(TerminalPicture(seen))
        return drawn(seen)
    if "inline" in backend:  # the notebook displays what a cell returns
        return drawn(seen)
    from .figure import draw, size

    figure = pyplot.figure(figsize=size(seen))
    draw(seen, figure)
    pyplot.show()
    return figure
