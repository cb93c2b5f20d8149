"""Schedulers rehearsed: copies of them drive a stand-in for their optimizer.

The stand-in's groups have the same values and no parameters.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ..slot import Group

__all__ = ["family", "rehearse", "unseen"]


def rehearse(schedulers: Sequence[Any], steps: int) -> dict[str, NDArray[np.float64]]:
    """What schedulers of one optimizer will set in so many steps, the first being now.

    Returns:
        For each number in the groups an array of shape (steps, groups), NaN where a
        group has it not. Those in tuples are named as ``betas[0]``.
    """
    copies, groups = _copies(schedulers)
    moves = [_move(scheduler) for scheduler in copies]
    places = [(i, *place) for i, group in enumerate(groups) for place in _places(group)]
    seen = np.empty((steps, len(places)))
    for step in range(steps):
        for move in moves if step else ():
            move()
        seen[step] = [_number(groups[i][key], part) for i, key, part in places]
    result: dict[str, NDArray[np.float64]] = {}
    for (i, key, part), column in zip(places, seen.T, strict=True):
        name = key if part is None else f"{key}[{part}]"
        empty = np.full((steps, len(groups)), math.nan)
        result.setdefault(name, empty)[:, i] = column
    return result


# Numbers in groups


def _places(group: Group) -> Iterator[tuple[str, int | None]]:
    """Where a group has numbers: the keys, with the index in a tuple."""
    for key, value in group.items():
        if _is_number(value):
            yield key, None
        elif key != "params" and isinstance(value, list | tuple):
            yield from ((key, i) for i, part in enumerate(value) if _is_number(part))


def _number(value: Any, part: int | None) -> float:
    return float(value if part is None else value[part])


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, int | float) and not isinstance(value, bool)


# Copies


class _StandIn(torch.optim.Optimizer):
    """An optimizer of no parameters, for copies of schedulers to drive.

    It keeps no hooks: so nobody can ask how often it has stepped, which it never does.
    """

    def __init__(self, optimizer: Any, groups: list[Group]) -> None:
        self.defaults = dict(getattr(optimizer, "defaults", {}))
        self.state = {}  # type: ignore[assignment]
        self.param_groups = groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Do nothing."""


def _copies(schedulers: Sequence[Any]) -> tuple[list[Any], list[Group]]:
    """Copies of schedulers, and the groups that these drive."""
    optimizer = schedulers[0].optimizer
    originals = optimizer.param_groups
    memo: dict[int, Any] = {}
    for group in originals:
        # Who holds a parameter holds it still: a copy of the model may not fit.
        memo.update((id(param), param) for param in group["params"])
        memo[id(group["params"])] = []
        tensors = [v for v in group.values() if isinstance(v, Tensor)]
        memo.update((id(v), v.detach().clone()) for v in tensors)
    groups = [
        {key: copy.deepcopy(value, memo) for key, value in group.items()}
        for group in originals
    ]
    memo.update((id(old), new) for old, new in zip(originals, groups, strict=True))
    memo[id(originals)] = groups
    memo[id(optimizer)] = _StandIn(optimizer, groups)
    try:
        copies = copy.deepcopy(list(schedulers), memo)
    except TypeError as error:
        raise TypeError(
            f"{type(schedulers[0]).__name__} cannot be copied, and it is a copy that "
            f"tells the future: {error}. Give what it holds a __deepcopy__, or do not "
            "hold it."
        ) from error
    for scheduler in family(copies):
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.patience = math.inf  # type: ignore[assignment]
    return copies, groups


def _move(scheduler: Any) -> Callable[[], Any]:
    """The scheduler's step; with a loss, where it asks for one."""
    if "metrics" in inspect.signature(scheduler.step).parameters:
        return partial(scheduler.step, metrics=0.0)
    return scheduler.step  # type: ignore[no-any-return]


def family(schedulers: Sequence[Any]) -> list[Any]:
    """Schedulers and those within them, at any depth."""
    found: dict[int, Any] = {}
    due = list(schedulers)
    while due:
        scheduler = due.pop(0)
        if id(scheduler) in found:
            continue
        found[id(scheduler)] = scheduler
        for value in vars(scheduler).values():
            parts = value if isinstance(value, list | tuple) else [value]
            due += [part for part in parts if isinstance(part, LRScheduler)]
    return list(found.values())


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """Keep what copies print and warn of to ourselves, and give randomness back."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with (
            torch.random.fork_rng(devices),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
