"""Two processes that train together, by torch.distributed and gloo."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as dist

WORLD = 2
DEADLINE = timedelta(seconds=60)  # for one process to wait for the other

Call = tuple[Any, ...]

# A server imports torch once; each pair of processes is a fork of it.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "torch._dynamo",
        "torch.distributed.checkpoint",
        "torch.distributed.fsdp",
        "polyak.engine.plan",
    ]
)


def in_two_processes(
    function: Callable[..., Any], calls: Iterable[Call]
) -> list[list[Any]]:
    """Call a module's function in the processes of a group, once for each arguments.

    Returns:
        For each call, its results by rank.
    """
    with (
        TemporaryDirectory() as folder,
        ProcessPoolExecutor(WORLD, mp_context=_context) as pool,
    ):
        meeting = f"file://{folder}/meeting"
        ranks = [
            pool.submit(_work, rank, meeting, function, list(calls))
            for rank in range(WORLD)
        ]
        results = [rank.result() for rank in ranks]
    return [list(of_ranks) for of_ranks in zip(*results, strict=True)]


def _work(
    rank: int, meeting: str, function: Callable[..., Any], calls: list[Call]
) -> list[Any]:
    warnings.simplefilter("error")
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=WORLD, timeout=DEADLINE
    )
    try:
        return [function(*call) for call in calls]
    finally:
        dist.destroy_process_group()


def part_of(batch: tuple[Any, ...]) -> tuple[Any, ...]:
    """What this process has of a batch: all of it, where it is alone."""
    if not dist.is_initialized():
        return batch
    return tuple(part[dist.get_rank() :: WORLD] for part in batch)


def mean_of(loss: Any) -> Any:
    """The mean of all processes' losses."""
    loss = loss.detach().clone()
    if dist.is_initialized():
        dist.all_reduce(loss)
        loss /= WORLD
    return loss
