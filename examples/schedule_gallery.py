"""Draw every learning-rate schedule there is, side by side in one figure.

A schedule is a function of the step: no optimizer is needed to look at it. ``|`` puts
one after another, ``*`` multiplies.
"""

import math
import sys

from matplotlib.figure import Figure

from polyak.schedules import (
    constant,
    cosine,
    cosine_restarts,
    custom,
    cyclic,
    exponential,
    inverse_sqrt,
    linear,
    multiplicative,
    multistep,
    one_cycle,
    polynomial,
    rex,
    step,
    warmup,
    warmup_cosine,
    wsd,
)


def ripples(k):
    return 1 + 0.2 * math.sin(k / 5)


def slower_and_slower(k):
    return 1 - 1 / (k + 10)


GALLERY = [
    [constant(0.5), step(30, gamma=0.5), multistep([40, 80], gamma=0.3)],
    [linear(1, 0.1, 80), polynomial(100, power=2), exponential(0.97)],
    [cosine(100), cosine(40, periodic=True), cosine_restarts(15, 2)],
    [cyclic(4, 20), cyclic(4, 20, mode="triangular2"), one_cycle(100)],
    [warmup(20), warmup(20) | cosine(80), warmup_cosine(10, 60) * step(30, 0.5)],
    [wsd(10, 60, 30), wsd(10, 60, 30, shape="sqrt"), inverse_sqrt(20)],
    [rex(100), custom(ripples), multiplicative(slower_and_slower)],
]


def main(path: str = "schedules.png", steps: int = 120) -> Figure:
    """Draw the gallery, and write it to a file."""
    figure = Figure(figsize=(10, 12), layout="constrained")
    grid = figure.subplots(len(GALLERY), len(GALLERY[0]), sharex=True)
    for schedules, row in zip(GALLERY, grid, strict=True):
        for schedule, axes in zip(schedules, row, strict=True):
            axes.plot(schedule.value_at(range(steps)))
            axes.set_title(repr(schedule), family="monospace", size=9)
            axes.set_ylim(bottom=0)
            axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("step")
    figure.supylabel("factor of the learning rate")
    figure.savefig(path, dpi=150)
    print(f"wrote {path}")
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:])
