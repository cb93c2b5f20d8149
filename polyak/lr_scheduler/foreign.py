"""Schedulers of others inside polyak's: torch's own, and those that users wrote.

They set the rates of the groups, and may read them there. So each is run alone: it
finds the rates that it left, and the groups get back theirs when it is done.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch.optim import lr_scheduler as torch_lr

from ..slot import Group
from .composable import ComposableLR
from .rates import Rate, base_rates, copied, put, read
from .scheduler import LRScheduler

__all__ = ["Foreign", "member"]


def member(scheduler: Any) -> ComposableLR | Foreign:
    """A scheduler as part of another: itself, if it is one of polyak's."""
    if not isinstance(scheduler, ComposableLR):
        return Foreign(scheduler)
    own_step = type(scheduler).step.__module__.startswith("polyak.")
    return Foreign(scheduler) if scheduler._by_get_lr or not own_step else scheduler


class Foreign:
    """A scheduler that is known by its public methods alone."""

    chainable = True

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def _floor(self, index: int) -> float:
        return 0.0

    @property
    def _groups(self) -> list[Group]:
        groups: list[Group] = self.scheduler.optimizer.param_groups
        return groups

    @property
    def base_lrs(self) -> list[Rate]:
        """What the scheduler's factors are factors of."""
        own = getattr(self.scheduler, "base_lrs", None)
        return base_rates(self._groups) if own is None else list(own)

    @property
    def last_epoch(self) -> int:
        """Where the scheduler stands."""
        return int(self.scheduler.last_epoch)

    def _own_rates(self) -> list[Rate]:
        rates = self.scheduler._last_lr
        if len(rates) != len(self._groups):
            raise ValueError(
                f"{type(self.scheduler).__name__} was built for {len(rates)} parameter "
                f"groups, and the optimizer has {len(self._groups)} now: it cannot "
                "follow. Use polyak's scheduler of that name, or build it anew"
            )
        return list(rates)

    def _advance(self, metrics: Any) -> None:
        with self._alone(self._own_rates()), warnings.catch_warnings():
            # Whoever steps this one has warned where it is too early.
            for early in ("Detected call of `lr_sch", "Seems like `optimizer.step"):
                warnings.filterwarnings("ignore", message=early)
            if "metrics" not in inspect.signature(self.scheduler.step).parameters:
                self.scheduler.step()
            elif metrics is None:
                raise TypeError(
                    f"{type(self.scheduler).__name__} needs the metric that should "
                    "improve, and got none: call scheduler.step(validation_loss)"
                )
            else:
                self.scheduler.step(metrics)

    def _place(self, step: int) -> None:
        scheduler = self.scheduler
        with self._alone(self.base_lrs), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of steps before the optimizer's
            if isinstance(scheduler, torch_lr.ReduceLROnPlateau):
                scheduler.last_epoch = step
                return
            scheduler.last_epoch = -1
            scheduler._initial_step()
            for _ in range(step):
                scheduler.step()

    @contextmanager
    def _alone(self, rates: list[Rate]) -> Iterator[None]:
        groups = self._groups
        found = copied(read(groups))
        before = dict(vars(self.scheduler))
        for group, rate in zip(groups, rates, strict=True):
            put(group, "lr", rate)
        try:
            yield
            self.scheduler._last_lr = copied(read(groups))
        except BaseException:
            vars(self.scheduler).clear()
            vars(self.scheduler).update(before)
            raise
        finally:
            for group, rate in zip(groups, found, strict=True):
                put(group, "lr", rate)

    def _follow_groups(self, *, alone: bool) -> None:
        """Bring a scheduler of the user's up to date, where it derives from polyak's.

        How far the rate of a new group is off its base, nobody can tell: as far as the
        first group's.
        """
        scheduler = self.scheduler
        if not isinstance(scheduler, LRScheduler):
            return
        origins = scheduler._origins()
        scheduler._follow_groups(alone=alone)
        rates, bases = list(scheduler._last_lr), scheduler.base_lrs
        for index, origin in enumerate(origins):
            if origin is None and bases[0]:
                rates[index] = bases[index] * (rates[0] / bases[0])
        scheduler._last_lr = rates

    def _rebase(self, bases: dict[int, Rate]) -> None:
        scheduler = self.scheduler
        if not isinstance(scheduler, LRScheduler):
            return
        old, rates = scheduler.base_lrs, scheduler._last_lr
        scheduler._last_lr = [
            rate * (bases[i] / base) if i in bases and base else rate
            for i, (rate, base) in enumerate(zip(rates, old, strict=True))
        ]
        scheduler.base_lrs = [bases.get(i, base) for i, base in enumerate(old)]

    def _write_rest(self, groups: list[Group]) -> None:
        return

    def _taking_back(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _snapshot(self) -> dict[str, Any]:
        return dict(vars(self.scheduler))

    def _revert(self, kept: dict[str, Any]) -> None:
        vars(self.scheduler).clear()
        vars(self.scheduler).update(kept)

    def _restore(self, state: dict[str, Any], hyperparams: str) -> None:
        with self._alone(copied(read(self._groups))):
            self.scheduler.load_state_dict(state)
            loaded = self.scheduler._last_lr
            for group, rate in zip(self._groups, loaded, strict=False):
                put(group, "lr", rate)
