"""ignite: trainers by a function, schedulers by handlers, checkpoints of everything."""

import pytest
import torch
from torch.nn.functional import mse_loss

import polyak
from tests.integration.harness import (
    POLYAK,
    TORCH,
    Run,
    batches,
    build,
    check,
    every_optimizer,
    needs,
    network,
    same,
)

pytestmark = needs("ignite")
EPOCHS = 3


def trainer_of(model, optimizer, run, **arguments):
    """ignite's trainer, which notes its steps."""
    from ignite.engine import Events, create_supervised_trainer

    trainer = create_supervised_trainer(model, optimizer, mse_loss, **arguments)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: run.note(trainer.state.output, optimizer)
    )
    return trainer


def torchs(optimizer):
    """A scheduler of torch's in ignite's handler."""
    from ignite.handlers.param_scheduler import LRScheduler

    return LRScheduler(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40))


def polyaks(optimizer):
    """A scheduler of polyak's in ignite's handler."""
    from ignite.handlers.param_scheduler import LRScheduler

    return LRScheduler(polyak.lr_scheduler.CosineAnnealingLR(optimizer, 40))


def ignites(optimizer):
    """A schedule of ignite's own, of a rate."""
    from ignite.handlers.param_scheduler import CosineAnnealingScheduler

    return CosineAnnealingScheduler(optimizer, "lr", 0.05, 0.001, 8)


@every_optimizer
@pytest.mark.parametrize("schedule", [torchs, polyaks, ignites])
def test_a_run(name, schedule):
    """Gradients of two batches make a step."""
    from ignite.engine import Events

    def train(library):
        model, run = network(), Run()
        optimizer = build(library, name, model.parameters())
        trainer = trainer_of(model, optimizer, run, gradient_accumulation_steps=2)
        trainer.add_event_handler(Events.ITERATION_STARTED, schedule(optimizer))
        trainer.run(batches(8), max_epochs=EPOCHS)
        return run.finish(model, optimizer)

    assert len(set(check(train).rates)) > 3


@every_optimizer
@pytest.mark.parametrize("saved_by", [POLYAK, TORCH])
@pytest.mark.parametrize("read_by", [POLYAK, TORCH])
def test_a_run_goes_on(name, saved_by, read_by, tmp_path):
    """From ignite's checkpoint of model, optimizer, scheduler and trainer."""
    from ignite.engine import Events
    from ignite.handlers import Checkpoint, DiskSaver

    def start(library, seed=0):
        model, run = network(seed), Run()
        optimizer = build(library, name, model.parameters())
        trainer = trainer_of(model, optimizer, run)
        schedule = polyaks(optimizer)
        trainer.add_event_handler(Events.ITERATION_STARTED, schedule)
        parts = {
            "model": model,
            "optimizer": optimizer,
            "schedule": schedule,
            "trainer": trainer,
        }
        return parts, run

    def train(parts, run, epochs):
        parts["trainer"].run(batches(8), max_epochs=epochs)
        return run.finish(parts["model"], parts["optimizer"])

    expected = train(*start(TORCH), EPOCHS)
    parts, run = start(saved_by)
    saver = Checkpoint(parts, DiskSaver(tmp_path, create_dir=False))
    parts["trainer"].add_event_handler(Events.EPOCH_COMPLETED, saver)
    first = train(parts, run, 1)

    parts, run = start(read_by, seed=1)
    Checkpoint.load_objects(parts, torch.load(saver.last_checkpoint))
    rest = train(parts, run, EPOCHS)
    rest.losses = first.losses + rest.losses
    rest.rates = first.rates + rest.rates
    same(rest, expected)
