"""Plans where a GradScaler's scale comes and goes, and where limits do."""

import pytest
import torch

import polyak
from polyak.engine import jit

from .support import HYPERPARAMETERS, Run, engines, parameter, three


@pytest.fixture(params=["Adam", "SGD"])
def run(request):
    """An optimizer after two steps: the first has a plan of its own."""
    made = Run("kernel", request.param, three(), HYPERPARAMETERS[request.param])
    made.steps(2)
    return made


def scaled(run, scale, found_inf=0.0):
    """A step as a GradScaler does it."""
    run.gradients()
    for param in run.params:
        param.grad *= scale
    run.optimizer.grad_scale = torch.tensor(scale)
    run.optimizer.found_inf = torch.tensor(found_inf)
    run.step(gradients=False)
    del run.optimizer.grad_scale
    del run.optimizer.found_inf


def factored(run):
    """Whether the plan multiplies gradients."""
    listings = {bucket.kernel.listing for bucket in run.optimizer._plan.buckets}
    assert len(listings) == 1
    return "grad_factor" in listings.pop()


def test_a_scale_needs_another_plan(run):
    """The plan before multiplies gradients by nothing."""
    plan = run.optimizer._plan
    assert not factored(run)
    scaled(run, 2.0)
    assert factored(run)
    assert run.optimizer._plan is not plan


def test_a_plan_with_a_scale_is_kept(run):
    """Whatever the scale is, and without one."""
    scaled(run, 2.0)
    plan = run.optimizer._plan
    for scale in (2.0, 1024.0, 0.5):
        scaled(run, scale)
        assert run.optimizer._plan is plan
        run.step()
        assert run.optimizer._plan is plan


def test_an_overflow_keeps_the_plan(run):
    """A step that is left out is done by the plan, too."""
    scaled(run, 2.0)
    plan = run.optimizer._plan
    scaled(run, 2.0, found_inf=1.0)
    assert run.optimizer.skipped_steps == 1
    assert run.optimizer._plan is plan
    run.step()
    assert run.optimizer._plan is plan


def test_found_inf_alone_keeps_the_plan(run):
    """Gradients that were unscaled before the step have no scale."""
    plan = run.optimizer._plan
    for found_inf in (0.0, 1.0, 0.0):
        run.optimizer.grad_scale = None
        run.optimizer.found_inf = torch.tensor(found_inf)
        run.step()
        assert run.optimizer._plan is plan
    assert run.optimizer.skipped_steps == 1


def test_steps_are_those_without_a_scaler():
    """Scales that are powers of two change nothing but what is contracted."""
    records = []
    for scales in ((None,) * 6, (None, 4.0, None, 1024.0, 0.25, None)):
        run = Run("kernel", "Adam", three(), HYPERPARAMETERS["Adam"])
        for scale in scales:
            if scale is None:
                run.step()
            else:
                scaled(run, scale)
        records.append(run.record)
    torch.testing.assert_close(*records, rtol=1e-6, atol=1e-7)


def test_a_skipped_step_keeps_the_plan(run):
    """A bad gradient is no other gradient."""
    run.optimizer.nonfinite = "skip"
    run.step()
    plan = run.optimizer._plan
    run.gradients()
    run.params[0].grad[0] = torch.nan
    run.step(gradients=False)
    assert run.optimizer.skipped_steps == 1
    assert run.optimizer._plan is plan
    run.step()
    assert run.optimizer._plan is plan


def test_a_skipped_first_step_keeps_no_plan():
    """The state that it was made for is gone."""
    param = parameter([1.0, 2.0], [torch.inf, 1.0])
    optimizer = polyak.Adam([param], nonfinite="skip")
    optimizer.step()
    assert optimizer._plan is None
    param.grad = torch.ones(2)
    optimizer.step()
    assert engines(optimizer) == "kernel"
    assert list(optimizer.state) == [param]


def test_a_limit_that_moves_keeps_the_plan(run):
    """In a tensor or as another number; turned on or off, it is another rule."""
    plan = run.optimizer._plan
    limit = run.optimizer.clip_grad_norm = torch.tensor(2.0)
    run.step()
    assert factored(run)
    assert run.optimizer._plan is not plan
    plan = run.optimizer._plan
    for _ in range(3):
        limit *= 0.5
        run.step()
        assert run.optimizer._plan is plan
    for value in (0.5, 3.0):
        run.optimizer.clip_grad_norm = value
        run.step()
        assert run.optimizer._plan is plan
    run.optimizer.clip_grad_norm = None
    run.step()
    assert not factored(run)


def test_limits_compile_once(monkeypatch, run):
    """Kernels of limits that were on before are found again, whatever they are."""
    for limit in (1.0, None):
        run.optimizer.clip_grad_norm = run.optimizer.clip_grad_value = limit
        run.step()
    monkeypatch.setattr(jit, "_load", None)
    for limit in (0.5, None, 2.0):
        run.optimizer.clip_grad_norm = run.optimizer.clip_grad_value = limit
        run.step()
