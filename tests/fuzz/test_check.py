"""The fuzzer sees what it should: wrong steps, wrong refusals, and what is known."""

import pytest
import torch

from tests.fuzz import side
from tests.fuzz.check import check
from tests.fuzz.differences import DIFFERENCES, difference_in
from tests.fuzz.scenario import Add, Change, Copy, Group, Reload, Scenario, Spec, Step

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
    "LBFGS of nothing": Scenario("LBFGS", (Group((Spec((0, 3)),)),), STEPS),
    "SGD's nesterov without momentum in a group": Scenario(
        "SGD",
        (Group((Spec((3,)),), {"dampening": 0.5}),),
        STEPS,
        {"nesterov": True, "momentum": 0.9},
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
