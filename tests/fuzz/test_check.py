"""The fuzzer sees what it should: wrong steps, wrong refusals, and what is known."""

import pytest
import torch

from polyak.custody import Custody
from polyak.engine.plan import Plan
from tests.fuzz import side
from tests.fuzz.check import check
from tests.fuzz.differences import DIFFERENCES, difference_in
from tests.fuzz.scenario import (
    Add,
    Change,
    Copy,
    Group,
    Move,
    Reload,
    Reset,
    Scenario,
    Spec,
    Step,
    Swap,
)
from tests.fuzz.shrink import shrunk

ONE = (Group((Spec((3,)),)),)
STEPS = (Step(0), Step(1))

EXAMPLES = {
    "a first step that is none": Scenario(
        "Adam", ONE, (Step(0, scale=0.0),), {"lr": 0.0}
    ),
    "Muon of no columns": Scenario("Muon", (Group((Spec((2, 0)),)),), STEPS),
    "Adagrad's initial value in an added group": Scenario(
        "Adagrad",
        ONE,
        (Add(Group((Spec((2,)),), {"initial_accumulator_value": 1.0})), Step(0)),
    ),
    "SparseAdam on one number in a view": Scenario(
        "SparseAdam",
        (Group((Spec((1,), layout="sliced"),)),),
        (Step(0, layout="sparse"),),
    ),
    "RMSprop's variance of one gradient": Scenario(
        "RMSprop",
        (Group((Spec((257,)),)),),
        STEPS,
        {"centered": True, "alpha": 0.0, "weight_decay": 0.1},
    ),
    "RMSprop's variance of no gradient": Scenario(
        "RMSprop",
        ONE,
        (*STEPS, Step(2), Step(3)),
        {"alpha": 1.0, "weight_decay": 0.8, "lr": 0.35},
    ),
    "SparseAdam's short memory": Scenario(
        "SparseAdam",
        (Group((Spec((64,)),)),),
        (Step(0, layout="sparse"), Step(0, layout="sparse", scale=1e-4)),
        {"betas": (0.5, 0.0)},
    ),
    "Adafactor's bad numbers": Scenario(
        "Adafactor", ONE, (Step(0), Step(1, bad=float("inf")))
    ),
    "Adafactor of two precisions": Scenario(
        "Adafactor",
        (Group((Spec((3, 4), "float64"), Spec((1, 2, 1, 3)))),),
        (Step(0, scale=1e-4),),
        {"d": 4.0, "beta2_decay": 0.0},
    ),
    "Adafactor's sums of equal numbers": Scenario(
        "Adafactor",
        (Group((Spec((300, 301)),)),),
        (Step(0, layout="expanded", scale=1e-4),),
    ),
    "norms of equal numbers": Scenario(
        "RMSprop",
        (Group((Spec((1025,), "float64"),)),),
        (Step(16078, layout="rows"),),
        stages={"clip_grad_norm": 8.0},
    ),
    "LBFGS of nothing": Scenario("LBFGS", (Group((Spec((0, 3)),)),), STEPS),
    "SGD's nesterov without momentum in a group": Scenario(
        "SGD",
        (Group((Spec((3,)),), {"dampening": 0.5}),),
        STEPS,
        {"nesterov": True, "momentum": 0.9},
    ),
    "averages of rows without gradient": Scenario(
        "Adagrad",
        (Group((Spec((7,)),)),),
        (Step(0), Step(1, layout="sparse")),
        stages={"ema_decay": 0.5},
    ),
    "RMSprop's momentum turned on": Scenario(
        "RMSprop", ONE, (Step(0), Change(0, "momentum", 0.9), Step(1))
    ),
}


def test_every_known_difference_has_an_example():
    """Nothing is excluded that was not seen."""
    assert EXAMPLES.keys() == DIFFERENCES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_known_difference_is_still_there(name):
    """Where it is gone, it must not be excluded any more."""
    assert difference_in(EXAMPLES[name]) == name
    try:
        found = check(EXAMPLES[name])
    except Exception:
        return
    assert found == "ill-conditioned"


ILL_CONDITIONED = {
    "decay leaves a ten-thousandth of the parameter": Scenario(
        "ASGD",
        (Group((Spec((33,)),)),),
        (Step(0, scale=1e-4),),
        {"lr": 0.49999999996, "weight_decay": 1.99999996},
    ),
    "a memory shorter than float32 tells 1 - momentum from 1": Scenario(
        "Muon",
        (Group((Spec((1, 9)),)),),
        (Step(0),),
        {"lr": 0.5, "eps": 1e-3, "momentum": 0.9999},
    ),
    "singular values of a thousandth of the largest": Scenario(
        "Muon",
        (Group((Spec((5, 31)),)),),
        (Step(43653), Step(25636, layout="expanded", scale=100.0)),
        {"lr": 0.5},
    ),
}


@pytest.mark.parametrize("name", ILL_CONDITIONED)
def test_what_rounding_decides_is_no_failure(name):
    """Of the numbers given, of hyperparameters, or within the iteration."""
    assert check(ILL_CONDITIONED[name]) == "ill-conditioned"


@pytest.mark.parametrize("name", ["SGD", "Adam", "Muon"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wrong_rate_is_found(name, dtype, monkeypatch):
    """Two in a hundred."""

    def wrong(name):
        class Wrong(reference(name)):
            def step(self, closure=None):
                self.param_groups[0]["lr"] *= 1.02
                super().step(closure)
                self.param_groups[0]["lr"] /= 1.02

        Wrong.__name__ = name
        return Wrong

    reference = side.reference
    scenario = Scenario(
        name, (Group((Spec((16, 16), dtype),)),), (*STEPS, Step(2)), {"lr": 1.0}
    )
    assert check(scenario) == "same"
    monkeypatch.setattr(side, "reference", wrong)
    with pytest.raises(AssertionError, match="ulp away"):
        check(scenario)


def test_a_refusal_by_one_is_found(monkeypatch):
    """By the other it is none."""
    scenario = Scenario("SGD", ONE, (Step(0),))
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, closure=None: 1 / 0)
    with pytest.raises(AssertionError, match="torch raised ZeroDivisionError"):
        check(scenario)


@pytest.mark.parametrize("event", [Reload("file"), Reload("polyak"), Copy("pickle")])
def test_lost_state_is_found(event, monkeypatch):
    """What a checkpoint or a copy leaves out is missing after it."""
    scenario = Scenario("Adam", ONE, (Step(0), event, Step(1)))
    assert check(scenario) == "same"
    original = side.Side.apply

    def forgetful(self, happening):
        original(self, happening)
        if happening is event and self.library == "polyak":
            self.optimizer.state.clear()

    monkeypatch.setattr(side.Side, "apply", forgetful)
    with pytest.raises(AssertionError, match="ulp away"):
        check(scenario)


STAGES = {
    "ema_decay": 0.5,
    "clip_grad_norm": 0.125,
    "clip_grad_value": 0.125,
    "nonfinite": "skip",
    "clear_grads": True,
}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_is_left_out_is_found(name, monkeypatch):
    """It shows in the parameters, the state, or the gradients that are left."""
    bad = float("inf") if name == "nonfinite" else None
    stages = {name: STAGES[name]}
    scenario = Scenario("SGD", ONE, (Step(0), Step(1, bad=bad)), stages=stages)
    assert check(scenario) == "same"
    monkeypatch.setattr(side, "step_with", lambda optimizer, *_: optimizer.step())
    with pytest.raises(AssertionError, match="ulp away"):
        check(scenario)


@pytest.mark.parametrize("event", [Move("state"), Swap(0, True)])
def test_an_address_that_is_kept_is_found(event, monkeypatch):
    """What was there is updated still, and what is there now is not."""
    scenario = Scenario("Adam", ONE, (Step(0), Step(1), event, Step(2, kept=True)))
    assert check(scenario) == "same"
    monkeypatch.setattr(Plan, "holds", lambda self, optimizer: True)
    with pytest.raises(AssertionError, match="ulp away"):
        check(scenario)


def test_a_failure_is_made_small(monkeypatch):
    """What plays no part is gone."""
    other = Group((Spec((3, 4), "float64"), Spec((2,))), {"lr": 0.1})
    events = (Step(0, missing=1), Add(other), Step(1), Reload("file"), Step(2))
    scenario = Scenario("Adam", (*ONE, other), events, {"eps": 0.1}, seed=3)
    original = side.Side.apply

    def forgetful(self, happening):
        original(self, happening)
        if isinstance(happening, Reload) and self.library == "polyak":
            self.optimizer.state.clear()

    monkeypatch.setattr(side.Side, "apply", forgetful)
    with pytest.raises(AssertionError) as caught:
        check(scenario)
    small = shrunk(scenario, caught.value)
    assert small == Scenario(
        "Adam", (Group((Spec(()),)),), (small.events[0], Reload("file"))
    )


@pytest.mark.parametrize("event", [Move("state"), Reset()])
def test_unnoticed_changes_of_state_are_found(event, monkeypatch):
    """Where reading the state did not end the optimizer's custody of it."""
    steady = Step(0, again=3)
    scenario = Scenario("Adam", ONE, (steady, event, Step(7)))
    assert check(scenario) == "same"
    monkeypatch.setattr(Custody, "show", lambda self: self.state)
    with pytest.raises(AssertionError, match="ulp away"):
        check(scenario)
