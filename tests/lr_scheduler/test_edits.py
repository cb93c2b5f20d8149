"""What else changes a rate: chainable schedulers move it on, the others set theirs."""

import pytest

from tests.lr_scheduler.cases import CASES
from tests.lr_scheduler.harness import assert_close, runs, start, start_node
from tests.lr_scheduler.nodes import FROM_THE_BASE, OURS, STEPS, TORCHS, node, sgd
from tests.lr_scheduler.reference import has_formula

AT = 2


def edited_trace(run, factor):
    """A run whose rates a user multiplies after some steps."""
    before = run.trace(AT)
    for group in run.optimizer.param_groups:
        group["lr"] = group["lr"] * factor
    return before, run.trace(STEPS - AT)[1:]


def rates(trace):
    return [[group["lr"] for group in step["groups"]] for step in trace]


def kept_until(node):
    """When a SequentialLR begins its next member anew, as in torch."""
    if node.name != "SequentialLR":
        return STEPS
    starts = [milestone for milestone in node.arguments["milestones"] if milestone > AT]
    return min([STEPS, *starts, *map(kept_until, node.children[:1])])


@runs(
    lambda case: (
        case.keeps_edits
        and case.formula
        and not any("eta_min" in part.arguments for part in case.node.walk())
    ),
    ["groups"],
)
@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_chainable_schedulers_keep_the_proportion(label, setup, factor):
    """From the edit on, every rate is as many times what it would have been."""
    _, after = edited_trace(start(label, setup), factor)
    unedited = start(label, setup).trace()[AT + 1 :]
    due = [[lr * factor for lr in lrs] for lrs in rates(unedited)]
    count = kept_until(CASES[label].node) - AT - 1
    assert_close(rates(after)[:count], due[:count], 1e-12, label)


@runs(lambda case: case.keeps_edits and not case.not_torchs, ["groups"])
def test_edits_have_the_effect_they_have_in_torch(label, setup):
    """A floor stays where it is; at a milestone of a sequence the base rate holds."""
    actual, expected = (
        edited_trace(start(label, setup, **library), 0.5)[1]
        for library in ({}, {"library": TORCHS})
    )
    # torch's cosine climbs back from its floor by the base rate's height.
    turns = [part.arguments.get("T_max", STEPS) for part in CASES[label].node.walk()]
    count = min(turns) - AT - 1 if len(turns) == 1 else STEPS
    assert_close(actual[:count], expected[:count], 1e-12, label)


@runs(lambda case: case.overwrites_edits, ["groups"])
def test_the_others_set_their_own(label, setup):
    """At the next step nothing is left of an edit."""
    _, after = edited_trace(start(label, setup), 0.5)
    assert after == start(label, setup).trace()[AT + 1 :]


@runs(lambda case: case.keeps_edits and has_formula(case.node), ["groups"])
def test_an_edit_while_the_rate_is_nought(label, setup):
    """There is no proportion to it; what follows is a number all the same."""
    run = start(label, setup)
    for _ in range(STEPS):
        if 0.0 in run.lrs:
            break
        run.step()
    for group in run.optimizer.param_groups:
        group["lr"] = 0.01
    for step in run.trace(6)[1:]:
        assert all(0 <= group["lr"] < 10 for group in step["groups"])


def test_every_class_is_of_one_kind():
    """What is of neither is a composition of both."""
    for label, case in CASES.items():
        mixed = len({name in FROM_THE_BASE for name in case.node.names}) == 2
        assert case.keeps_edits + case.overwrites_edits == 1 or mixed, label


def test_a_rate_that_began_at_nought():
    """Once a user has set one, the schedule's factor moves it, as in torch."""
    traces = []
    for library in (OURS, TORCHS):
        optimizer = sgd()
        optimizer.param_groups[0]["lr"] = 0.0
        run = start_node(node("ExponentialLR", gamma=0.5), optimizer, library).steps(2)
        optimizer.param_groups[0]["lr"] = 0.1
        traces.append(run.trace(3)[1:])
    assert_close(*traces, 1e-12)
