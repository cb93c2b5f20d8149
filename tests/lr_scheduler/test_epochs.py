"""``step(epoch)``, deprecated: torch's values, by a closed form where it has one."""

import pytest

import polyak.lr_scheduler as ours
from tests.lr_scheduler.cases import CASES
from tests.lr_scheduler.harness import (
    assert_close,
    cases,
    runs,
    start,
)
from tests.lr_scheduler.nodes import TORCHS, sgd

EPOCHS = (0, 3, 12, 5, 4, 9)
# torch multiplies the last rate by the function of the epoch, from wherever it was.
BY_LAST_RATE = {"MultiplicativeLR", "Shrink"}

takes_epoch = runs(
    lambda case: (
        not case.not_torchs
        and case.node.name not in ("SequentialLR", "ChainedScheduler")
        and not case.node.names & BY_LAST_RATE
        and not case.metrics
    )
)


@takes_epoch
def test_values_are_torchs(label, setup):
    """Forwards, backwards, and on from there by plain steps."""
    warns = "WarmRestarts" not in CASES[label].node.name
    traces = []
    for library in ({}, {"library": TORCHS}):
        run = start(label, setup, **library)
        run.optimizer.step()
        seen = []
        for epoch in EPOCHS:
            if warns:
                with pytest.warns(UserWarning, match="epoch parameter in `scheduler"):
                    run.scheduler.step(epoch)
            else:
                run.scheduler.step(epoch)
            seen.append(run.seen())
        traces.append(seen + run.trace(3))
    # torch's own T_i is not what its warm restarts go on by after a step back.
    actual, expected = traces
    rel = 1e-6 if setup == "tensor" else 1e-12
    assert_close(actual, expected, rel, label)


@cases(lambda case: case.node.names <= {"MultiplicativeLR"})
def test_multiplicative_goes_to_the_product(label):
    """Where torch goes on from the last rate, the epoch's own value is set."""
    walked, jumped = start(label), start(label)
    walked.steps(6)
    jumped.optimizer.step()
    with pytest.warns(UserWarning, match="epoch parameter in `scheduler"):
        jumped.scheduler.step(6)
    assert jumped.seen() == walked.seen()


@cases(lambda case: case.node.name == "CosineAnnealingWarmRestarts")
def test_warm_restarts_take_fractions(label):
    """Documented, not deprecated: ``step(epoch + i / iterations)`` does not warn."""
    traces = []
    for library in ({}, {"library": TORCHS}):
        run = start(label, **library)
        run.optimizer.step()
        seen = []
        for tick in range(60):
            run.scheduler.step(tick / 4)
            seen.append([*run.lrs, run.scheduler.last_epoch, run.scheduler.T_cur])
        traces.append(seen)
    assert_close(*traces, 1e-12, label)


def test_plateau_takes_an_epoch():
    """It is the second argument, and sets ``last_epoch``."""
    optimizer = sgd()
    scheduler = ours.ReduceLROnPlateau(optimizer)
    with pytest.warns(UserWarning, match="epoch parameter in `scheduler"):
        scheduler.step(0.5, 7)
    assert scheduler.last_epoch == 7
    scheduler.step(0.5)
    assert scheduler.last_epoch == 8


def test_warm_restarts_refuse_a_negative_epoch():
    """In torch's words, and nothing changes."""
    scheduler = ours.CosineAnnealingWarmRestarts(sgd(), T_0=3)
    with pytest.raises(ValueError, match="Expected non-negative epoch, but got -1"):
        scheduler.step(-1)
    assert (scheduler.last_epoch, scheduler.get_last_lr()) == (0, [0.1])
