"""Steps that a device decides to leave out: it counts them."""

import copy
import pickle

import pytest
import torch

import polyak
from polyak.engine.triton import bucket as buckets
from polyak.engine.triton import skips

from .support import give_gradients, in_kernels, made, params_of

KINDS = {
    "Adam": dict(capturable=True),
    "SGD": dict(lr=0.1, momentum=0.9),
    "Muon": {},
}
SHAPES = ((3, 4), (40, 30), (3, 4))
every_kind = pytest.mark.parametrize("kind", KINDS)


def begun(kind, **more):
    """An optimizer that has done a step."""
    optimizer = getattr(polyak, kind)(made(sizes=SHAPES), **KINDS[kind], **more)
    give_gradients(params_of(optimizer), 0)
    optimizer.step()
    return optimizer


def stepped(optimizer, overflows):
    """Steps of which some have a gradient that is not finite, as a scaler finds."""
    for step, overflow in enumerate(overflows):
        give_gradients(params_of(optimizer), step)
        if overflow:
            params_of(optimizer)[1].grad[7] = float("inf")
        if optimizer.nonfinite == "ignore":
            optimizer.found_inf = torch.tensor(float(overflow))
        optimizer.step()
    return optimizer


def counts(optimizer):
    return optimizer.steps, optimizer.skipped_steps


@pytest.fixture
def nothing_is_read(monkeypatch):
    """No number of a tensor reaches the host until this is called."""

    def refuse(*args):
        raise AssertionError("a step reads a tensor")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    return monkeypatch.undo


@every_kind
@pytest.mark.parametrize("nonfinite", ["ignore", "skip"])
def test_they_are_counted(kind, nonfinite):
    optimizer = begun(kind, nonfinite=nonfinite)
    stepped(optimizer, [True, False, True, True])
    in_kernels(optimizer, type(optimizer._plan.buckets[0]))
    assert counts(optimizer) == (2, 3)
    stepped(optimizer, [False, True])
    assert counts(optimizer) == (3, 4)


def test_reasons_count_once():
    """A scaler and ``nonfinite`` see the same number; each may have its own value."""
    optimizer = begun("SGD", nonfinite="skip")
    optimizer.found_inf = torch.tensor(2.0)
    stepped(optimizer, [True, True])
    assert counts(optimizer) == (1, 2)


def test_no_step_waits(nothing_is_read):
    """Only who asks does."""
    optimizer = polyak.SGD(made(sizes=SHAPES), lr=0.1)
    scheduler = polyak.lr_scheduler.StepLR(optimizer, 2)
    for step in range(3):
        give_gradients(params_of(optimizer), step)
        optimizer.found_inf = torch.tensor(float(step == 1))
        optimizer.step()
        scheduler.step()
    with pytest.raises(AssertionError, match="reads a tensor"):
        _ = optimizer.skipped_steps
    nothing_is_read()
    assert counts(optimizer) == (2, 1)


@every_kind
def test_a_schedule_can_follow(kind):
    """It asks the device, and only then."""
    optimizer = begun(kind)
    optimizer.param_groups[0]["lr"] = 1.0
    scheduler = polyak.lr_scheduler.StepLR(optimizer, 1, 0.5)
    scheduler.follows_optimizer = True
    for overflow, due in ((False, 0.5), (True, 0.5), (True, 0.5), (False, 0.25)):
        stepped(optimizer, [overflow])
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == due


@pytest.mark.parametrize(
    "way",
    [copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_keep_the_counts(way):
    """And count by themselves from there on."""
    optimizer = stepped(begun("SGD"), [True, False])
    other = way(optimizer)
    stepped(optimizer, [True, True])
    assert counts(other) == (2, 1)
    stepped(other, [False, True])
    assert counts(other) == (3, 2)
    assert counts(optimizer) == (2, 3)


def test_counts_may_be_set():
    """As by who resumes a run."""
    optimizer = stepped(begun("SGD"), [True, False])
    optimizer.steps, optimizer.skipped_steps = 100, 10
    assert counts(optimizer) == (100, 10)
    stepped(optimizer, [True, False, True])
    assert counts(optimizer) == (101, 12)


def test_other_plans_and_checkpoints_count_on():
    optimizer = stepped(begun("Adam"), [True, False])
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    stepped(optimizer, [True])
    optimizer.add_param_group({"params": made(sizes=[(2, 2)])})
    # State begins: the host decides about this one.
    stepped(optimizer, [True, False, True])
    assert counts(optimizer) == (3, 4)


def test_replays_count_what_they_leave_out(monkeypatch):
    """But are no steps that the host knows of."""
    optimizer = stepped(begun("SGD"), [True])
    optimizer.found_inf = found = torch.tensor(0.0)
    for module in (buckets, skips):
        monkeypatch.setattr(module, "capturing", lambda device: True)
    before = optimizer.steps
    optimizer.step()
    for overflow in (1.0, 0.0, 2.0):  # a replay does what was captured
        found.fill_(overflow)
        optimizer._device_skips.add(found)
    assert optimizer.skipped_steps == 1 + 2
    assert optimizer.steps == before + 1
