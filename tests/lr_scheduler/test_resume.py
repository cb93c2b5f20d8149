"""A resumed run is the uninterrupted one, whatever was built and loaded first."""

import json
from copy import deepcopy
from itertools import permutations

import pytest
import torch

from tests.lr_scheduler.cases import CASES, DROPS, EXPONENTIAL, LINEAR, STEP
from tests.lr_scheduler.harness import (
    Run,
    assert_close,
    cases,
    every_run,
    runs,
    setup_of,
    start,
    through_torch,
)
from tests.lr_scheduler.nodes import STEPS, TORCHS, sgd
from tests.lr_scheduler.resuming import assert_resumes, resumed, saved_along


@every_run
def test_resumed_values_are_the_uninterrupted_runs(label, setup):
    """Bit for bit, from every epoch on, whatever was loaded first."""
    trace, states = saved_along(start(label, setup))
    epochs = range(STEPS) if setup == setup_of(label) else (4, 9)
    assert_resumes(label, setup, trace, states, epochs)


EDITED_AT = 5


def edit(run):
    """What a user does to a rate that seems too high."""
    for group in run.optimizer.param_groups:
        # A tensor is replaced, so that no copy of it changes unseen.
        group["lr"] = group["lr"] * 0.5


@runs(lambda case: True, ["tensor", "groups"])
def test_after_an_edit(label, setup):
    """A rate that the user changed mid-run stays changed, or as long as it did."""
    trace, states = saved_along(start(label, setup), {EDITED_AT: edit})
    # Right after the edit, get_last_lr tells what the scheduler had set, or has loaded.
    trace[EDITED_AT]["last_lr"] = None
    epochs = (EDITED_AT, EDITED_AT + 1, 9)
    assert_resumes(label, setup, trace, states, epochs)


@cases(lambda case: True)
@pytest.mark.parametrize("way", ["torch", "json"])
def test_through_files(label, way):
    """What a state dict is made of, ``weights_only`` and JSON can carry."""
    trace, states = saved_along(start(label))
    for epoch in (0, 5, 10):
        optimizer_state, state = states[epoch]
        state = (
            through_torch(state) if way == "torch" else json.loads(json.dumps(state))
        )
        run = resumed(
            label, setup_of(label), (optimizer_state, state), "optimizer_first", epoch
        )
        assert_close(run.trace(STEPS - epoch), trace[epoch:], 0, f"{label} {epoch}")


@runs(lambda case: True, ["tensor"])
def test_tensors_through_a_file(label, setup):
    """``weights_only`` takes tensors too."""
    trace, states = saved_along(start(label, setup))
    run = resumed(label, setup, through_torch(states[6]), "optimizer_first", 6)
    assert_close(run.trace(STEPS - 6), trace[6:], 0, label)


@cases(lambda case: True)
def test_a_state_dict_does_not_change_with_the_run(label):
    """It is a copy: not in its lists, not in its children's."""
    run = start(label).steps(3)
    state = run.scheduler.state_dict()
    before = deepcopy(state)
    run.steps(6)
    assert repr(state) == repr(before)


@cases(lambda case: True)
def test_loading_does_not_change_or_hold_the_state_dict(label):
    """The same dict can be loaded twice, and the run does not write to it."""
    state = start(label).steps(5).scheduler.state_dict()
    before = deepcopy(state)
    one, other = start(label), start(label)
    for run in (one, other):
        run.epoch = 5
        run.scheduler.load_state_dict(state)
        run.steps(4)
    assert repr(state) == repr(before)
    assert one.seen() == other.seen()


# Where it is not CyclicLR's turn, nothing sets the momentum that it has left.
@cases(lambda case: not (case.node.children and "CyclicLR" in case.node.names))
def test_a_trained_scheduler_goes_back(label):
    """Loading into one that has gone elsewhere: forwards or backwards."""
    run = start(label)
    trace, states = saved_along(run)
    for epoch in (3, 11):
        run.scheduler.load_state_dict(states[epoch][1])
        run.epoch = epoch
        assert_close(run.trace(STEPS - epoch), trace[epoch:], 0, label)


# Several schedulers of one optimizer, each stepped by itself

PAIRS = {
    "step_linear": (STEP, LINEAR),
    "drops_exponential": (DROPS, EXPONENTIAL),
    "linear_down_drops": (CASES["linear_down"].node, DROPS),
}


def pair_trace(optimizer, schedulers, steps):
    seen = [[float(group["lr"]) for group in optimizer.param_groups]]
    for _ in range(steps):
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
        seen.append([float(group["lr"]) for group in optimizer.param_groups])
    return seen


@pytest.mark.parametrize("pair", list(PAIRS))
def test_two_schedulers_multiply(pair):
    """As in torch, and within what rounding there is in torch's recursion."""
    traces = []
    for library in ({}, {"library": TORCHS}):
        optimizer = sgd(3)
        schedulers = [part.build(optimizer, **library) for part in PAIRS[pair]]
        traces.append(pair_trace(optimizer, schedulers, STEPS))
    assert_close(*traces, 1e-12, pair)


@pytest.mark.parametrize("pair", list(PAIRS))
@pytest.mark.parametrize("built", ["before", "after"])
@pytest.mark.parametrize(
    "order",
    [
        *permutations(("optimizer", 0, 1)),
        (0, 1),
        (1, 0),
    ],
    ids=lambda order: "-".join(map(str, order)),
)
def test_two_schedulers_resume(pair, built, order):
    """Both are loaded, in any order, with the optimizer or without."""
    optimizer = sgd(3)
    schedulers = [part.build(optimizer) for part in PAIRS[pair]]
    trace = pair_trace(optimizer, schedulers, STEPS)
    for epoch in range(STEPS):
        old = sgd(3)
        olds = [part.build(old) for part in PAIRS[pair]]
        pair_trace(old, olds, epoch)
        states = {
            "optimizer": deepcopy(old.state_dict()),
            **{index: part.state_dict() for index, part in enumerate(olds)},
        }
        optimizer = sgd(3)
        if built == "after":
            optimizer.load_state_dict(states["optimizer"])
        news = [part.build(optimizer) for part in PAIRS[pair]]
        for what in order:
            target = optimizer if what == "optimizer" else news[what]
            target.load_state_dict(states[what])
        actual = pair_trace(optimizer, news, STEPS - epoch)
        assert actual == trace[epoch:], f"from epoch {epoch}"


# What this is about


def test_torch_does_not_resume_in_every_order():
    """The loss of it: ten times too low for the rest of the run, without a word.

    When this fails, torch has been mended.
    """
    trace, states = saved_along(start("sequential", library=TORCHS))
    run = resumed("sequential", "sgd", states[4], "optimizer_first", 4, TORCHS)
    assert run.lrs[0] == pytest.approx(0.01)
    assert trace[4]["groups"][0]["lr"] == pytest.approx(0.1)
    assert run.steps(4).lrs[0] < 0.2 * trace[8]["groups"][0]["lr"]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_checkpoint_of_both_as_users_write_it(kind):
    """One file, a model that learns: parameters and rates go on bit for bit."""

    def build():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        optimizer = kind(model.parameters(), lr=0.1)
        return model, optimizer

    def train(model, run, steps):
        for _ in range(steps):
            run.optimizer.zero_grad()
            model(torch.ones(3)).square().sum().backward()
            run.step()

    node = CASES["nested_last"].node
    model, optimizer = build()
    whole = Run(optimizer, node.build(optimizer))
    train(model, whole, 6)
    file = through_torch(
        {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": whole.scheduler.state_dict(),
        }
    )
    other, optimizer = build()
    other.load_state_dict(file["model"])
    optimizer.load_state_dict(file["optimizer"])
    run = Run(optimizer, node.build(optimizer))
    run.scheduler.load_state_dict(file["scheduler"])
    train(model, whole, 6)
    train(other, run, 6)
    assert run.seen() == whole.seen()
    assert torch.equal(other.weight, model.weight)
