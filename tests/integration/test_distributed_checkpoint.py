"""torch.distributed.checkpoint: two processes save, and others go on."""

import pytest
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import polyak
from tests.integration.harness import (
    OPTIMIZERS,
    POLYAK,
    TORCH,
    Run,
    batches,
    build,
    loss_of,
    network,
    same,
)
from tests.integration.processes import in_two_processes, mean_of, part_of

STEPS = 10


def start(library, name, seed=0):
    """A model, sharded where there are several processes, optimizer and scheduler."""
    model = network(seed)
    if dist.is_initialized():
        for layer in (model[0], model[2], model):
            fully_shard(layer)
    optimizer = build(library, name, model.parameters())
    schedulers = polyak.lr_scheduler
    return model, optimizer, schedulers.CosineAnnealingLR(optimizer, STEPS)


def train(model, optimizer, scheduler, steps):
    """Some of the steps of a run."""
    run = Run()
    for batch in batches(STEPS)[steps]:
        optimizer.zero_grad()
        loss = loss_of(model, part_of(batch))
        loss.backward()
        optimizer.step()
        scheduler.step()
        run.note(mean_of(loss), optimizer)
    run.finish(model, optimizer)
    run.weights = [_whole(weight) for weight in run.weights]
    run.state = [{k: _whole(v) for k, v in each.items()} for each in run.state]
    return run


def _whole(value):
    return value.full_tensor() if isinstance(value, DTensor) else value


def checkpoint_of(model, optimizer, scheduler, flat):
    """What is saved, or read into."""
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    weights, state = get_state_dict(model, optimizer, options=options)
    schedule = {"epoch": scheduler.last_epoch}
    return {"model": weights, "optimizer": state, "schedule": schedule}, options


def resume(read_by, name, flat, steps, folder):
    """Load into a new model and an optimizer that has done no step, and train on."""
    model, optimizer, scheduler = start(read_by, name, seed=1)
    checkpoint, options = checkpoint_of(model, optimizer, scheduler, flat)
    dcp.load(checkpoint, checkpoint_id=folder)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=checkpoint["model"],
        optim_state_dict=checkpoint["optimizer"],
        options=options,
    )
    scheduler = polyak.lr_scheduler.CosineAnnealingLR(
        optimizer, STEPS, last_epoch=checkpoint["schedule"]["epoch"] - 1
    )
    return train(model, optimizer, scheduler, slice(steps, None))


def save_and_resume(saved_by, read_by, name, flat, steps, folder):
    """Train for some steps, save, and go on from what was saved."""
    parts = start(saved_by, name)
    train(*parts, slice(steps))
    checkpoint, _ = checkpoint_of(*parts, flat)
    dcp.save(checkpoint, checkpoint_id=folder)
    return resume(read_by, name, flat, steps, folder)


# A checkpoint of no step is of state that was never used: torch's is of a step of its
# own. Flat ones have names in place of numbers.
KINDS = [
    (POLYAK, POLYAK, name, flat, steps)
    for name in OPTIMIZERS
    for flat in (False, True)
    for steps in (0, 4)
]
EXCHANGES = [
    (saved_by, read_by, name, False, 4)
    for name in OPTIMIZERS
    for saved_by, read_by in ((TORCH, POLYAK), (POLYAK, TORCH))
]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_a_run_goes_on(tmp_path):
    """In two processes, and in one alone, as if nothing had happened."""
    calls = [
        (*kind, str(tmp_path / str(index)))
        for index, kind in enumerate(KINDS + EXCHANGES)
    ]
    results = in_two_processes(save_and_resume, calls)
    for call, ranks in zip(calls, results, strict=True):
        _, read_by, name, flat, steps, folder = call
        control = start(TORCH, name)
        train(*control, slice(steps))
        expected = train(*control, slice(steps, None))
        alone = resume(read_by, name, flat, steps, folder)
        for run in (*ranks, alone):
            same(run, expected)
