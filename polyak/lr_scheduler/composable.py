"""Schedulers that know their own rates, apart from what the groups have.

A composable scheduler computes its *own* rates from its base rates and its progress
alone. That is what makes it exact: it can be placed at any step, nested in another, and
loaded in any order. What the groups have is the same, unless something else has changed
them: the user, or another scheduler. A *chainable* scheduler respects that, and from
then on moves what it found in proportion; the others set their own rates.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar

from ..slot import Group
from .attachment import drivers
from .rates import Rate, are_floats, copied, marks, moved_on, put, read
from .scheduler import Hyperparams, LRScheduler, StateDict

__all__ = ["ComposableLR"]


class ComposableLR(LRScheduler):
    """The base of polyak's own schedulers.

    A subclass writes :meth:`_own_rates`, :meth:`_advance` and :meth:`_place`.
    """

    chainable: ClassVar[bool] = True

    # Whether it begins, after another in a sequence, at the rates that this has left.
    _continues: ClassVar[bool] = False

    _per_group = (*LRScheduler._per_group, "_moves")
    _transient = LRScheduler._transient | {"_own", "_marks", "_stale"}

    # By what factor the groups' rates are off the scheduler's own; None: by none.
    _moves: list[float] | None = None
    _own: list[Rate]
    # What the groups had after the last step, and what a later load would give them.
    _marks: list[Any] | None = None
    _stale: list[Rate] | None = None

    def _own_rates(self) -> list[Rate]:
        """The rates that the scheduler by itself wants now; None: not its group."""
        raise NotImplementedError

    def _advance(self, metrics: Any) -> None:
        """Go to the next step."""
        raise NotImplementedError

    def _place(self, step: int) -> None:
        """Go to a step, as if a run had come there with no change from outside."""
        raise NotImplementedError

    def _begin_at(self, step: int) -> None:
        """Go to the step at which the scheduler is built."""
        self._place(step)

    def _floor(self, index: int) -> float:
        """What a group's rate is moved towards by the schedule, and away from."""
        return 0.0

    # The step

    @property
    def _by_get_lr(self) -> bool:
        """Whether a subclass of the user's computes the rates."""
        return type(self).get_lr is not ComposableLR.get_lr

    def _initial_step(self) -> None:
        self._own, self._moves = self.base_lrs, None
        super()._initial_step()

    def _go(self, epoch: Any, metrics: Any) -> None:
        if self._is_initial:
            self._begin_at(self.last_epoch + 1)
        elif epoch is None:
            self._advance(metrics)
        else:
            self._place(epoch)

    def _starts_from(self, found: list[Rate]) -> bool:
        """Whether the groups' rates are to be moved, not set from the base rates.

        Where a run is resumed by ``last_epoch``, only those that another scheduler,
        built before, has just set.
        """
        if self.last_epoch < 0:
            return True
        rates = list(map(float, found))
        others = drivers(self.optimizer)
        return any(rates == list(map(float, other._last_lr)) for other in others)

    def _update_lr(self, epoch: Any = None, metrics: Any = None) -> None:
        if self._by_get_lr:
            super()._update_lr(epoch, metrics)
            return
        groups = self._follow_groups()
        found = read(groups)
        changed = self._changed(found)
        old = None if self._is_initial else self._own
        if epoch is not None:
            self._moves = None
        elif changed and self.chainable:
            self._note_moves(found)
        self._go(epoch, metrics)
        self._own = self._own_rates()
        if self._own is not old:
            rates = self._moved(self._own, found, old)
            self._set(groups, rates, found)
        elif changed:  # nothing moves, and what was found stays
            self._last_lr, self._marks = copied(found), marks(found)

    def _changed(self, found: list[Rate]) -> bool:
        """Whether the groups may have other rates than after the last step."""
        if self._marks is self._last_lr:  # floats, that is
            return found != self._marks
        return marks(found) != self._marks

    def _note_moves(self, found: list[Rate]) -> None:
        """Take in what something else has done to the rates of the groups."""
        if self._is_initial:
            if not self._starts_from(found):
                return
            self._last_lr = self.base_lrs
        stale, self._stale = self._stale, None
        for index, (rate, last) in enumerate(zip(found, self._last_lr, strict=True)):
            own = self._own[index]
            if own is None or not moved_on(rate, last):
                continue
            if stale is not None and not moved_on(rate, stale[index]):
                continue
            floor = self._floor(index)
            if float(self.base_lrs[index]) == floor:  # of which nothing is a part
                self._start_from({index: rate})
                continue
            moves = list(self._moves or [1.0] * len(found))
            if float(own) != floor:
                moves[index] = (float(rate) - floor) / (float(own) - floor)
            self._moves = moves

    def _moved(
        self, own: list[Rate], found: list[Rate], old: list[Rate] | None = None
    ) -> list[Rate]:
        """The rates to set: the scheduler's own, as far off as the groups' were."""
        if self._moves is None:
            return own
        before = old or [None] * len(own)
        rows = zip(own, before, self._moves, found, strict=True)
        return [self._rate(index, *row) for index, row in enumerate(rows)]

    def _rate(
        self, index: int, own: Rate, before: Rate, move: float, found: Rate
    ) -> Rate:
        """One group's rate: what it has, where its schedule stands still."""
        if own is None:
            return None
        if before is not None and float(own) == float(before):
            return found
        floor = self._floor(index)
        return own if move == 1.0 else floor + (own - floor) * move

    def _set(self, groups: list[Group], rates: list[Rate], found: list[Rate]) -> None:
        if are_floats(found) and self._are_floats(rates):
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
            self._last_lr = self._marks = rates
        else:
            for group, rate, held in zip(groups, rates, found, strict=True):
                if rate is not held and rate is not None:
                    put(group, "lr", rate)
            self._last_lr = copied(read(groups))
            self._marks = marks(read(groups))
        self._write_rest(groups)
        self._mark_new(groups)
        if self.verbose:
            for index, rate in enumerate(self._last_lr):
                self.print_lr(True, index, rate)

    def _are_floats(self, rates: list[Rate]) -> bool:
        """Whether the rates to set are numbers: no tensor, no group left out."""
        return are_floats(rates)

    def get_lr(self) -> list[Rate]:
        """The rates of ``last_epoch``, one a group."""
        if not self._get_lr_called_within_step:
            warnings.warn(
                "To get the last learning rate computed by the scheduler, please use "
                "`get_last_lr()`.",
                UserWarning,
                stacklevel=2,
            )
        own = self._own_rates()
        found = read(self.optimizer.param_groups)
        return [
            lr if new is None else new
            for new, lr in zip(self._moved(own, found), found, strict=True)
        ]

    # Groups that come and go

    def _regroup(self, groups: list[Group], origins: list[int | None]) -> None:
        super()._regroup(groups, origins)
        self._own = self._own_rates()
        self._marks = None

    def _settle(self, new: list[int]) -> None:
        if self.chainable:
            groups = self.optimizer.param_groups
            unsaid = (i for i in new if "initial_lr" not in groups[i])
            self._start_from({index: groups[index]["lr"] for index in unsaid})

    def _start_from(self, rates: dict[int, Rate]) -> None:
        """Give some groups the bases from which the schedule leads to these rates."""
        self._rebase({index: copied([rate])[0] for index, rate in rates.items()})
        own, bases = self._own_rates(), {}
        for index, rate in rates.items():
            floor = self._floor(index)
            if own[index] is not None and float(own[index]) != floor:
                reach = rate - floor
                bases[index] = floor + reach * (reach / (own[index] - floor))
        self._rebase(bases)
        self._own = self._own_rates()

    def _rebase(self, bases: dict[int, Rate]) -> None:
        """Give some groups other base rates."""
        self.base_lrs = [bases.get(i, base) for i, base in enumerate(self.base_lrs)]

    def _new_entry(self, name: str, values: list[Any], group: Group) -> Any:
        if name == "_moves":
            return 1.0
        return super()._new_entry(name, values, group)

    # State

    def _restore(self, state: StateDict, hyperparams: Hyperparams) -> None:
        self._moves = None
        super()._restore(state, hyperparams)
        self._own = self._own_rates()
        self._marks = None

    def _rates_to_load(
        self, saved: list[Rate] | None, hyperparams: Hyperparams
    ) -> list[Rate]:
        if self._by_get_lr:
            return super()._rates_to_load(saved, hyperparams)
        groups = self._follow_groups()
        found = [*(saved or self._last_lr), *read(groups)[len(self._last_lr) :]]
        if hyperparams == "checkpoint" and saved is not None:
            return copied(found)  # other than the last ones, where they were changed
        if hyperparams == "checkpoint":
            rates = self._rates_of_torch(found)
            self._last_lr = self._own
            if self.chainable:
                self._note_moves(rates)
        else:
            self._stale = copied(found)
            rates = [
                held if rate is None else rate
                for rate, held in zip(
                    self._moved(self._own, found), read(groups), strict=True
                )
            ]
        self._last_lr = copied(rates)
        return rates

    def _rates_of_torch(self, found: list[Rate]) -> list[Rate]:
        """The rates of a checkpoint of torch's, without its recursion's rounding."""
        return [
            rate if own is None or (self.chainable and not _close(rate, own)) else own
            for rate, own in zip(found, self._own, strict=True)
        ]


def _close(one: Rate, other: Rate) -> bool:
    return math.isclose(float(one), float(other), rel_tol=1e-6, abs_tol=1e-12)
