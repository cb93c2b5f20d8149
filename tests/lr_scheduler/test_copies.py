"""Nothing is patched, nothing is held: copies, pickles, references, compilation."""

import copy
import gc
import pickle
import weakref

import pytest
import torch

import polyak.lr_scheduler as ours
from tests.lr_scheduler.cases import CASES
from tests.lr_scheduler.harness import (
    Run,
    both_optimizers,
    every_case,
    setup_of,
    start,
)
from tests.lr_scheduler.nodes import SETUPS, sgd


def by_pickle(value):
    return pickle.loads(pickle.dumps(value))


every_way = pytest.mark.parametrize(
    "way", [copy.deepcopy, by_pickle], ids=["deepcopy", "pickle"]
)


@every_case
@every_way
@both_optimizers
def test_a_pair_is_copied_together(label, way, optimizers):
    """The copy of the scheduler drives the copy of the optimizer, and goes on alike."""
    run = start(label, optimizers=optimizers).steps(4)
    optimizer, scheduler = way((run.optimizer, run.scheduler))
    assert scheduler.optimizer is optimizer
    assert type(scheduler) is type(run.scheduler)
    other = Run(optimizer, scheduler, run.metrics, run.epoch)
    before = run.seen()
    assert other.seen() == before
    trace = other.trace(6)
    assert run.seen() == before
    assert run.trace(6) == trace


@every_case
def test_a_scheduler_brings_its_optimizer(label):
    """By itself it is a pair too."""
    run = start(label).steps(3)
    scheduler = copy.deepcopy(run.scheduler)
    other = Run(scheduler.optimizer, scheduler, run.metrics, run.epoch)
    assert other.trace(3) == run.trace(3)


@every_case
@both_optimizers
def test_there_are_no_reference_cycles(label, optimizers):
    """Both are freed as soon as nobody holds them, without the collector."""
    gc.disable()
    try:
        run = start(label, optimizers=optimizers).steps(2)
        run.scheduler.state_dict()
        scheduler, optimizer = weakref.ref(run.scheduler), weakref.ref(run.optimizer)
        run.scheduler = None
        assert scheduler() is None
        run.optimizer = None
        assert optimizer() is None
    finally:
        gc.enable()


@every_case
@both_optimizers
def test_the_optimizers_step_is_not_patched(label, optimizers):
    """It is the method that it was, and the instance has no ``step`` of its own."""
    optimizer = SETUPS[setup_of(label)](library=optimizers)
    before = optimizer.step
    CASES[label].node.build(optimizer)
    assert optimizer.step == before
    assert "step" not in vars(optimizer)


@both_optimizers
def test_a_compiled_step(optimizers):
    """torch's schedulers want to patch it: AttributeError."""
    optimizer = sgd(library=optimizers)
    optimizer.step = torch.compile(optimizer.step, backend="eager")
    scheduler = ours.StepLR(optimizer, 1, 0.5)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == [0.025]
    torch._dynamo.reset()


def test_schedulers_may_be_replaced():
    """A dropped scheduler has no more say: the next one begins from ``initial_lr``."""
    optimizer = sgd()
    first = ours.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    first.step()
    del first
    second = ours.LambdaLR(optimizer, lambda epoch: 1.0)
    assert second.get_last_lr() == [0.1]
