"""``last_epoch=k`` stands where a run of ``k + 1`` steps does, on any optimizer."""

from copy import deepcopy

import pytest

import polyak.lr_scheduler as ours
from tests.lr_scheduler.cases import CASES
from tests.lr_scheduler.harness import (
    DIFFERENT,
    assert_close,
    cases,
    runs,
    snapshot,
    start,
    start_node,
)
from tests.lr_scheduler.nodes import COMPOSITES, SETUPS, STEPS, harmonic, sgd
from tests.lr_scheduler.reference import value

has_formula = runs(lambda case: case.formula, DIFFERENT)
one_formula = cases(
    lambda case: (
        case.formula
        and case.node.name not in COMPOSITES | {"Scheduler", "Wave", "Halve"}
    )
)


@has_formula
def test_built_at_an_epoch(label, setup):
    """On a fresh optimizer: the rates of that epoch and of all that follow."""
    trace = start(label, setup).trace()
    for last_epoch in (-1, 0, 1, 3, 4, 8, 11):
        run = start(label, setup, last_epoch=last_epoch)
        actual = run.trace(STEPS - last_epoch - 1)
        where = f"{label} at {last_epoch}"
        assert_close(actual, trace[last_epoch + 1 :], 0, where)


@has_formula
def test_built_at_an_epoch_of_a_loaded_optimizer(label, setup):
    """torch's own idiom: the optimizer's state, and no state of the scheduler."""
    old = start(label, setup)
    for epoch in range(1, 10):
        old.step()
        optimizer = SETUPS[setup]()
        optimizer.load_state_dict(deepcopy(old.optimizer.state_dict()))
        new = start_node(CASES[label].node, optimizer, last_epoch=epoch - 1)
        assert_close(new.trace(3), deepcopy(old).trace(3), 0, f"{label} at {epoch}")


@one_formula
@pytest.mark.parametrize("setup", ["groups"])
def test_any_epoch_can_be_asked_for(label, setup):
    """``value_at(k)`` is what ``k`` steps set, bit for bit, and changes nothing."""
    walked, asked = start(label, setup), start(label, setup)
    for epoch in range(STEPS):
        before = snapshot(asked)
        due = asked.scheduler.value_at(epoch)
        assert repr(snapshot(asked)) == repr(before)
        assert walked.lrs == due
        assert all(type(rate) is float for rate in due)
        walked.step()
    # From elsewhere, and backwards.
    assert walked.scheduler.value_at(2) == start(label, setup).steps(2).lrs


@pytest.mark.parametrize(
    ("case", "factor"),
    [
        ("step", lambda k: 0.5 ** (k // 3)),
        ("linear", lambda k: 1 / 3 + 2 / 3 * min(k, 5) / 5),
        ("exponential", lambda k: 0.9**k),
        ("lambda", harmonic),
    ],
)
def test_the_epoch_after_is_what_is_set(case, factor):
    """``last_epoch=k`` says that epoch ``k`` was done."""
    for done in range(12):
        run = start(case, last_epoch=done)
        assert run.scheduler.last_epoch == done + 1
        assert run.lrs == pytest.approx([0.1 * factor(done + 1)], rel=1e-12, abs=0)


def test_the_base_rate_of_a_loaded_group_is_its_own():
    """``initial_lr`` wins over a rate that has moved since."""
    optimizer = sgd()
    optimizer.param_groups[0].update(lr=0.025, initial_lr=0.4)
    scheduler = ours.StepLR(optimizer, 3, 0.5, last_epoch=5)
    assert scheduler.base_lrs == [0.4]
    assert scheduler.get_last_lr() == [0.1]


def test_a_million_steps_away():
    """An epoch is reached without walking there."""
    run = start("nested_last", last_epoch=10**6 - 1)
    (child,) = [CASES["nested_last"].node.children[1].children[2]]
    assert run.lrs[0] == pytest.approx(value(child, 0.1, 10**6 - 11), rel=1e-9)


def test_a_plateau_counts_on():
    """It takes the argument as all do; rates stay, and metrics are counted anew."""
    optimizer = sgd()
    optimizer.param_groups[0]["lr"] = 0.025
    scheduler = ours.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, last_epoch=5)
    assert (scheduler.last_epoch, scheduler.get_last_lr()) == (6, [0.025])
    for _ in range(3):
        scheduler.step(1.0)
    assert (scheduler.last_epoch, scheduler.get_last_lr()) == (9, [0.0125])
    with pytest.raises(ValueError, match="last_epoch"):
        ours.ReduceLROnPlateau(optimizer, last_epoch=-2)
