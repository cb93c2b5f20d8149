"""What is not finite, and what is raised, spoils neither parameters nor state."""

import contextlib
import math
import warnings
from copy import deepcopy

import pytest
import torch

from polyak import LBFGS
from tests.optimizers.lbfgs.runs import (
    F64,
    SEARCHES,
    Run,
    assert_same,
    quadratic,
    rosenbrock,
)


class Stop(Exception):
    """What a closure raises in these tests."""


def broken(run, how, call, calls=None):
    """The run's closure, of which one call goes wrong; it notes what went before.

    Args:
        run: the run.
        how: "raise", or what is not finite in which place.
        call: the number of that call.
        calls: a list for the loss and the parameters of each call before it.
    """

    def closure():
        loss = run.closure()
        if calls is not None and run.calls < call:
            calls.append((loss.item(), run.values))
        if run.calls != call:
            return loss
        if how == "raise":
            raise Stop
        if how == "gradient":
            run.params[0].grad.mul_(math.inf)
            return loss
        return torch.full_like(loss, float(how))

    return closure


def attempt(run, closure):
    """A step that may warn, or be broken off."""
    with warnings.catch_warnings(), contextlib.suppress(Stop):
        warnings.simplefilter("ignore", RuntimeWarning)
        run.optimizer.step(closure)


BREAKS = pytest.mark.parametrize("how", ["nan", "inf", "-inf", "gradient", "raise"])
STARTS = {"rosenbrock": rosenbrock, "quadratic": quadratic}


@BREAKS
@SEARCHES
@pytest.mark.parametrize("problem", STARTS.values(), ids=STARTS)
def test_whichever_call_goes_wrong_the_loss_does_not_rise(problem, search, how):
    """And parameters and state are finite, and the next step goes on."""
    options = {"lr": 0.5, "max_iter": 8, "line_search_fn": search}
    clean = Run(LBFGS, problem(F64), **options)
    for _ in range(3):
        clean.step()
    for call in range(1, clean.calls + 1):
        run = Run(LBFGS, problem(F64), **options)
        closure = broken(run, how, call)
        while run.calls < call:
            before = run.values
            attempt(run, closure)
        assert run.loss(*run.values) <= run.loss(*before)
        for value in (*run.values, *vectors(run.state)):
            assert value.isfinite().all()
        now, made = run.values, run.state.get("n_iter", 0)
        run.step()
        assert run.state["n_iter"] > made
        assert all(value.isfinite().all() for value in run.values)
        assert not torch.equal(run.values[0], now[0])


def vectors(state):
    """What curvature is made of."""
    return [*state.get("old_dirs", ()), *state.get("old_stps", ())]


LONG = {"lr": 1.9, "max_iter": 99}


@BREAKS
@pytest.mark.parametrize("call", range(2, 14))
def test_the_best_place_of_a_broken_step_is_kept(call, how):
    """With steps that are too long, the ninth call is the first to find more loss."""
    run = Run(LBFGS, quadratic(F64), **LONG)
    calls = []
    attempt(run, broken(run, how, call, calls))
    losses = [loss for loss, _ in calls]
    best = losses.index(min(losses))
    assert best == min(call - 2, 7)
    assert run.calls == call
    assert_same(run.values, calls[best][1])
    # The history ends at the last place, and serves no other.
    last_is_best = 0 < best == call - 2
    assert (run.state["n_iter"] > 0) == (how == "raise" and last_is_best)


@BREAKS
def test_the_step_after_a_broken_one_begins_anew_at_the_best_place(how):
    run = Run(LBFGS, quadratic(F64), **LONG)
    attempt(run, broken(run, how, 11))
    fresh = Run(LBFGS, (run.values, run.loss), **LONG)
    run.step()
    fresh.step()
    assert_same(run.values, fresh.values)
    assert fresh.state.pop("func_evals") < run.state.pop("func_evals")
    assert_same(run.state, fresh.state)


@pytest.mark.parametrize("call", range(1, 13))
def test_a_line_search_that_is_broken_off_leaves_no_trace(call):
    """The parameters are back, and stepping goes on as if nothing had happened."""
    options = {"max_iter": 1, "line_search_fn": "strong_wolfe"}
    smooth = Run(LBFGS, rosenbrock(F64), **options)
    rough = Run(LBFGS, rosenbrock(F64), **options)
    closure = broken(rough, "raise", call)
    while rough.calls + 1 < call:
        before = rough.values
        try:
            rough.optimizer.step(closure)
        except Stop:
            assert_same(rough.values, before)
        else:
            smooth.step()
    for _ in range(5):
        assert_same(rough.values, smooth.values)
        rough.step()
        smooth.step()


def test_a_raise_between_fixed_steps_loses_no_complete_iteration():
    """The third of five iterations raises: two are kept, with their state."""
    whole = Run(LBFGS, quadratic(F64), lr=0.3, max_iter=2, max_eval=9)
    whole.step()
    stopped = Run(LBFGS, quadratic(F64), lr=0.3, max_iter=5)
    with pytest.raises(Stop):
        stopped.optimizer.step(broken(stopped, "raise", 4))
    assert_same(stopped.values, whole.values)
    for key in ("n_iter", "d", "t", "old_dirs", "old_stps", "prev_flat_grad"):
        assert_same(stopped.state[key], whole.state[key])


@pytest.mark.parametrize("spoil", ["nan", "gradient"])
@pytest.mark.parametrize("call", range(2, 12))
def test_the_line_search_steps_around_what_is_not_finite(spoil, call):
    run = Run(LBFGS, rosenbrock(F64), line_search_fn="strong_wolfe", max_iter=100)
    run.optimizer.step(broken(run, spoil, call))
    torch.testing.assert_close(
        run.values[0], torch.ones(3, dtype=F64), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("spoil", ["nan", "gradient"])
@pytest.mark.parametrize("call", range(2, 8))
def test_a_fixed_step_into_what_is_not_finite_is_taken_back(spoil, call):
    options = {"lr": 0.3, "max_iter": max(call - 2, 1), "max_eval": 99}
    clean = Run(LBFGS, quadratic(F64), **options)
    if call > 2:
        clean.step()
    run = Run(LBFGS, quadratic(F64), lr=0.3, max_iter=10)
    with pytest.warns(RuntimeWarning, match="taken back: try a smaller lr") as record:
        run.optimizer.step(broken(run, spoil, call))
    assert record[0].filename == __file__
    assert run.calls == run.state["func_evals"] == call
    assert_same(run.values, clean.values)
    # The next step begins anew.
    run.step()
    fresh = Run(LBFGS, (clean.values, run.loss), lr=0.3, max_iter=10)
    fresh.step()
    assert_same(run.values, fresh.values)
    assert run.state["n_iter"] == 10


@SEARCHES
@pytest.mark.parametrize("spoil", ["nan", "gradient"])
def test_a_step_that_begins_with_nothing_finite_changes_nothing(spoil, search):
    run = Run(LBFGS, quadratic(F64), lr=0.3, max_iter=4, line_search_fn=search)
    run.step()
    values, state, calls = run.values, deepcopy(run.state), run.calls
    with pytest.warns(RuntimeWarning, match="nothing was changed") as record:
        returned = run.optimizer.step(broken(run, spoil, calls + 1))
    assert record[0].filename == __file__
    assert returned.isnan() == (spoil == "nan")
    assert_same(run.values, values)
    assert run.state.pop("func_evals") == state.pop("func_evals") + 1
    assert_same(run.state, state)


def test_a_direction_that_is_not_finite_is_not_taken():
    """y·s overflows though loss and gradient do not, and the next direction is NaN.

    The loss has risen by then: the parameters are back at the start.
    """
    start = torch.tensor([1e20])
    run = Run(LBFGS, ([start], lambda x: 1e18 * x.abs().sum()), lr=2.25e20)
    with pytest.warns(RuntimeWarning, match="taken back"):
        run.step()
    assert torch.equal(run.values[0], start)
    assert run.state["n_iter"] == 0
