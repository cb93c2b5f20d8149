"""``Scheduler``: any hyperparameter, on chosen groups, by polyak.schedules."""

import pytest

import polyak
from polyak import schedules
from polyak.lr_scheduler import Scheduler, StepLR
from polyak.schedules import absolute, constant, cosine, linear, step, warmup
from tests.lr_scheduler.harness import (
    Run,
    assert_close,
    assert_unchanged,
    both_optimizers,
    cases,
    driven,
    snapshot,
    start,
)
from tests.lr_scheduler.nodes import RATES, STEPS, adam, sgd


@both_optimizers
def test_each_hyperparameter_has_its_schedule(optimizers):
    """A factor of what the group had, or the value itself."""
    optimizer = sgd(3, optimizers, weight_decay=0.2)
    rate, decay = warmup(4) | cosine(8), linear(1, 0.25, 6)
    run = Run(
        optimizer,
        Scheduler(
            optimizer, lr=rate, weight_decay=decay, momentum=absolute(linear(0.5, 1, 9))
        ),
    )
    for epoch in range(STEPS):
        for group, base in zip(optimizer.param_groups, RATES, strict=True):
            assert group["lr"] == base * rate(epoch)
            assert group["weight_decay"] == 0.2 * decay(epoch)
            assert group["momentum"] == 0.5 + 0.5 * min(epoch, 9) / 9
        run.step()


def test_betas_are_scheduled_one_by_one():
    """None leaves one alone; what is there stays a tuple."""
    optimizer = adam()
    run = Run(optimizer, Scheduler(optimizer, betas=(None, linear(1.0, 0.9, 10))))
    for epoch in range(STEPS):
        factor = 1.0 - 0.1 * min(epoch, 10) / 10
        betas = optimizer.param_groups[0]["betas"]
        assert isinstance(betas, tuple)
        assert betas == pytest.approx((0.9, 0.999 * factor), rel=1e-12)
        assert run.lrs == [0.1]
        run.step()


def test_chosen_groups():
    """The others are another scheduler's, or nobody's."""
    optimizer = sgd(3)
    outer = Scheduler(optimizer, groups=[0, 2], lr=step(2, 0.5))
    inner = Scheduler(optimizer, groups=[1], lr=linear(1, 0, 10))
    for epoch in range(STEPS):
        due = [
            0.1 * 0.5 ** (epoch // 2),
            0.02 * (1 - min(epoch, 10) / 10),
            0.5 * 0.5 ** (epoch // 2),
        ]
        actual = [group["lr"] for group in optimizer.param_groups]
        assert actual == pytest.approx(due, rel=1e-12, abs=0)
        optimizer.step()
        outer.step()
        inner.step()


def test_chosen_groups_stay_the_same_groups():
    """By identity: where one goes, the index of another changes."""
    optimizer = sgd(3)
    run = Run(optimizer, Scheduler(optimizer, groups=[2], lr=step(1, 0.5))).steps(1)
    del optimizer.param_groups[0]
    run.steps(1)
    assert run.lrs == [0.02, 0.125]


def test_the_bases_are_in_the_groups():
    """``initial_<name>``, as torch's ``initial_lr``: a second scheduler finds them."""
    optimizer = sgd(weight_decay=0.2)
    Run(optimizer, Scheduler(optimizer, weight_decay=linear(1, 0, 4))).steps(2)
    assert optimizer.param_groups[0]["initial_weight_decay"] == 0.2
    again = Scheduler(optimizer, weight_decay=constant())
    assert optimizer.param_groups[0]["weight_decay"] == 0.2
    assert again.last_epoch == 0


def test_it_is_where_polyak_has_it():
    """``polyak.Scheduler`` is the same class."""
    assert polyak.Scheduler is Scheduler


@cases(lambda case: case.node.name == "Scheduler")
def test_built_at_a_step(label):
    """Every hyperparameter has the value of that step."""
    trace = start(label).trace()
    for last in (0, 3, 9):
        run = start(label, last_epoch=last)
        assert run.seen() == trace[last + 1]


def test_a_schedule_of_a_class_is_a_schedule():
    """What StepLR does, on another hyperparameter, or printed and parsed again."""
    optimizer = sgd(weight_decay=0.2)
    made = StepLR(sgd(), 3, 0.5).schedule
    run = Run(optimizer, Scheduler(optimizer, weight_decay=made)).steps(7)
    assert driven(run.optimizer)[0]["weight_decay"] == 0.2 * 0.25


FORMULAS = {
    "StepLR",
    "MultiStepLR",
    "ConstantLR",
    "LinearLR",
    "ExponentialLR",
    "PolynomialLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
}


@cases(lambda case: case.node.name in FORMULAS and "eta_min" not in case.node.arguments)
def test_the_schedule_of_a_class_times_its_base(label):
    """Is its rate, bit for bit; it prints as what can be parsed."""
    run = start(label)
    schedule = run.scheduler.schedule
    assert schedules.parse(repr(schedule)) == schedule
    for epoch in range(STEPS):
        assert run.lrs == [0.1 * schedule(epoch)]
        run.step()


REFUSED = {
    "nothing": (dict(), ValueError, "needs a schedule"),
    "unknown": (dict(momentun=constant()), ValueError, "momentun.*momentum"),
    "params": (dict(params=constant()), ValueError, "params"),
    "function": (dict(lr=lambda k: 1.0), TypeError, "lr.*custom"),
    "number": (dict(lr=0.1), TypeError, "lr.*0.1"),
    "tuple": (dict(lr=(constant(), None)), ValueError, "lr.*one schedule"),
    "group": (dict(lr=constant(), groups=[3]), ValueError, "groups.*3"),
    "negative": (dict(lr=constant(), groups=[-1]), ValueError, "groups.*-1"),
    "values": (
        dict(lr=absolute(schedules.custom(lambda k: 1 / k))),
        ZeroDivisionError,
        "division",
    ),
}


@pytest.mark.parametrize("label", list(REFUSED))
def test_what_is_refused(label):
    """The hyperparameter is named, and nothing has changed."""
    arguments, kind, words = REFUSED[label]
    run = Run(sgd(2), None)
    before = snapshot(run)
    with pytest.raises(kind, match=words):
        Scheduler(run.optimizer, **arguments)
    assert_unchanged(run, before)


def test_betas_need_a_schedule_each():
    """A tuple, as long as what is there."""
    for wrong in (constant(), (constant(),), (None, constant(), None)):
        with pytest.raises(ValueError, match=r"betas.*a tuple of 2"):
            Scheduler(adam(), betas=wrong)


def test_strict_schedules_end():
    """The step past the end is refused, and changes nothing."""
    optimizer = sgd()
    made = Scheduler(optimizer, lr=linear(1, 0, 3).strict(), momentum=constant(0.5))
    run = Run(optimizer, made).steps(3)
    before = snapshot(run)
    with pytest.raises(ValueError, match="3 steps"):
        run.step_scheduler()
    assert_unchanged(run, before)


def test_other_schedules_on_resume():
    """The schedules are code: they are not in the state dict, which is data."""
    optimizer = sgd()
    old = Run(optimizer, Scheduler(optimizer, lr=linear(1, 0, 8))).steps(4)
    longer = sgd()
    new = Run(longer, Scheduler(longer, lr=linear(1, 0, 16)))
    new.scheduler.load_state_dict(old.scheduler.state_dict(), hyperparams="current")
    assert_close(new.lrs, [0.1 * (1 - 4 / 16)], 1e-12)
    assert_close(new.steps(4).lrs, [0.1 * (1 - 8 / 16)], 1e-12)
    assert not any(
        isinstance(value, schedules.Schedule)
        for value in old.scheduler.state_dict().values()
    )
