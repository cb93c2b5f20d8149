r"""A line search for the strong Wolfe conditions.

Along a direction :math:`d` from a point :math:`x` the loss is a function of one number,
:math:`\phi(t) = f(x + t d)`, with the slope :math:`\phi'(t) = \nabla f(x + t d)^T d`.
A step length :math:`t` is good when

.. math::
    \phi(t) &\le \phi(0) + c_1 \, t \, \phi'(0)
        && \text{sufficient decrease: the step is not too long,} \\
    |\phi'(t)| &\le c_2 \, |\phi'(0)|
        && \text{curvature: the step is not too short.}

Together they make :math:`y^T s > 0` for the step :math:`s = t d` and the change of the
gradient :math:`y`, so that a quasi-Newton method keeps a positive definite matrix.

The search has two phases (Nocedal & Wright, *Numerical Optimization*, 2nd edition,
algorithms 3.5 and 3.6). `_bracket` walks away from 0 until two neighbouring trials are
sure to have a good step between them; `_zoom` shrinks that interval. Both put the next
trial where the cubic through the two ends, with their slopes, has its minimum. Where it
has none, for instance because the loss overflowed at one end, they halve.

The numbers (factors, limits, order of the tests) are those of minFunc, which
`torch.optim.LBFGS` took over.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

__all__ = ["Point", "strong_wolfe"]

Scalar: TypeAlias = float | Tensor
Evaluate: TypeAlias = Callable[[Scalar], tuple[float, Tensor]]


@dataclass(frozen=True, eq=False, slots=True)
class Point:
    r"""One point on the line.

    Attributes:
        t: how far along the direction, a number or a 0-d tensor.
        loss: :math:`\phi(t)`.
        grad: :math:`\nabla f(x + t d)`, a vector.
        slope: :math:`\phi'(t)`, a 0-d tensor on the CPU.
    """

    t: Scalar
    loss: float
    grad: Tensor
    slope: Tensor


def strong_wolfe(
    evaluate: Evaluate,
    t: Scalar,
    direction: Tensor,
    start: Point,
    *,
    c1: float = 1e-4,
    c2: float = 0.9,
    tolerance_change: float = 1e-9,
    max_trials: float = 25,
) -> tuple[Point, int]:
    r"""Find a step that satisfies the strong Wolfe conditions.

    A trial whose loss or slope is not finite counts as infinitely high, so it is never
    the answer. When the trials run out, or the interval has become too small to matter,
    the answer is the lowest end of the interval: at worst ``start`` itself.

    Args:
        evaluate: gives :math:`\phi(t)` and :math:`\nabla f(x + t d)`; must leave
            :math:`x` as it was.
        t: the first trial. If it is not positive there is nothing to search.
        direction: :math:`d`, a vector.
        start: the point at :math:`t = 0`, with a slope that is not positive.
        c1: how much of the decrease that the slope promises is enough,
            :math:`0 < c_1 < c_2`.
        c2: how much of the slope may remain, :math:`c_1 < c_2 < 1`.
        tolerance_change: stop when no component of :math:`x` would move by this much
            from one end of the interval to the other.
        max_trials: the most trials after the first.

    Returns:
        The chosen point, and how often ``evaluate`` was called.

    Raises:
        ValueError: if ``direction`` does not descend, or ``c1`` and ``c2`` are not in
            order.

    >>> import torch
    >>> def evaluate(t):  # f(x) = x², from x = 4 along d = -1
    ...     x = 4.0 - t
    ...     return x**2, torch.tensor([2 * x])
    >>> loss, grad = evaluate(0)
    >>> direction = torch.tensor([-1.0])
    >>> start = Point(0, loss, grad, grad.dot(direction))
    >>> point, evaluations = strong_wolfe(evaluate, 8.0, direction, start)
    >>> float(point.t), float(point.loss), evaluations
    (4.0, 0.0, 2)
    """
    if not 0 < c1 < c2 < 1:
        raise ValueError(f"Invalid c1 and c2: {c1}, {c2}; choose 0 < c1 < c2 < 1")
    if not start.slope <= 0:
        raise ValueError(
            f"Invalid direction: the slope {float(start.slope)} at the start is not "
            "negative; search along a descent direction, such as the negative gradient"
        )
    if not t > 0:
        return start, 0
    line = _Line(evaluate, direction, start, c1, c2)
    bracket, trials = _bracket(line, t, max_trials)
    point, trials = _zoom(line, bracket, trials, max_trials, tolerance_change)
    return point, 1 + trials


@dataclass(frozen=True, eq=False, slots=True)
class _Line:
    """The function of one number that is searched, and what makes a point good."""

    evaluate: Evaluate
    direction: Tensor
    start: Point
    c1: float
    c2: float

    def at(self, t: Scalar) -> Point:
        loss, grad = self.evaluate(t)
        slope = grad.dot(self.direction).cpu()
        if not (math.isfinite(loss) and slope.isfinite()):
            loss = math.inf
        return Point(t, loss, grad, slope)

    def decreases(self, point: Point) -> bool:
        limit = self.start.loss + self.c1 * point.t * self.start.slope
        return not point.loss > limit

    def flattens(self, point: Point) -> bool:
        return bool(point.slope.abs() <= -self.c2 * self.start.slope)


def _bracket(
    line: _Line, t: Scalar, max_trials: float
) -> tuple[tuple[Point, Point], int]:
    """Walk until a good step must lie between the last two points (algorithm 3.5).

    A good step that is met on the way is returned as an interval of width zero.
    """
    previous, point = line.start, line.at(t)
    trials = 0
    while trials < max_trials:
        # The loss has risen, so it has a minimum in between.
        rises = trials > 1 and point.loss >= previous.loss
        if rises or not line.decreases(point):
            return (previous, point), trials
        if line.flattens(point):
            return (point, point), trials
        # It went down and comes up again: likewise.
        if point.slope >= 0:
            return (previous, point), trials
        nearest = point.t + 0.01 * (point.t - previous.t)
        farthest = point.t * 10
        t = _cubic_minimum(previous, point, nearest, farthest)
        previous, point = point, line.at(t)
        trials += 1
    return (line.start, point), trials


def _zoom(
    line: _Line,
    bracket: tuple[Point, Point],
    trials: int,
    max_trials: float,
    tolerance_change: float,
) -> tuple[Point, int]:
    """Shrink the interval around a good step (algorithm 3.6).

    The low end is the one with less loss. A better trial becomes the low end, any other
    the high end, such that the slope at the low end goes down into the interval.
    """
    ends = list(bracket)
    largest = line.direction.abs().max().cpu()
    low = _lowest(ends)
    near_end = False
    while trials < max_trials:
        width = ends[1].t - ends[0].t
        if width == 0 or (width * largest).abs() < tolerance_change:
            break
        t, near_end = _next_trial(ends, near_end)
        point = line.at(t)
        trials += 1
        if not line.decreases(point) or point.loss >= ends[low].loss:
            ends[1 - low] = point
            low = _lowest(ends)
            continue
        if line.flattens(point):
            return point, trials
        if point.slope * (ends[1 - low].t - ends[low].t) >= 0:
            ends[1 - low] = ends[low]
        ends[low] = point
    return ends[low], trials


def _lowest(ends: list[Point]) -> int:
    return 0 if ends[0].loss <= ends[1].loss else 1


def _next_trial(ends: list[Point], near_end: bool) -> tuple[Scalar, bool]:
    """Place the next trial inside the interval, and tell whether it is near an end.

    The minimum of the cubic may crowd one end again and again while the interval hardly
    shrinks. So it may lie within a tenth of the width from an end only once in a row.
    """
    left, right = ends[0].t, ends[1].t
    if right < left:
        left, right = right, left
    margin = 0.1 * (right - left)
    t = _cubic_minimum(ends[0], ends[1], left, right)
    if min(right - t, t - left) >= margin:
        return t, False
    if left < t < right and not near_end:
        return t, True
    if right - t < t - left:
        return right - margin, False
    return left + margin, False


def _cubic_minimum(a: Point, b: Point, lower: Scalar, upper: Scalar) -> Scalar:
    """Minimise the cubic that has the losses and slopes of two points.

    The result is clamped to the limits; it is their middle if there is no minimum
    (Nocedal & Wright, equation 3.59).
    """
    left, right = (a, b) if a.t <= b.t else (b, a)
    rise = 3 * (left.loss - right.loss) / (left.t - right.t)
    d1 = left.slope + right.slope - rise
    # The square root of a negative number is NaN: then there is no minimum.
    d2 = (d1**2 - left.slope * right.slope).sqrt()
    ratio = (right.slope + d2 - d1) / (right.slope - left.slope + 2 * d2)
    t = right.t - (right.t - left.t) * ratio
    if t.isnan():
        return (lower + upper) / 2
    if t < lower:
        return lower
    return upper if t > upper else t
