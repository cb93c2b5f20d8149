"""Learning rates that change from step to step: native code goes on with them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import polyak
from polyak import lr_scheduler
from polyak.engine.plan import Plan
from polyak.engine.survey import Hyperparameters

from .support import parameter, probe, random_gradients, state_of


def made(library, kind, apart=True):
    params = [parameter(torch.linspace(-1, 1, count)) for count in (3, 20, 1, 4)]
    groups = [{"params": [p], "lr": 0.1 / (i + 1)} for i, p in enumerate(params)]
    return params, getattr(library, kind)(groups if apart else params)


@pytest.fixture
def alone(monkeypatch):
    """Call it, and Python may not be asked any more."""

    def forbid():
        monkeypatch.setattr(Plan, "holds", lambda *_: pytest.fail("Python was asked"))
        monkeypatch.setattr(Hyperparameters, "of", lambda *_: pytest.fail("read anew"))

    return forbid


def ignore():
    pass


def as_torch(kind, change, apart=True, alone=ignore, steps=20):
    """What is changed before each step has the effect that it has on torch's.

    Args:
        kind: of optimizer.
        change: makes, of an optimizer, a function that changes it before a step.
        apart: every parameter is in a group of its own.
        alone: called when steps have become alike.
        steps: how many.
    """
    ends = []
    for library in (torch.optim, polyak):
        params, optimizer = made(library, kind, apart)
        changes = change(optimizer)
        for step in range(steps):
            if library is polyak and step == 8:
                alone()
            changes(step)
            random_gradients(params, step)
            optimizer.step()
        ends.append(params)
    for theirs, ours in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    return optimizer


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "Adagrad", "RMSprop", "NAdam"])
@pytest.mark.parametrize("apart", [True, False], ids=["groups", "one_group"])
def test_a_schedule_needs_no_look(kind, apart, alone):
    """Python only hands the rates over."""

    def change(optimizer):
        rates = [group["lr"] for group in optimizer.param_groups]

        def warm_up(step):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (step + 1) / 20

        return warm_up

    as_torch(kind, change, apart, alone)


def test_several_floats_of_several_groups(alone):
    """Each change counts, of any float, in any step."""

    def change(optimizer):
        def some(step):
            for index, group in enumerate(optimizer.param_groups):
                if step >= 6 and (step + index) % 3 == 0:
                    group["lr"] *= 0.9
                if step >= 6 and (step + index) % 4 == 0:
                    group["weight_decay"] = 0.01 * step + 0.001
                    group["eps"] = 1e-8 * step

        return some

    as_torch("AdamW", change, alone=alone)


def test_groups_that_part_and_meet_again(alone):
    """By their rates: they share a row of scalars, or cannot any more."""

    def change(optimizer):
        def some(step):
            rates = [0.1, 0.1, 0.1 + 0.01 * (step % 3), 0.1 if step % 4 else 0.2]
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

        return some

    as_torch("Adam", change, alone=alone)


def test_a_float_that_decides_about_slots():
    """SGD has a buffer where momentum is not 0: a new plan finds it missing."""

    def change(optimizer):
        def later(step):
            for group in optimizer.param_groups[:2]:
                group["momentum"] = 0.0 if step < 10 else 0.9

        return later

    optimizer = as_torch("SGD", change)
    params = [group["params"][0] for group in optimizer.param_groups]
    held = ["momentum_buffer" in optimizer.state.get(p, {}) for p in params]
    assert held == [True, True, False, False]


def test_what_decides_is_known():
    """By the reading of it: names, functions of the group, and stages."""
    _, optimizer = made(polyak, "SGD")
    schema, group = optimizer.schema, optimizer.param_groups[0]
    assert schema.decisive(group) == {"momentum"}
    slots = {
        "a": polyak.Slot(when=lambda group: "x" in group and group.get("y", 1) > 0)
    }

    def rule(param, grad, a, *, lr, x, y):
        return param - lr * x * y * grad, a

    optimizer = probe(rule, slots)([parameter([1.0])], lr=0.1, x=1.0, y=2.0)
    assert optimizer.schema.decisive(optimizer.param_groups[0]) == {"x", "y"}
    slots = {"a": polyak.Slot(when=lambda group: any(v == 2 for v in group.values()))}
    optimizer = probe(rule, slots)([parameter([1.0])], lr=0.1, x=1.0, y=2.0)
    group = optimizer.param_groups[0]
    assert optimizer.schema.decisive(group) == group.keys()


def test_a_branch_of_the_rule():
    """A rate at which the rule reads otherwise gets another plan, in this very step."""

    def rule(param, grad, *, lr):
        return param - lr * grad if lr < 0.5 else param + grad

    param = parameter([1.0], [1.0])
    optimizer = probe(rule)([param], lr=0.25)
    for _ in range(6):
        optimizer.step()
    before = param.item()
    optimizer.param_groups[0]["lr"] = 0.75
    optimizer.step()
    assert param.item() == before + 1
    optimizer.param_groups[0]["lr"] = 0.25
    optimizer.step()
    assert param.item() == before + 0.75


def test_scalars_that_python_has_evaluated_for_good():
    """Until a rate changes: ints that are computed with are left to Python."""

    def rule(param, grad, *, lr, times):
        return param - lr * times * grad

    param = parameter([1.0], [1.0])
    optimizer = probe(rule)([param], lr=0.25, times=2)
    for _ in range(6):
        optimizer.step()
    assert optimizer._plan._repeat.is_native
    before = param.item()
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    assert param.item() == before - 1


def test_an_error_of_a_rate_is_the_same():
    """A rate that no rule can take is refused as before, and taken back it works."""
    param = parameter([1.0], [1.0])
    optimizer = polyak.SGD([param], lr=0.25)
    for _ in range(6):
        optimizer.step()
    before = param.item()
    optimizer.param_groups[0]["lr"] = object
    with pytest.raises(TypeError):
        optimizer.step()
    assert param.item() == before
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    assert param.item() == before - 0.5


values = st.sampled_from([0.1, 0.25, 0.5, 1.0, 1, 0, 0.0, True, torch.tensor(0.5)])
changes = st.tuples(st.integers(0, 3), st.sampled_from(["lr", "eps", "note"]), values)


@given(st.lists(st.lists(changes, max_size=3), min_size=1, max_size=8))
def test_any_changes(steps):
    """As an optimizer that is asked about everything in each step."""
    ends = []
    for is_alone in (True, False):
        params, optimizer = made(polyak, "RMSprop")
        for step, changed in enumerate([[], [], [], [], *steps]):
            for place, name, value in changed:
                group = optimizer.param_groups[place]
                group[name] = value
                if name == "eps" and not value:
                    group[name] = 1e-8
            random_gradients(params, step)
            optimizer.step()
            if not is_alone:
                optimizer._plan = None
        ends.append(state_of(optimizer, params))
    assert all(map(torch.equal, *ends))


def test_rates_that_were_followed_are_saved():
    """What is saved has the rates of the moment."""
    params, optimizer = made(polyak, "AdamW")
    scheduler = lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for step in range(8):
        random_gradients(params, step)
        optimizer.step()
        scheduler.step()
    rates = [group["lr"] for group in optimizer.state_dict()["param_groups"]]
    assert rates == [0.1 / (i + 1) * 0.5**8 for i in range(4)]
