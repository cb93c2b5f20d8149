"""Groups come and go mid-run: each keeps its own place in the schedule."""

import re
from copy import deepcopy

import pytest

from tests.lr_scheduler.cases import CASES
from tests.lr_scheduler.harness import (
    any_number_of_groups,
    assert_close,
    both_optimizers,
    cases,
    driven,
    start,
    start_node,
)
from tests.lr_scheduler.nodes import (
    SETUPS,
    STEPS,
    Decay,
    harmonic,
    node,
    parameter,
    sgd,
    steady,
)
from tests.lr_scheduler.reference import has_formula, value

AT = 5
NEW = 0.07

several_groups = cases(lambda case: "groups" in case.setups)


def add_group(optimizer, **more):
    """A group in the middle of a run."""
    optimizer.add_param_group({"params": [parameter()], "lr": NEW, **more})


def groups_of(trace):
    return [step["groups"] for step in trace]


@both_optimizers
@any_number_of_groups
def test_the_others_go_on_when_one_is_added(label, optimizers):
    """Bit for bit, and the new one has finite rates of its own."""
    untouched = groups_of(start(label, "groups").trace())
    run = start(label, "groups", optimizers=optimizers).steps(AT)
    add_group(run.optimizer)
    after = groups_of(run.trace(STEPS - AT))
    assert_close([step[:3] for step in after], untouched[AT:], 0, label)
    assert len(run.scheduler.get_last_lr()) == 4
    assert all(0 <= step[3]["lr"] < 10 for step in after)


@cases(
    lambda case: (
        "groups" in case.setups
        and case.keeps_edits
        and has_formula(case.node)
        and not any("eta_min" in part.arguments for part in case.node.walk())
    )
)
def test_a_chainable_scheduler_moves_a_new_group_on_from_its_rate(label):
    """What the new group has is where the schedule stands."""
    node_ = CASES[label].node
    at = next(k for k in range(2, STEPS) if value(node_, 1.0, k) > 0)
    run = start(label, "groups").steps(at)
    add_group(run.optimizer)
    for epoch in range(at, at + 8):
        due = NEW * value(node_, 1.0, epoch) / value(node_, 1.0, at)
        assert run.lrs[3] == pytest.approx(due, rel=1e-12, abs=1e-17)
        run.step()


@cases(
    lambda case: (
        "groups" in case.setups and has_formula(case.node) and case.overwrites_edits
    )
)
def test_the_others_take_a_new_groups_rate_as_base(label):
    """As if it had been there from the beginning, with this rate."""
    run = start(label, "groups").steps(AT)
    add_group(run.optimizer)
    for epoch in range(AT + 1, STEPS):
        run.step()
        due = value(CASES[label].node, NEW, epoch)
        assert run.lrs[3] == pytest.approx(due, rel=1e-12, abs=1e-17)


@cases(lambda case: "groups" in case.setups and has_formula(case.node))
def test_a_new_group_may_say_where_it_began(label):
    """``initial_lr`` is its base, for every class."""
    run = start(label, "groups").steps(AT)
    add_group(run.optimizer, initial_lr=0.3)
    node_ = CASES[label].node
    if CASES[label].keeps_edits:
        # Its rate is one that something has changed, unless it is the schedule's.
        run.optimizer.param_groups[3]["lr"] = value(node_, 0.3, AT)
    for epoch in range(AT + 1, STEPS):
        run.step()
        due = value(node_, 0.3, epoch)
        assert run.lrs[3] == pytest.approx(due, rel=1e-9, abs=1e-15)


@several_groups
@pytest.mark.parametrize("index", [0, 1])
def test_groups_are_dropped_by_identity(label, index):
    """What is left goes on with its own rates, functions and bounds."""
    untouched = groups_of(start(label, "groups").trace())
    run = start(label, "groups").steps(AT)
    del run.optimizer.param_groups[index]
    after = groups_of(run.trace(STEPS - AT))
    for step in untouched:
        del step[index]
    assert_close(after, untouched[AT:], 0, label)
    assert len(run.scheduler.get_last_lr()) == 2


@several_groups
def test_groups_may_change_places(label):
    """A list that was sorted anew: each group keeps what was its own."""
    untouched = groups_of(start(label, "groups").trace())
    run = start(label, "groups").steps(AT)
    run.optimizer.param_groups.reverse()
    after = groups_of(run.trace(STEPS - AT))
    assert_close([step[::-1] for step in after], untouched[AT:], 0, label)


@any_number_of_groups
def test_one_comes_and_one_goes(label):
    """At once, which leaves as many as there were."""
    untouched = groups_of(start(label, "groups").trace())
    run = start(label, "groups").steps(AT)
    del run.optimizer.param_groups[0]
    add_group(run.optimizer)
    after = groups_of(run.trace(STEPS - AT))
    due = [step[1:] for step in untouched]
    assert_close([step[:2] for step in after], due[AT:], 0, label)


@any_number_of_groups
def test_resumes_with_the_group_that_was_added(label):
    """The new run adds it too, then loads."""
    old = start(label, "groups").steps(AT)
    add_group(old.optimizer)
    old.steps(2)
    new = start(label, "groups")
    add_group(new.optimizer)
    new.optimizer.load_state_dict(deepcopy(old.optimizer.state_dict()))
    new.scheduler.load_state_dict(old.scheduler.state_dict())
    new.epoch = old.epoch
    assert_close(new.trace(6), old.trace(6), 0, label)


@any_number_of_groups
def test_resumes_where_the_scheduler_is_built_with_the_added_group(label):
    """The new run's optimizer has it from the beginning."""
    old = start(label, "groups").steps(AT)
    add_group(old.optimizer)
    old.steps(2)
    optimizer = SETUPS["groups"]()
    add_group(optimizer)
    new = start_node(CASES[label].node, optimizer)
    new.scheduler.load_state_dict(old.scheduler.state_dict())
    new.epoch = old.epoch
    assert_close(new.trace(6), old.trace(6), 0, label)


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (node("LambdaLR", lr_lambda=[harmonic, Decay(0.5), steady]), "lr_lambdas"),
        (
            node("MultiplicativeLR", lr_lambda=[harmonic, Decay(0.5), steady]),
            "lr_lambdas",
        ),
        (node("ReduceLROnPlateau", patience=0, min_lr=[0.1, 0.01, 0.0]), "min_lrs"),
        (CASES["cyclic_groups"].node, "max_lrs"),
    ],
    ids=["LambdaLR", "MultiplicativeLR", "ReduceLROnPlateau", "CyclicLR"],
)
def test_what_each_group_has_of_its_own_must_be_given_for_a_new_one(made, name):
    """The error says where to append it; nothing has changed, and then it goes on."""
    untouched = groups_of(start_node(made, sgd(3)).trace(8))
    run = start_node(made, sgd(3)).steps(2)
    add_group(run.optimizer)
    before = driven(run.optimizer)
    with pytest.raises(ValueError, match=name):
        until_it_steps(run)
    assert driven(run.optimizer) == before
    for _ in range(6):
        try:
            until_it_steps(run)
        except ValueError as error:
            (missing,) = re.findall(r"scheduler\.(\w+)$", str(error))
            values = getattr(run.scheduler, missing)
            values.append(values[0])
    assert_close(driven(run.optimizer)[:3], untouched[run.epoch], 0)
    assert_close(groups_of(run.steps(1).trace(0))[0][:3], untouched[run.epoch], 0)


def until_it_steps(run):
    """Some steps: a plateau asks for its bounds when it reduces a rate."""
    while run.epoch < 5:
        run.step_scheduler()
