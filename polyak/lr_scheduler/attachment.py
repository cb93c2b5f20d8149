"""What ties schedulers to an optimizer: who drives it, and how many steps it has done.

Nothing about the optimizer is patched. polyak's optimizers count their steps; those of
others get a step hook, which holds no reference to anything.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from ..optimizer import Optimizer

if TYPE_CHECKING:
    from .scheduler import LRScheduler

__all__ = [
    "attach",
    "check_optimizer",
    "drivers",
    "release",
    "steps_done",
    "warn_if_early",
]

_drivers: weakref.WeakKeyDictionary[Any, list[weakref.ref[LRScheduler]]]
_drivers = weakref.WeakKeyDictionary()


def check_optimizer(scheduler: LRScheduler, optimizer: Any) -> None:
    """Raise TypeError for what is no optimizer."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"{type(optimizer).__name__} is not an Optimizer: "
            f"{type(scheduler).__name__} takes an instance of torch.optim.Optimizer, "
            "as all of polyak's are"
        )


def attach(scheduler: LRScheduler, optimizer: Any) -> None:
    """Note that a scheduler drives an optimizer, and have its steps counted.

    Raises:
        TypeError: not an optimizer.
    """
    check_optimizer(scheduler, optimizer)
    others = [ref for ref in _drivers.get(optimizer, ()) if ref() is not None]
    if all(ref() is not scheduler for ref in others):
        others.append(weakref.ref(scheduler))
    _drivers[optimizer] = others
    if isinstance(optimizer, Optimizer):
        return
    hooks = getattr(optimizer, "_optimizer_step_post_hooks", None)
    if hooks is not None and _count not in hooks.values():
        optimizer.register_step_post_hook(_count)


def release(optimizer: Any, members: Iterable[Any]) -> None:
    """Note that schedulers no longer drive an optimizer by themselves."""
    ids = {id(member) for member in members}
    kept = [ref for ref in _drivers.get(optimizer, ()) if id(ref()) not in ids]
    _drivers[optimizer] = kept


def drivers(optimizer: Any) -> list[LRScheduler]:
    """The living polyak schedulers of an optimizer, in order of construction.

    Those that are part of another (a SequentialLR, a ChainedScheduler) are left out.
    """
    found = (ref() for ref in _drivers.get(optimizer, ()))
    return [scheduler for scheduler in found if scheduler is not None]


def _count(optimizer: Any, args: Any, kwargs: Any) -> None:
    optimizer._steps_counted = getattr(optimizer, "_steps_counted", 0) + 1


def steps_done(optimizer: Any) -> int | None:
    """How many steps an optimizer has done; None where nobody can tell."""
    if isinstance(optimizer, Optimizer):
        return optimizer.steps
    if getattr(optimizer, "_optimizer_step_post_hooks", None) is None:
        return None
    return getattr(optimizer, "_steps_counted", 0)


def warn_if_early(optimizer: Any, stacklevel: int) -> None:
    """Warn where a scheduler steps before the optimizer ever did.

    A loss scaler that found an overflow skips the optimizer's step rightly: where a
    gradient is not finite, nothing is said.
    """
    ours = isinstance(optimizer, Optimizer)  # which a device may have to be asked for
    called = optimizer._done if ours else steps_done(optimizer) != 0
    if called or getattr(optimizer, "_opt_called", False) or _overflowed(optimizer):
        return
    warnings.warn(
        "Detected call of `lr_scheduler.step()` before `optimizer.step()`. The first "
        "value of the schedule is skipped. Call `optimizer.step()` first, then "
        "`lr_scheduler.step()`. See "
        "https://pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate",
        UserWarning,
        stacklevel=stacklevel + 1,
    )


def _overflowed(optimizer: Any) -> bool:
    grads = (p.grad for group in optimizer.param_groups for p in group["params"])
    return any(
        not torch.isfinite(grad.coalesce().values() if grad.is_sparse else grad).all()
        for grad in grads
        if grad is not None
    )
