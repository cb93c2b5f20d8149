"""A plan is kept while it holds; it keeps nothing else alive, and no step allocates."""

import gc
import weakref

import pytest
import torch
from torch import nn

import polyak
from polyak.engine import jit

from .support import HYPERPARAMETERS, Run, engines, parameter, three


@pytest.fixture(params=["Adam", "SGD"])
def run(request):
    """An optimizer after two steps: the first has a plan of its own."""
    made = Run("kernel", request.param, three(), HYPERPARAMETERS[request.param])
    made.steps(2)
    return made


def test_the_plan_is_kept(run):
    """New gradients alone change nothing."""
    plan = run.optimizer._plan
    run.steps(3)
    assert run.optimizer._plan is plan


def test_the_plan_is_kept_after_backward(run):
    """zero_grad(set_to_none=True) and backward() move gradients, not the plan."""
    plan = run.optimizer._plan
    for _ in range(3):
        run.optimizer.zero_grad()
        sum(param.square().sum() for param in run.params).backward()
        run.step(gradients=False)
    assert run.optimizer._plan is plan


def test_a_learning_rate_keeps_the_plan(run):
    """A float, an int, a tensor, and a tensor filled in place."""
    plan, group = run.optimizer._plan, run.groups[0]
    lr = torch.tensor(0.3)
    for value in (0.2, 1, lr, 0.5, lr):
        group["lr"] = value
        lr += 0.1
        run.step()
        assert run.optimizer._plan is plan


def test_other_numbers_keep_the_plan(run):
    """As long as the rule takes the same branches."""
    plan, group = run.optimizer._plan, run.groups[0]
    group["weight_decay"] = 0.5
    if "betas" in group:
        group["betas"] = (0.5, 0.6)
    else:
        group["momentum"] = 0.1
    run.step()
    assert run.optimizer._plan is plan


def test_other_things_keep_the_plan(run):
    """Keys and notes that the rule does not know."""
    plan = run.optimizer._plan
    run.groups[0]["initial_lr"] = 5.0
    run.optimizer.defaults["lr"] = 7.0
    run.step()
    assert run.optimizer._plan is plan


def test_a_flipped_branch_keeps_the_kernels(monkeypatch, run):
    """Nothing is compiled twice when a hyperparameter goes back and forth."""
    for weight_decay in (0.0, 0.1):
        run.groups[0]["weight_decay"] = weight_decay
        run.step()
    monkeypatch.setattr(jit, "_load", None)
    for weight_decay in (0.0, 0.1, 0.0):
        run.groups[0]["weight_decay"] = weight_decay
        run.step()


def test_hyperparameters_are_no_part_of_the_kernel(monkeypatch, run):
    """Another optimizer with other numbers compiles nothing."""
    monkeypatch.setattr(jit, "_load", None)
    options = HYPERPARAMETERS[run.kind.__name__] | {"lr": 0.77, "weight_decay": 0.33}
    other = Run("kernel", run.kind.__name__, three(), options)
    other.steps(3)


def test_rows_are_shared():
    """A thousand equal groups have one row of scalars, while they are equal."""
    params = [parameter([1.0], [1.0]) for _ in range(1000)]
    optimizer = polyak.Adam([{"params": [param]} for param in params])
    optimizer.step()
    (bucket,) = optimizer._plan.buckets
    assert set(bucket.table.arrays["row"].tolist()) == {0}
    for group in optimizer.param_groups[::2]:
        group["lr"] = 0.5
    optimizer.step()
    assert set(bucket.table.arrays["row"].tolist()) == {0, 1}
    assert optimizer._plan.buckets == [bucket]


# Memory


def allocated(step):
    """The bytes that torch allocates on the CPU during a step."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    events = profile.profiler.kineto_results.events()
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return [size for size in sizes if size > 0]


def test_the_profiler_sees_allocations():
    """What the next test relies on."""
    assert allocated(lambda: torch.ones(1000)) == [4000]


@pytest.mark.filterwarnings("ignore:.*kineto")
@pytest.mark.parametrize("kind", ["Adam", "SGD", "RMSprop", "Adagrad"])
def test_a_fused_step_allocates_nothing(kind):
    """Not one byte of tensor memory, whatever the model."""
    params = [torch.ones(size, requires_grad=True) for size in (1, 1000, 200_000)]
    optimizer = getattr(polyak, kind)(params, lr=0.1, weight_decay=0.1)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    optimizer.step()
    assert allocated(optimizer.step) == []
    optimizer.param_groups[0]["lr"] = 0.2
    assert allocated(optimizer.step) == []
    assert engines(optimizer) == "kernel"


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_gradients_are_not_kept(foreach, steps):
    """After zero_grad() their memory is free: as much as the parameters have."""
    param = parameter([1.0, 2.0])
    optimizer = polyak.SGD([param], lr=0.1, momentum=0.9, foreach=foreach)
    for _ in range(steps):
        param.grad = torch.ones(2)
        last = weakref.ref(param.grad)
        optimizer.step()
        optimizer.zero_grad()
        assert last() is None


@pytest.mark.parametrize("foreach", [None, False])
def test_old_state_is_not_kept(foreach):
    """What was replaced is free after the next step."""
    param = parameter([1.0, 2.0], [1.0, 1.0])
    optimizer = polyak.Adam([param], foreach=foreach)
    optimizer.step()
    old = weakref.ref(optimizer.state[param]["exp_avg"])
    optimizer.state[param]["exp_avg"] = torch.zeros(2)
    optimizer.step()
    assert old() is None


@pytest.mark.parametrize("foreach", [None, False])
def test_an_optimizer_is_freed_with_its_last_reference(foreach):
    """There is no cycle that waits for the garbage collector."""
    gc.disable()
    try:
        param = parameter([1.0, 2.0], [1.0, 1.0])
        optimizer = polyak.Adam([param], foreach=foreach)
        optimizer.step()
        optimizer.step()
        state = weakref.ref(optimizer.state[param]["exp_avg"])
        freed = weakref.ref(optimizer)
        del optimizer
        assert freed() is None
        assert state() is None
    finally:
        gc.enable()


def test_a_model_is_freed_with_its_optimizer():
    """Nothing global holds parameters: no cache of tables, readings or kernels."""
    model = nn.Linear(3, 2)
    optimizer = polyak.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    weight = weakref.ref(model.weight)
    del model, optimizer
    gc.collect()
    assert weight() is None


def test_classes_are_freed():
    """Optimizers defined in a loop, in a notebook, do not pile up readings."""

    def make():
        class Mine(polyak.SGD):
            @staticmethod
            def rule(param, grad, momentum_buffer=None, *, lr):
                return param - lr * grad, momentum_buffer

        param = parameter([1.0], [1.0])
        Mine([param], lr=0.1).step()
        return weakref.ref(Mine.rule)

    rule = make()
    gc.collect()
    assert rule() is None
