"""The state of L-BFGS in checkpoints and copies."""

import pickle
from copy import deepcopy

import pytest
import torch

from polyak import LBFGS
from tests.optimizers.lbfgs.runs import (
    C64,
    F32,
    F64,
    SEARCHES,
    Run,
    assert_same,
    quadratic,
    rosenbrock,
)


@SEARCHES
@pytest.mark.parametrize(("first", "then"), [(0, 1), (1, 0), (0, 0)])
@pytest.mark.parametrize("dtype", [F32, F64, C64], ids=str)
def test_a_state_dict_continues_in_either_library(first, then, dtype, search):
    kinds = LBFGS, torch.optim.LBFGS
    options = {"lr": 0.1, "max_iter": 5, "line_search_fn": search}
    straight = Run(kinds[first], rosenbrock(dtype), **options)
    for _ in range(3):
        straight.step()
    saved = deepcopy(straight.optimizer.state_dict())
    resumed = Run(kinds[then], (straight.values, straight.loss), lr=7)
    resumed.optimizer.load_state_dict(saved)
    for _ in range(4):
        straight.step()
        resumed.step()
        assert_same(resumed.values, straight.values)
        assert_same(resumed.state, straight.state)


def test_a_state_dict_taken_before_a_step_stays_as_it_was():
    run = Run(LBFGS, quadratic(F64), lr=0.1, max_iter=3)
    run.step()
    taken = run.optimizer.state_dict()
    copy = deepcopy(taken)
    run.step()
    assert_same(taken, copy)


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize(
    "copy",
    [deepcopy, lambda x: pickle.loads(pickle.dumps(x))],
    ids=["deepcopy", "pickle"],
)
@SEARCHES
def test_copies_continue_as_the_original(copy, steps, search):
    """torch's lose ``_params`` and cannot step."""
    run = Run(LBFGS, rosenbrock(F64), lr=0.1, max_iter=5, line_search_fn=search)
    for _ in range(steps):
        run.step()
    twin = Run(LBFGS, rosenbrock(F64))
    twin.optimizer = copy(run.optimizer)
    twin.params = twin.optimizer.param_groups[0]["params"]
    for _ in range(3):
        run.step()
        twin.step()
        assert_same(twin.values, run.values)
        assert_same(twin.state, run.state)


@pytest.mark.parametrize("key", ["d", "prev_flat_grad", "old_dirs", "old_stps"])
def test_the_state_of_another_model_is_refused(key):
    """One vector of another length, anywhere, and nothing is loaded."""
    run = Run(LBFGS, quadratic(F64), lr=0.1, max_iter=4)
    run.step()
    damaged = deepcopy(run.optimizer.state_dict())
    damaged["param_groups"][0]["lr"] = 7.0
    values = damaged["state"][0]
    if isinstance(values[key], list):
        values[key][-1] = torch.zeros(31)
    else:
        values[key] = torch.zeros(31)
    state = deepcopy(run.state)
    with pytest.raises(ValueError, match=rf"{key} of shape \(31,\) .* is \(30,\)"):
        run.optimizer.load_state_dict(damaged)
    assert_same(run.state, state)
    assert run.optimizer.param_groups[0]["lr"] == 0.1


def test_the_state_of_another_order_is_refused():
    """It is one vector of all parameters: names cannot tell its parts apart."""
    x, y = (torch.zeros(2, requires_grad=True) for _ in "xy")
    saved = LBFGS([("x", x), ("y", y)]).state_dict()
    with pytest.raises(ValueError, match=r"in the order \['x', 'y'\]"):
        LBFGS([("y", y), ("x", x)]).load_state_dict(saved)
    LBFGS([("x", x), ("y", y)]).load_state_dict(saved)
