"""Adagrad in shared memory: what one process does to the state, all see."""

import pytest
import torch
from torch import multiprocessing, nn

from polyak import Adagrad
from tests.contract.comparison import assert_same, assert_same_training
from tests.engine.processes import DEADLINE

VALUES = {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5}


def build(kind=Adagrad, **values):
    """A model, the same each time, and its optimizer."""
    model = nn.Linear(5, 3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn(param.shape, generator=generator))
    return model, kind(model.parameters(), **VALUES, **values)


def train(optimizer, steps, only=(0, 1)):
    """The steps of these numbers: the same in every process."""
    params = optimizer.param_groups[0]["params"]
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for index, param in enumerate(params):
            grad = torch.randn(param.shape, generator=generator)
            param.grad = grad if index in only else None
        optimizer.step()


def begin(model, optimizer, *what):
    """Start a child that trains."""
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=work, args=(model, optimizer, *what), daemon=True)
    child.start()
    return child


def work(model, optimizer, *what):
    """What a child does."""
    pairs = zip(model.parameters(), optimizer.param_groups[0]["params"], strict=True)
    assert all(param is its for param, its in pairs)
    train(optimizer, *what)


def finish(child):
    """Wait for a child, which must end well."""
    child.join(DEADLINE)
    if child.is_alive():
        child.kill()
    assert child.exitcode == 0


@pytest.mark.parametrize("flags", [{}, {"foreach": False}], ids=["kernel", "eager"])
def test_processes_take_turns_at_one_state(flags):
    """Parent, child, parent: as one process does these steps, bit for bit."""
    model, optimizer = build(**flags)
    _, expected = build(**flags)
    train(optimizer, range(2))
    model.share_memory()
    optimizer.share_memory()
    train(optimizer, range(2, 4))
    finish(begin(model, optimizer, range(4, 7)))
    train(expected, range(7))
    assert_same_training(optimizer, expected)
    for each in (optimizer, expected):
        train(each, range(7, 9))
    assert_same_training(optimizer, expected)


def test_processes_work_at_the_same_time():
    """Two children from the first step on, each at a parameter that is its own."""
    model, optimizer = build()
    _, expected = build()
    model.share_memory()
    optimizer.share_memory()
    children = [begin(model, optimizer, range(20), (index,)) for index in range(2)]
    for child in children:
        finish(child)
    train(expected, range(20))
    assert_same_training(optimizer, expected)


def test_state_that_is_missing_is_made():
    """As torch makes it in the constructor; a complex sum has both of its parts."""
    given = [torch.ones(3), torch.ones(2, dtype=torch.complex64)]
    actual, expected = (
        kind([nn.Parameter(tensor) for tensor in given], **VALUES)
        for kind in (Adagrad, torch.optim.Adagrad)
    )
    actual.share_memory()
    assert_same([*actual.state.values()], [*expected.state.values()])


def test_state_is_shared_where_it_is():
    """All of it; the tensors stay the objects that they are."""
    model, optimizer = build(ema_decay=0.9)
    train(optimizer, range(2))
    before = [dict(optimizer.state[param]) for param in model.parameters()]
    values = [{k: v.clone() for k, v in state.items()} for state in before]
    optimizer.share_memory()
    after = [optimizer.state[param] for param in model.parameters()]
    assert_same(after, values)
    for state, held in zip(after, before, strict=True):
        assert list(state) == ["step", "sum", "param_ema"]
        assert all(state[key] is held[key] for key in held)
        assert all(value.is_shared() for value in state.values())
