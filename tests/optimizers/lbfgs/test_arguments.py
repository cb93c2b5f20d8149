"""L-BFGS refuses what torch's refuses, in its words, and runs nothing of torch's."""

import math
import re
from copy import deepcopy

import pytest
import torch

from polyak import LBFGS
from tests.optimizers.lbfgs.runs import F32, F64, Run, quadratic, rosenbrock


def test_it_is_torchs_by_name_and_uses_nothing_of_it(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("torch's code ran")

    for kind in (torch.optim.LBFGS, torch.optim.Optimizer):
        for name, value in list(vars(kind).items()):
            if callable(value) and not isinstance(value, type):
                monkeypatch.setattr(kind, name, refuse)
    run = Run(LBFGS, rosenbrock(F64), line_search_fn="strong_wolfe")
    assert isinstance(run.optimizer, torch.optim.LBFGS)
    run.step()
    run.optimizer.load_state_dict(run.optimizer.state_dict())
    deepcopy(run.optimizer).zero_grad()
    assert "LBFGS" in repr(run.optimizer)
    run.step()


def test_step_hooks_run_once_a_step():
    run = Run(LBFGS, quadratic(F64), lr=0.1)
    seen = []
    run.optimizer.register_step_pre_hook(lambda *_: seen.append(("pre", run.calls)))
    run.optimizer.register_step_post_hook(lambda *_: seen.append(("post", run.calls)))
    run.step()
    assert seen == [("pre", 0), ("post", run.calls)]


def test_the_closure_may_compute_gradients_even_under_no_grad():
    run = Run(LBFGS, quadratic(F64), lr=0.1)
    with torch.no_grad():
        run.step()
    assert run.state["n_iter"] == 20


def test_a_step_needs_a_closure_that_returns_a_loss():
    run = Run(LBFGS, quadratic(F64))
    with pytest.raises(TypeError, match=r"closure that clears .* and returns it"):
        run.optimizer.step()
    assert not run.optimizer.state
    with pytest.raises(TypeError, match="end it with `return loss`"):
        run.optimizer.step(lambda: None)
    assert not run.optimizer.state


BAD = {
    "lr": (-1.0, ValueError, "Invalid learning rate: -1.0 (LBFGS needs lr >= 0)"),
    "max_iter": (0, ValueError, "max_iter >= 1"),
    "max_eval": (0, ValueError, "max_eval >= 1"),
    "tolerance_grad": (-1e-3, ValueError, "-0.001 (LBFGS needs tolerance_grad >= 0)"),
    "tolerance_change": (
        math.nan,
        ValueError,
        "nan (LBFGS needs tolerance_change >= 0)",
    ),
    "history_size": (0, ValueError, "0 (LBFGS needs history_size >= 1)"),
    "line_search_fn": ("armijo", RuntimeError, "only 'strong_wolfe' is supported"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused(name):
    """At construction, and before a step changes anything if they are set later."""
    value, error, message = BAD[name]
    starts, _ = quadratic(F64)
    with pytest.raises(error, match=re.escape(message)):
        LBFGS(starts, **{name: value})
    run = Run(LBFGS, quadratic(F64))
    run.optimizer.param_groups[0][name] = value
    with pytest.raises(error, match=re.escape(message)):
        run.step()
    assert run.calls == 0


def test_other_refusals():
    x = torch.zeros(1)
    with pytest.raises(TypeError, match=r"whole number for history_size, got 2\.5"):
        LBFGS([x], history_size=2.5)
    with pytest.raises(ValueError, match="Tensor lr must be 1-element"):
        LBFGS([x], lr=torch.ones(2))


def torch_error_inputs():
    from torch.testing._internal.common_optimizers import optim_db

    (info,) = [info for info in optim_db if info.optim_cls is torch.optim.LBFGS]
    return info.optim_error_inputs_func("cpu", F32)


def test_torchs_own_error_inputs():
    inputs = torch_error_inputs()
    assert inputs
    for entry in inputs:
        given = entry.optimizer_error_input
        params = [torch.zeros(1)] if given.params is None else given.params
        if issubclass(entry.error_type, Warning):
            with pytest.warns(entry.error_type, match=entry.error_regex):
                LBFGS(params, **given.kwargs)
            continue
        with pytest.raises(entry.error_type, match=entry.error_regex):
            LBFGS(params, **given.kwargs)
