"""Hugging Face accelerate: prepare, accumulate, save_state and load_state."""

import pytest
import torch
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

import polyak
from tests.integration.harness import (
    POLYAK,
    TORCH,
    Run,
    build,
    check,
    dataset,
    every_optimizer,
    needs,
    network,
    same,
)

pytestmark = needs("accelerate")
EPOCHS = 3


def start(library, name, schedulers, accumulate=1, seed=0):
    """An accelerator, and what it has prepared."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    model = network(seed)
    optimizer = build(library, name, model.parameters())
    scheduler = schedulers.CosineAnnealingLR(optimizer, 8 * EPOCHS)
    loader = DataLoader(dataset(), batch_size=8)
    return accelerator, *accelerator.prepare(model, optimizer, loader, scheduler)


def train(accelerator, model, optimizer, loader, scheduler, epochs=EPOCHS):
    """The loop of accelerate's manual."""
    run = Run()
    for _ in range(epochs):
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                loss = mse_loss(model(inputs), targets)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            run.note(loss, optimizer)
    return run.finish(model, optimizer)


@every_optimizer
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(
    "schedulers",
    [torch.optim.lr_scheduler, polyak.lr_scheduler],
    ids=["torchs-schedulers", "polyaks-schedulers"],
)
def test_a_run(name, schedulers, accumulate):
    """Rates move where gradients were applied, and only there."""

    def run(library):
        return train(*start(library, name, schedulers, accumulate))

    check(run)


@every_optimizer
@pytest.mark.parametrize("saved_by", [POLYAK, TORCH])
@pytest.mark.parametrize("read_by", [POLYAK, TORCH])
def test_a_run_goes_on(name, saved_by, read_by, tmp_path):
    """By ``save_state`` and ``load_state``, whoever saved."""
    control = start(TORCH, name, polyak.lr_scheduler)
    train(*control, epochs=1)
    expected = train(*control, epochs=2)

    accelerator, *parts = start(saved_by, name, polyak.lr_scheduler)
    train(accelerator, *parts, epochs=1)
    accelerator.save_state(tmp_path)
    accelerator, *parts = start(read_by, name, polyak.lr_scheduler, seed=1)
    accelerator.load_state(tmp_path)
    same(train(accelerator, *parts, epochs=2), expected)


def test_an_average_in_the_step():
    """What the wrapper does not have, the optimizer inside it has."""
    accelerator, model, optimizer, *rest = start(POLYAK, "SGD", polyak.lr_scheduler)
    inner = optimizer.optimizer
    assert isinstance(inner, polyak.SGD)
    inner.param_groups[0]["ema_decay"] = 0.5
    train(accelerator, model, optimizer, *rest, epochs=1)
    weight = next(model.parameters())
    trained = weight.detach().clone()
    with inner.swapped():
        assert not torch.equal(weight, trained)
    assert torch.equal(weight, trained)
