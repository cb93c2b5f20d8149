"""torch's schedulers drive polyak's optimizers, and polyak's drive torch's."""

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

STEPS = 20


def sequence(library, optimizer):
    """A warm-up, then half a cosine."""
    warmup = library.LinearLR(optimizer, 0.1, total_iters=5)
    cosine = library.CosineAnnealingLR(optimizer, STEPS - 5)
    return library.SequentialLR(optimizer, [warmup, cosine], [5])


def one_cycle(library, optimizer):
    """Rates and momenta."""
    return library.OneCycleLR(optimizer, 0.05, total_steps=STEPS + 1)


def cyclic(library, optimizer):
    """Rates and momenta, up and down."""
    return library.CyclicLR(optimizer, 0.001, 0.05, step_size_up=4)


def plateau(library, optimizer):
    """By the loss."""
    return library.ReduceLROnPlateau(optimizer, patience=1, threshold=0.3)


def train(library, name, schedulers, schedule):
    """A run of any optimizer under any library's schedulers."""
    model, run = network(), Run()
    optimizer = build(library, name, model.parameters())
    scheduler = schedule(schedulers, optimizer)
    for batch in batches(STEPS):
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        scheduler.step(*[loss.item()] if schedule is plateau else [])
        run.note(loss, optimizer)
    return run.finish(model, optimizer)


@every_optimizer
@pytest.mark.parametrize("schedule", [sequence, one_cycle, cyclic, plateau])
def test_every_pair_of_libraries(name, schedule):
    """The four runs are one."""
    pairs = [
        (library, schedulers)
        for library in (TORCH, POLYAK)
        for schedulers in (torch.optim.lr_scheduler, polyak.lr_scheduler)
    ]
    expected, *others = (
        train(library, name, schedulers, schedule) for library, schedulers in pairs
    )
    for run in others:
        same(run, expected)
    assert len(set(expected.rates)) > 2
