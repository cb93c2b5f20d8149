"""Checkpoints of torch from 1.7 on load, and continue as they do in torch of today."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor

import polyak
from tests.contract.comparison import assert_same, assert_same_training
from tests.contract.harness import (
    NAMES,
    case_of,
    copies,
    every_optimizer,
    make,
    ours,
    parameters,
    params_of,
    reference,
    train,
)

# What torch has added to groups since 1.7.
LATER_KEYS = (
    "maximize",
    "foreach",
    "capturable",
    "differentiable",
    "fused",
    "decoupled_weight_decay",
)
# Optimizers that came after torch 1.12, when the counter became a tensor.
RECENT = ("Adafactor", "Muon", "LBFGS")
OLD = [name for name in NAMES if name not in RECENT]
ARGUMENTS = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Adam": {"amsgrad": True, "weight_decay": 0.1},
    "ASGD": {"t0": 1, "lambd": 0.1},
    "Adagrad": {"lr_decay": 0.1, "initial_accumulator_value": 0.5},
}


def plain_numbers(values):
    """The state of a parameter with numbers for 0-d tensors, but for its slots."""
    numbers = {"step": int, "eta": float, "mu": float, "mu_product": float}
    return {
        key: numbers[key](value) if key in numbers else value
        for key, value in values.items()
    }


def without_later_keys(group):
    """What every version wrote of a group."""
    return {key: group[key] for key in sorted(group) if key not in LATER_KEYS}


def old_layout(state_dict, keys):
    """A state dict as torch 1.7 would have written it, with these for parameters."""
    groups = [
        without_later_keys(group)
        | {"params": [keys[index] for index in group["params"]]}
        for group in deepcopy(state_dict["param_groups"])
    ]
    state = {
        keys[index]: plain_numbers(values)
        for index, values in deepcopy(state_dict["state"]).items()
    }
    return {"state": state, "param_groups": groups}


def trained_by_torch(name, arguments, steps=3):
    """torch's optimizer after some steps."""
    source = make(reference(name), parameters(name), arguments)
    train(name, source, params_of(source), range(steps))
    return source


def readers(name, arguments, source, state_dict):
    """polyak's optimizer and torch's, which have loaded the same."""
    both = [
        make(kind, copies(source), arguments) for kind in (ours(name), reference(name))
    ]
    for reader in both:
        reader.load_state_dict(deepcopy(state_dict))
    return both


def assert_same_continuation(name, actual, expected):
    """Now, after some steps, and in the state dicts that they save then."""
    scales = {}
    assert_same_training(actual, expected, scales=scales)
    for step in range(3, 6):
        for optimizer in (actual, expected):
            train(name, optimizer, params_of(optimizer), [step])
        assert_same_training(actual, expected, 3 * case_of(name).ulps, scales)
    found, due = (
        [without_later_keys(group) for group in each.state_dict()["param_groups"]]
        for each in (actual, expected)
    )
    assert_same(found, due)


@pytest.mark.parametrize(
    "keys",
    [(0, 1, 2), (140_001, 140_777, 140_333)],
    ids=["positions", "ids"],
)
@pytest.mark.parametrize("name", OLD)
def test_the_layout_of_torch_1_7_continues(name, keys):
    """Counters are integers, other numbers floats, and newer keys are missing."""
    arguments = ARGUMENTS.get(name, {})
    source = trained_by_torch(name, arguments)
    old = old_layout(source.state_dict(), keys)
    assert_same_continuation(name, *readers(name, arguments, source, old))


@pytest.mark.parametrize("name", OLD)
@pytest.mark.parametrize("missing", LATER_KEYS)
def test_each_later_key_may_be_missing(name, missing):
    """As in the versions between: what a group lacks stays as it was built."""
    source = trained_by_torch(name, {})
    state_dict = deepcopy(source.state_dict())
    if missing not in state_dict["param_groups"][0]:
        pytest.skip(f"{name} never had {missing}")
    del state_dict["param_groups"][0][missing]
    optimizer = make(ours(name), copies(source), {})
    built = optimizer.param_groups[0][missing]
    optimizer.load_state_dict(state_dict)
    assert optimizer.param_groups[0][missing] == built
    train(name, optimizer, params_of(optimizer), range(3, 5))


@every_optimizer
def test_any_hyperparameter_may_be_missing(name):
    """torch raises KeyError in the next step; here it is as the optimizer was built."""
    arguments = case_of(name).stateful
    source = make(ours(name), parameters(name), arguments)
    train(name, source, params_of(source), range(2))
    for key, built in source.defaults.items():
        state_dict = deepcopy(source.state_dict())
        del state_dict["param_groups"][0][key]
        optimizer = make(ours(name), copies(source), arguments)
        optimizer.load_state_dict(state_dict)
        assert_same(optimizer.param_groups[0][key], built)
        train(name, optimizer, params_of(optimizer), range(2, 4))


@pytest.mark.parametrize(
    "kind", [torch.int64, torch.float64, torch.float32, int, float], ids=str
)
@pytest.mark.parametrize("name", ["Adam", "Adagrad", "RMSprop", "ASGD"])
def test_a_step_counter_of_any_kind_becomes_todays(name, kind):
    """A float32 number on the CPU; a double is exact, and is kept."""
    source = trained_by_torch(name, {})
    state_dict = deepcopy(source.state_dict())
    for values in state_dict["state"].values():
        step = values["step"].item()
        is_dtype = isinstance(kind, torch.dtype)
        values["step"] = torch.tensor(step, dtype=kind) if is_dtype else kind(step)
    optimizer = make(ours(name), copies(source), {})
    optimizer.load_state_dict(state_dict)
    due = torch.float64 if kind is torch.float64 else torch.float32
    for param, trained in zip(params_of(optimizer), params_of(source), strict=True):
        step = optimizer.state[param]["step"]
        assert step.dtype is due
        assert step.item() == source.state[trained]["step"].item()
    plain = make(ours(name), copies(source), {})
    plain.load_state_dict(deepcopy(source.state_dict()))
    for each in (optimizer, plain):
        train(name, each, params_of(each), range(3, 5))
    assert_same(params_of(optimizer), params_of(plain))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_momentum_buffer_of_none_is_none_yet(momentum):
    """torch 1.8 to 1.13 wrote it without momentum, and before the first gradient."""
    arguments = {"lr": 0.1, "momentum": momentum, "dampening": 0.5 * (momentum > 0)}
    source = make(torch.optim.SGD, parameters("SGD"), arguments)
    old = source.state_dict()
    old["state"] = {index: {"momentum_buffer": None} for index in range(3)}
    actual, expected = readers("SGD", arguments, source, old)
    for step in range(3):
        for optimizer in (actual, expected):
            train("SGD", optimizer, params_of(optimizer), [step])
        assert_same(params_of(actual), params_of(expected), 12)


@pytest.mark.parametrize("name", ["ASGD", "NAdam"])
def test_numbers_of_the_state_become_tensors(name):
    """``eta``, ``mu`` and ``mu_product`` were Python's, and are 0-d tensors since."""
    source = trained_by_torch(name, {})
    old = old_layout(source.state_dict(), range(3))
    optimizer = make(ours(name), copies(source), {})
    optimizer.load_state_dict(old)
    assert_same(
        [optimizer.state[param] for param in params_of(optimizer)],
        [source.state[param] for param in params_of(source)],
    )


@pytest.mark.parametrize(("name", "slot"), [("Adam", "step"), ("ASGD", "eta")])
def test_a_number_of_several_numbers_is_refused(name, slot):
    """A counter or a rate with a shape is of something else."""
    source = trained_by_torch(name, {})
    state_dict = deepcopy(source.state_dict())
    state_dict["state"][0][slot] = torch.ones(2)
    optimizer = make(ours(name), copies(source), {})
    with pytest.raises(
        ValueError, match=rf"has {slot} of shape \(2,\) for parameter 0"
    ):
        optimizer.load_state_dict(state_dict)
    assert not optimizer.state


def test_a_schedule_begins_on_an_old_checkpoint():
    """Which has no ``initial_lr``: the scheduler's own stays."""
    source = trained_by_torch("SGD", {"lr": 0.5})
    old = old_layout(source.state_dict(), range(3))
    optimizer = polyak.SGD(copies(source), lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    optimizer.load_state_dict(old)
    assert optimizer.param_groups[0]["initial_lr"] == 0.5
    train("SGD", optimizer, params_of(optimizer), [3])
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_the_layout_made_here_is_the_old_one():
    """No tensor but the slots is left, and no newer key."""
    old = old_layout(trained_by_torch("ASGD", {}).state_dict(), range(3))
    kinds = {key: type(value) for key, value in old["state"][0].items()}
    assert kinds == {"step": int, "eta": float, "mu": float, "ax": Tensor}
    keys = {"params", "lr", "lambd", "alpha", "t0", "weight_decay"}
    assert old["param_groups"][0].keys() == keys
