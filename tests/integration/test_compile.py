"""torch.compile of a training step: an optimizer's step is left as it is."""

import pytest
import torch

import polyak
from tests.integration.harness import (
    POLYAK,
    TORCH,
    Run,
    batches,
    build,
    every_optimizer,
    loss_of,
    network,
    same,
)

STEPS = 50

# Dynamo itself looks at the gradients of what is computed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)


@pytest.fixture(autouse=True)
def _compiler():
    """Nothing is left of what was compiled before."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def train(library, name, backend=None):
    """A scheduled run; its training step is compiled where a backend is given."""
    model, run = network(), Run()
    optimizer = build(library, name, model.parameters())
    scheduler = polyak.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=STEPS + 1)

    def training_step(inputs, targets):
        optimizer.zero_grad()
        loss = loss_of(model, (inputs, targets))
        loss.backward()
        optimizer.step()
        return loss

    if backend is not None:
        training_step = torch.compile(training_step, backend=backend)
    for batch in batches(STEPS):
        loss = training_step(*batch)
        scheduler.step()
        run.note(loss, optimizer)
    return run.finish(model, optimizer)


@every_optimizer
def test_a_compiled_step_is_compiled_once(name):
    """Rates and momenta change in every step; what is compiled is not compiled anew."""
    from torch._dynamo.testing import CompileCounter  # takes a second

    expected = train(TORCH, name)
    counter = CompileCounter()
    same(train(POLYAK, name, counter), expected)
    assert counter.frame_count == 1


def breaks(function):
    """How often compiled code is interrupted in a function."""
    return torch._dynamo.explain(function)().graph_break_count


def test_a_step_interrupts_compiled_code_once():
    """And clearing the gradients beside it does not interrupt it again."""
    model = network()
    optimizer = polyak.AdamW(model.parameters())
    batch = batches(1)[0]
    loss_of(model, batch).backward()

    def without():
        return loss_of(model, batch) + loss_of(model, batch)

    def with_step():
        before = loss_of(model, batch)
        optimizer.step()
        return before + loss_of(model, batch)

    def with_both():
        before = loss_of(model, batch)
        optimizer.step()
        optimizer.zero_grad()
        return before + loss_of(model, batch)

    assert [breaks(each) for each in (without, with_step, with_both)] == [0, 1, 1]
    assert optimizer.steps == 2


def test_a_step_method_that_is_compiled():
    """Replaced by its compiled self, under a scheduler that replaces nothing."""

    def train(library, name, compiled=False):
        model, run = network(), Run()
        optimizer = build(library, name, model.parameters())
        if compiled:
            optimizer.step = torch.compile(optimizer.step, backend="eager")
        scheduler = polyak.lr_scheduler.ExponentialLR(optimizer, 0.9)
        for batch in batches(10):
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            optimizer.step()
            scheduler.step()
            run.note(loss, optimizer)
        return run.finish(model, optimizer)

    expected = train(TORCH, "AdamW")
    same(train(POLYAK, "AdamW", compiled=True), expected)
