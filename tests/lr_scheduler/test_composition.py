"""Schedulers in schedulers: sequences nest, chains multiply, plateaus join both."""

from itertools import permutations

import pytest
import torch
from torch.optim import lr_scheduler as torchs

import polyak.lr_scheduler as ours
from tests.lr_scheduler.cases import (
    CASES,
    COSINE,
    DROPS,
    EXPONENTIAL,
    LINEAR,
    PLATEAU,
    RESTARTS,
    STEP,
)
from tests.lr_scheduler.harness import (
    Run,
    any_number_of_groups,
    assert_close,
    cases,
    start,
    start_node,
)
from tests.lr_scheduler.nodes import RATES, STEPS, chain, node, sequence, sgd

# Sequences


def test_a_nested_sequence_is_the_flat_one():
    """Bit for bit: the inner milestones count from where the inner one begins."""
    flat = sequence([3, 7], LINEAR, EXPONENTIAL, COSINE)
    right = sequence([3], LINEAR, sequence([4], EXPONENTIAL, COSINE))
    left = sequence([7], sequence([3], LINEAR, EXPONENTIAL), COSINE)
    traces = [
        [step["groups"] for step in start_node(made, sgd(3)).trace()]
        for made in (flat, right, left)
    ]
    assert traces[0] == traces[1] == traces[2]


def test_children_stand_where_their_turn_has_brought_them():
    """Their own ``last_epoch``, and the sequence's."""
    run = start_node(sequence([4], LINEAR, sequence([3], EXPONENTIAL, STEP)), sgd())
    run.steps(9)
    outer, inner = run.scheduler, run.scheduler._schedulers[1]
    assert outer.last_epoch == 9
    assert inner.last_epoch == 5
    assert inner._schedulers[1].last_epoch == 2


def test_a_sequence_takes_any_iterables():
    """torch takes lists; a tuple and a range do as well."""
    optimizer = sgd()
    children = tuple(part.build(optimizer) for part in (LINEAR, STEP, COSINE))
    scheduler = ours.SequentialLR(optimizer, children, range(3, 7, 3))
    trace = Run(optimizer, scheduler).trace()
    flat = start_node(sequence([3, 6], LINEAR, STEP, COSINE), sgd()).trace()
    assert [step["groups"] for step in trace] == [step["groups"] for step in flat]


# Chains

CHAINS = {
    "drops_restarts": (DROPS, RESTARTS),
    "three": (STEP, LINEAR, node("LambdaLR", lr_lambda=lambda k: 1 / (1 + k))),
    "nested": (DROPS, sequence([4], LINEAR, COSINE), EXPONENTIAL),
    "chain": (DROPS, chain(LINEAR, EXPONENTIAL), RESTARTS),
    "floor": (DROPS, node("CosineAnnealingLR", T_max=9, eta_min=0.001), LINEAR),
}


@pytest.mark.parametrize("parts", list(CHAINS))
def test_a_chain_does_not_depend_on_the_order(parts):
    """Bit for bit, in every order of its members."""
    traces = [
        [step["groups"] for step in start_node(chain(*order), sgd(3)).trace()]
        for order in permutations(CHAINS[parts])
    ]
    assert all(trace == traces[0] for trace in traces)


def test_a_chain_does_not_depend_on_the_order_with_a_plateau():
    """The plateau's own drops are a factor as well."""
    traces = []
    for order in permutations((STEP, PLATEAU, LINEAR)):
        run = start_node(chain(*order), sgd(2))
        traces.append([step["groups"] for step in run.trace()])
    assert all(trace == traces[0] for trace in traces)


def test_a_chain_keeps_every_drop():
    """torch's warm restarts take the drops of MultiStepLR back at the next step."""
    made = chain(DROPS, node("CosineAnnealingWarmRestarts", T_0=4))
    run = start_node(made, sgd())
    alone = start_node(made.children[1], sgd())
    for epoch in range(STEPS):
        drop = 0.5 ** ((epoch >= 3) + (epoch >= 9))
        assert run.lrs == pytest.approx([alone.lrs[0] * drop], rel=1e-12, abs=0)
        run.step()
        alone.step()


def test_a_chain_can_name_its_optimizer():
    """By torch's second argument; it must be the members' own."""
    optimizer = sgd()
    parts = [EXPONENTIAL.build(optimizer), STEP.build(optimizer)]
    scheduler = ours.ChainedScheduler(parts, optimizer=optimizer)
    assert scheduler.optimizer is optimizer


# Plateaus

# Ever better for a while, then never again.
WORSE = [1.0 - 0.05 * epoch for epoch in range(8)] + [2.0] * 30


def rates_of(run, steps, metrics):
    """The first group's rate at each step of a run that is given metrics."""
    seen = [run.lrs[0]]
    for metric in metrics[:steps]:
        run.optimizer.step()
        run.scheduler.step(metric)
        seen.append(run.lrs[0])
    return seen


def test_warm_up_then_plateau():
    """The warm-up's rates; then the base rate, reduced by the metrics."""
    made = sequence([4], LINEAR, node("ReduceLROnPlateau", factor=0.5, patience=1))
    seen = rates_of(start_node(made, sgd()), 14, WORSE)
    warm = rates_of(start_node(LINEAR, sgd()), 4, [None] * 4)
    assert seen[:4] == warm[:4]
    # 8 metrics improve; of those that do not, every second one is one too many.
    assert seen[4:10] == [0.1] * 6
    assert seen[10:] == pytest.approx([0.05, 0.05, 0.025, 0.025, 0.0125])


def test_a_metric_is_needed_only_where_a_plateau_has_its_turn():
    """And one that nothing needs is ignored."""
    run = start_node(sequence([4], LINEAR, PLATEAU), sgd())
    for _ in range(3):
        run.optimizer.step()
        run.scheduler.step()
    assert run.scheduler.last_epoch == 3
    run = start_node(sequence([4], LINEAR, STEP), sgd())
    rates_of(run, 6, WORSE)
    assert run.lrs == start_node(sequence([4], LINEAR, STEP), sgd()).steps(6).lrs


def test_a_plateau_in_a_chain_multiplies():
    """Its factor, times what the others do."""
    made = chain(EXPONENTIAL, node("ReduceLROnPlateau", factor=0.5, patience=1))
    seen = rates_of(start_node(made, sgd()), 14, WORSE)
    alone = rates_of(start_node(made.children[1], sgd()), 14, WORSE)
    due = [rate * 0.9**epoch for epoch, rate in enumerate(alone)]
    assert seen == pytest.approx(due, rel=1e-12, abs=0)
    assert alone[-1] < 0.1


@pytest.mark.parametrize("keyword", [False, True], ids=["position", "keyword"])
def test_metrics_reach_the_innermost(keyword):
    """Through chains and sequences, by position or by name."""
    inner = node("ReduceLROnPlateau", factor=0.5, patience=0)
    made = chain(sequence([0], STEP, chain(sequence([], inner))), node("ConstantLR"))
    run = start_node(made, sgd())
    for metric in (1.0, 2.0, 2.0):
        run.optimizer.step()
        if keyword:
            run.scheduler.step(metrics=metric)
        else:
            run.scheduler.step(metric)
    assert run.lrs == pytest.approx([0.1 / 3 * 0.25], rel=1e-12, abs=0)


def test_metrics_can_be_tensors():
    """As a loss is."""
    run = start_node(sequence([2], LINEAR, PLATEAU), sgd())
    seen = rates_of(run, 12, [torch.tensor(metric) for metric in WORSE])
    numbers = rates_of(start_node(sequence([2], LINEAR, PLATEAU), sgd()), 12, WORSE)
    assert seen == numbers


@pytest.mark.parametrize("kind", [sequence, chain], ids=["sequence", "chain"])
def test_torchs_plateau_is_taken_too(kind):
    """torch's own compositions refuse it."""
    optimizer = sgd()
    plateau = torchs.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    if kind is sequence:
        scheduler = ours.SequentialLR(
            optimizer, [LINEAR.build(optimizer), plateau], [4]
        )
    else:
        scheduler = ours.ChainedScheduler([LINEAR.build(optimizer), plateau])
    seen = rates_of(Run(optimizer, scheduler), 11, WORSE)
    assert seen[4:8] == pytest.approx([0.1] * 4)
    assert seen[-1] < 0.1


# What all of them keep


@cases(lambda case: case.node.children != ())
def test_members_may_be_looked_at(label):
    """``_schedulers`` holds the very objects, as in torch."""
    case, optimizer = CASES[label], sgd()
    built = [child.build(optimizer) for child in case.node.children]
    if case.node.name == "SequentialLR":
        milestones = case.node.arguments["milestones"]
        scheduler = ours.SequentialLR(optimizer, built, milestones)
        assert scheduler._milestones == milestones
    else:
        scheduler = ours.ChainedScheduler(built)
    assert all(a is b for a, b in zip(scheduler._schedulers, built, strict=True))


@any_number_of_groups
def test_a_group_of_another_rate_goes_its_own_way(label):
    """Each group's values are those of a run with this group alone."""
    case = CASES[label]
    together = start(label, "groups").trace()
    for index, lr in enumerate(RATES):
        optimizer = sgd()
        optimizer.param_groups[0]["lr"] = lr
        alone = start_node(case.node, optimizer).trace()
        for one, all_ in zip(alone, together, strict=True):
            assert_close(one["groups"][0], all_["groups"][index], 0, label)
