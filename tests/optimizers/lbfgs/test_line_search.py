"""The search for a step that satisfies the strong Wolfe conditions."""

import math

import pytest
import torch

from polyak.linalg import Point, strong_wolfe
from tests.optimizers.lbfgs.runs import F64

LINES = {
    "parabola": lambda t: (t - 3) ** 2,
    "exponential": lambda t: torch.exp(t / 4) - t,
    "well": lambda t: -t / (t**2 + 2),
    "quartic": lambda t: (t + 0.004) ** 5 - 2 * (t + 0.004) ** 4,
    "waves": lambda t: (1 - t).abs() ** 1.5 + 0.1 * torch.sin(7 * t) - 0.5 * t,
    "wall": lambda t: -torch.log(2 - t) - 5 * t,
}


def along(function, dtype=F64):
    """A function of one number as a line: evaluate, direction and start."""

    def evaluate(t):
        x = torch.as_tensor(t, dtype=dtype).clone().requires_grad_()
        loss = function(x)
        (slope,) = torch.autograd.grad(loss, x)
        return loss.item(), slope.reshape(1)

    loss, grad = evaluate(0)
    direction = torch.ones(1, dtype=dtype)
    return evaluate, direction, Point(0, loss, grad, grad.dot(direction))


@pytest.mark.parametrize("first", [1e-3, 0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("line", LINES)
def test_the_step_found_satisfies_the_strong_wolfe_conditions(line, first):
    """More and Thuente's functions among others, from trials far off on either side."""
    evaluate, direction, start = along(LINES[line])
    assert start.slope < 0
    point, evaluations = strong_wolfe(evaluate, first, direction, start, c2=0.1)
    assert point.loss <= start.loss + 1e-4 * point.t * start.slope
    assert abs(point.slope) <= 0.1 * abs(start.slope)
    assert 1 <= evaluations <= 26
    assert evaluate(point.t) == (point.loss, point.grad)


def test_a_first_trial_that_is_good_is_taken():
    evaluate, direction, start = along(LINES["parabola"])
    point, evaluations = strong_wolfe(evaluate, 2.5, direction, start)
    assert (point.t, evaluations) == (2.5, 1)


@pytest.mark.parametrize("trials", [0, 1, 2])
def test_without_trials_left_the_lowest_end_is_taken(trials):
    evaluate, direction, start = along(lambda t: torch.exp(20 * t) - 21 * t)
    point, evaluations = strong_wolfe(
        evaluate, 50.0, direction, start, max_trials=trials, c2=1e-3, c1=1e-4
    )
    assert point is start
    assert evaluations == 1 + trials


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "grad"])
def test_what_is_not_finite_is_never_taken(bad, where):
    evaluate, direction, start = along(LINES["parabola"])

    def cliff(t):
        loss, grad = evaluate(t)
        if t > 1:
            return (bad, grad) if where == "loss" else (loss, grad * bad)
        return loss, grad

    point, _ = strong_wolfe(cliff, 1000.0, direction, start, c2=0.5)
    assert 0 < point.t <= 1
    assert point.loss < start.loss
    assert point.grad.isfinite().all()


def test_a_first_trial_of_zero_changes_nothing():
    evaluate, direction, start = along(LINES["parabola"])
    assert strong_wolfe(evaluate, 0.0, direction, start) == (start, 0)


def test_the_search_refuses_what_cannot_succeed():
    evaluate, direction, start = along(lambda t: t + 1)
    with pytest.raises(ValueError, match=r"slope 1\.0 at the start is not negative"):
        strong_wolfe(evaluate, 1.0, direction, start)
    with pytest.raises(ValueError, match="choose 0 < c1 < c2 < 1"):
        strong_wolfe(evaluate, 1.0, direction, start, c1=0.9, c2=0.1)
