"""DistributedDataParallel: two processes, each with half of every batch."""

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import polyak
from tests.integration.harness import (
    OPTIMIZERS,
    POLYAK,
    TORCH,
    Run,
    batches,
    build,
    check,
    loss_of,
    network,
    same,
)
from tests.integration.processes import in_two_processes, mean_of, part_of


def train(library, name, **arguments):
    """A run, in parallel where there are several processes."""
    model, run = network(), Run()
    parallel = DistributedDataParallel(model) if dist.is_initialized() else model
    optimizer = build(library, name, parallel.parameters(), **arguments)
    scheduler = polyak.lr_scheduler.LinearLR(optimizer, 0.2, total_iters=6)
    for batch in batches(12):
        optimizer.zero_grad()
        loss = loss_of(parallel, part_of(batch))
        loss.backward()
        optimizer.step()
        scheduler.step()
        run.note(mean_of(loss), optimizer)
    return run.finish(model, optimizer)


def test_two_processes_are_one():
    """Each of them has the weights and the state of a run that saw whole batches."""
    calls = [(library, name) for name in OPTIMIZERS for library in (TORCH, POLYAK)]
    for (_, name), ranks in zip(calls, in_two_processes(train, calls), strict=True):
        alone = check(train, name)
        for rank in ranks:
            same(rank, alone)
