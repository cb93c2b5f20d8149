"""A state dict continues the run, in polyak or torch, whichever of them wrote it."""

import io
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from tests.contract.comparison import assert_same, assert_same_training
from tests.contract.harness import (
    NAMES,
    argument_sets,
    case_of,
    copies,
    every_grouped_optimizer,
    every_optimizer,
    make,
    ours,
    parameters,
    params_of,
    reference,
    train,
)

POINTS = (0, 1, 3)


def cases():
    """Each optimizer with each set of arguments."""
    for name in NAMES:
        for set_name, arguments in argument_sets(name).items():
            yield pytest.param(name, arguments, id=f"{name}-{set_name}")


def continued(name, kind, arguments, source):
    """Another optimizer that begins where ``source`` is."""
    optimizer = make(kind, copies(source), arguments)
    # torch would share what it loads.
    optimizer.load_state_dict(deepcopy(source.state_dict()))
    return optimizer


@pytest.mark.parametrize(
    ("writer", "reader"),
    [("torch", "polyak"), ("polyak", "torch"), ("polyak", "polyak")],
)
@pytest.mark.parametrize(("name", "arguments"), list(cases()))
def test_each_continues_as_the_other_would_have(name, arguments, writer, reader):
    """At several points of training; polyak continues its own bit for bit."""
    kinds = {"torch": reference(name), "polyak": ours(name)}
    ulps = 0 if writer == reader else 3 * case_of(name).ulps
    for point in POINTS:
        source = make(kinds[writer], parameters(name), arguments)
        train(name, source, params_of(source), range(point))
        other = continued(name, kinds[reader], arguments, source)
        scales = {}
        assert_same_training(other, source, scales=scales)
        for step in range(point, point + (1 if case_of(name).closure else 3)):
            for optimizer in (source, other):
                train(name, optimizer, params_of(optimizer), [step])
            assert_same_training(other, source, ulps, scales)


@pytest.mark.parametrize(("name", "arguments"), list(cases()))
def test_a_state_dict_has_torchs_layout(name, arguments):
    """The same keys in the same order, with the same types of values."""
    case = case_of(name)
    for point in POINTS:
        actual, expected = (
            make(kind, parameters(name), arguments)
            for kind in (ours(name), reference(name))
        )
        for optimizer in (actual, expected):
            train(name, optimizer, params_of(optimizer), range(point))
        found, due = actual.state_dict(), expected.state_dict()
        assert list(found) == list(due)
        assert_same(found["param_groups"], due["param_groups"])
        if point or not case.early_state:
            assert_same(found["state"], due["state"], 16 * case.ulps)


@every_optimizer
@pytest.mark.parametrize("writer", ["polyak", "torch"])
def test_files_load_with_weights_only(name, writer):
    """Nothing in a checkpoint needs torch.load to run code."""
    kind = ours(name) if writer == "polyak" else reference(name)
    arguments = case_of(name).stateful
    source = make(kind, parameters(name), arguments)
    train(name, source, params_of(source), range(3))
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert_same(saved, source.state_dict())

    other = make(ours(name), copies(source), arguments)
    other.load_state_dict(saved)
    assert_same_training(other, source)


@every_grouped_optimizer
def test_several_groups_continue(name):
    """Groups keep their own values and their own parameters' state."""
    stateful = case_of(name).stateful

    def build(lr):
        return ours(name)(
            [
                {"params": param, "lr": lr / (index + 1)}
                for index, param in enumerate(parameters(name))
            ],
            **stateful,
        )

    source, other = build(0.1), build(0.7)
    train(name, source, params_of(source), range(3))
    with torch.no_grad():
        for param, trained in zip(params_of(other), params_of(source), strict=True):
            param.copy_(trained)
    other.load_state_dict(source.state_dict())
    for optimizer in (source, other):
        train(name, optimizer, params_of(optimizer), range(3, 6))
    assert_same_training(other, source)
    assert_same(other.state_dict(), source.state_dict())


@every_optimizer
def test_training_does_not_change_a_state_dict_that_was_copied(name):
    """A state dict shows the live tensors, as torch's does; a copy stands still."""
    optimizer = make(ours(name), parameters(name), case_of(name).stateful)
    train(name, optimizer, params_of(optimizer), range(2))
    live, copy = optimizer.state_dict(), deepcopy(optimizer.state_dict())
    assert_same(live, copy)
    for param, state in zip(params_of(optimizer), live["state"].values(), strict=False):
        for key, value in state.items():
            if isinstance(value, Tensor):
                assert value is optimizer.state[param][key]
