"""Schedulers made of schedulers: one after another, and all at once."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from operator import mul
from typing import Any

from torch.optim import lr_scheduler as torch_lr

from ..schedules._checks import wholes
from ..slot import Group
from .attachment import check_optimizer, release
from .composable import ComposableLR
from .foreign import Foreign, member
from .rates import Rate, base_rates, copied, read
from .scheduler import Hyperparams, StateDict

__all__ = ["ChainedScheduler", "SequentialLR"]


class _CompositeLR(ComposableLR):
    """A scheduler whose rates come of those of its members, in ``_schedulers``."""

    _transient = ComposableLR._transient | {"_schedulers"}
    _schedulers: Any

    @property
    def _members(self) -> list[ComposableLR | Foreign]:
        return [member(scheduler) for scheduler in self._schedulers]

    def _adopt(self, optimizer: Any, *arguments: Any) -> None:
        """Begin, with the members no longer driving the optimizer by themselves."""
        self._begin(optimizer, *arguments)
        release(optimizer, self._schedulers)
        for part in self._members:
            if isinstance(part, ComposableLR):
                part._moves = None

    def _starts_from(self, found: list[Rate]) -> bool:
        return False  # what the groups have is what the members left there

    def step(self, metrics: Any = None) -> None:
        """Go to the next epoch.

        Args:
            metrics: what a :class:`ReduceLROnPlateau` among the members takes.

        Raises:
            ValueError: one of them needs the metric, and it is NaN.
            TypeError: one of them needs the metric, and it is missing.
        """
        self._take_step(None, metrics)

    def _regroup(self, groups: list[Group], origins: list[int | None]) -> None:
        for part in self._members:
            part._follow_groups(alone=False)
        super()._regroup(groups, origins)

    def _rebase(self, bases: dict[int, Rate]) -> None:
        super()._rebase(bases)
        for part in self._members:
            part._rebase(bases)

    def state_dict(self) -> StateDict:
        """Everything but the optimizer, with the states of the members."""
        state = super().state_dict()
        state["_schedulers"] = [part.state_dict() for part in self._schedulers]
        return state

    def _restore(self, state: StateDict, hyperparams: Hyperparams) -> None:
        owner = type(self).__name__
        saved = state.pop("_schedulers", None)
        if saved is None or len(saved) != len(self._schedulers):
            count = "none" if saved is None else len(saved)
            raise ValueError(
                f"the state dict has the states of {count} schedulers, and this "
                f"{owner} is made of {len(self._schedulers)}. Nothing was loaded."
            )
        for part, part_state in zip(self._members, saved, strict=True):
            inner = dict(part_state)
            inner.pop("_group_lrs", None)
            part._restore(inner, hyperparams)
        state.setdefault("last_epoch", self._members[0].last_epoch)
        super()._restore(state, hyperparams)

    @contextmanager
    def _taking_back(self) -> Iterator[None]:
        with ExitStack() as stack:
            for part in self._members:
                stack.enter_context(part._taking_back())
            yield

    def _snapshot(self) -> Any:
        return super()._snapshot(), [part._snapshot() for part in self._members]

    def _revert(self, kept: Any) -> None:
        own, parts = kept
        super()._revert(own)
        for part, before in zip(self._members, parts, strict=True):
            part._revert(before)

    def __setstate__(self, state: StateDict) -> None:
        super().__setstate__(state)
        release(self.optimizer, self._schedulers)


class SequentialLR(_CompositeLR, torch_lr.SequentialLR):
    r"""Run schedulers one after another.

    .. math:: \eta_k = \eta^{(i)}_{k - m_i}, \qquad m_i \leq k < m_{i+1}

    where the milestone :math:`m_i` is the epoch at which the i-th scheduler begins,
    from its own epoch 0 (:math:`m_0 = 0`). Members may be sequences or chains
    themselves, and :class:`ReduceLROnPlateau`. Of a change that was made to the rates
    from outside, nothing is left at a milestone; but
    :class:`~polyak.swa_utils.SWALR` begins at the rates that it finds there.

    Args:
        optimizer: the optimizer whose rates it sets.
        schedulers: its members, built for the same optimizer; they are not stepped by
            themselves any more.
        milestones: the epochs at which the second one begins, the third, ...: whole
            numbers from 0, increasing.
        last_epoch: the last epoch that was done; -1 begins.
        verbose: print each rate that is set.

    Raises:
        TypeError: a member that is no scheduler; a milestone that is no whole number.
        ValueError: no members, another number of milestones, milestones that are not
            increasing, or a member of another optimizer.

    >>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=1.0)
    >>> warmup = polyak.lr_scheduler.LinearLR(optimizer, 0.25, total_iters=3)
    >>> decay = polyak.lr_scheduler.ExponentialLR(optimizer, 0.5)
    >>> scheduler = SequentialLR(optimizer, [warmup, decay], milestones=[3])
    >>> [scheduler.value_at(k)[0] for k in range(6)]
    [0.25, 0.5, 0.75, 1.0, 0.5, 0.25]
    """

    config = ("_milestones",)

    def __init__(
        self,
        optimizer: Any,
        schedulers: list[Any],
        milestones: list[int],
        last_epoch: int = -1,
        verbose: bool | str = False,
    ) -> None:
        check_optimizer(self, optimizer)
        _check_members(type(self).__name__, schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                "Sequential Schedulers expects number of schedulers provided to be one "
                "more than the number of milestone points, but got number of "
                f"schedulers {len(schedulers)} and the number of milestones to be "
                f"equal to {len(milestones)}"
            )
        wholes(0)(type(self).__name__, "milestones", milestones)
        self._schedulers = schedulers
        self._milestones = milestones
        self._adopt(optimizer, last_epoch, verbose)

    def _active(self, step: int) -> tuple[ComposableLR | Foreign, int]:
        """The member whose turn it is at a step, and the step at which it begins."""
        index = bisect_right(self._milestones, step)
        start = self._milestones[index - 1] if index else 0
        return member(self._schedulers[index]), start

    def value_at(self, step: int) -> list[Rate]:
        """The learning rates at a step, one a group; nothing is changed."""
        active, start = self._active(step)
        if start <= self.last_epoch or not _continues(active):
            return _value_at(active, step - start)
        kept = active._snapshot()  # it has not begun: see what will be when it has
        try:
            _begin_from(active, self.value_at(start - 1))
            active._place(0)
            return _value_at(active, step - start)
        finally:
            active._revert(kept)

    def _own_rates(self) -> list[Rate]:
        return self._active(self.last_epoch)[0]._own_rates()

    def _place(self, step: int) -> None:
        active, start = self._active(step)
        if start and _continues(active):
            self._place(start - 1)
            _begin_from(active, self._own_rates())
        self.last_epoch = step
        active._place(step - start)

    def _advance(self, metrics: Any) -> None:
        active, start = self._active(self.last_epoch + 1)
        if start and start == self.last_epoch + 1:
            if _continues(active):
                found = read(self.optimizer.param_groups)
                ends = self._moved(self._own_rates(), found)
                pairs = zip(ends, found, strict=True)
                _begin_from(active, [lr if end is None else end for end, lr in pairs])
            active._place(0)
            self._moves = None
        else:
            active._advance(metrics)
        self.last_epoch += 1

    def _write_rest(self, groups: list[Group]) -> None:
        self._active(self.last_epoch)[0]._write_rest(groups)

    def _restore(self, state: StateDict, hyperparams: Hyperparams) -> None:
        before = state.get("_milestones", self._milestones)
        unsaid = hyperparams == "current" or "_class" not in state  # torch's has none
        super()._restore(state, hyperparams)
        _, start = self._active(self.last_epoch)
        was = bisect_right(before, self.last_epoch)
        index = bisect_right(self._milestones, self.last_epoch)
        if (index, start) != (was, before[was - 1] if was else 0) or (
            unsaid and _continues(self, self.last_epoch)
        ):  # it is another member's turn now, or nobody said from where this one goes
            self._place(self.last_epoch)
            self._own = self._own_rates()

    @property
    def chainable(self) -> bool:  # type: ignore[override]
        """Whether the member whose turn it is moves the rates that it finds."""
        return self._active(self.last_epoch)[0].chainable

    def _floor(self, index: int) -> float:
        return self._active(self.last_epoch)[0]._floor(index)


class ChainedScheduler(_CompositeLR, torch_lr.ChainedScheduler):
    r"""Run schedulers all at once: the product of their factors.

    .. math:: \eta_k = \eta_0 \prod_i \frac{\eta^{(i)}_k}{\eta^{(i)}_0}

    The order of the members does not matter, and nothing that one of them does is lost,
    whether it is chainable or not. Members may be sequences or chains themselves, and
    :class:`ReduceLROnPlateau`.

    Args:
        schedulers: its members, built for the same optimizer; they are not stepped by
            themselves any more.
        optimizer: the optimizer; by default that of the first member.
        verbose: print each rate that is set.

    Raises:
        TypeError: a member that is no scheduler.
        ValueError: no members, or a member of another optimizer.

    >>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=1.0)
    >>> drop = polyak.lr_scheduler.MultiStepLR(optimizer, [2], gamma=0.1)
    >>> decay = polyak.lr_scheduler.ExponentialLR(optimizer, 0.5)
    >>> scheduler = ChainedScheduler([drop, decay])
    >>> [scheduler.value_at(k)[0] for k in range(4)]
    [1.0, 0.5, 0.025, 0.0125]
    """

    def __init__(
        self,
        schedulers: Sequence[Any],
        optimizer: Any = None,
        verbose: bool | str = False,
    ) -> None:
        owner = type(self).__name__
        if optimizer is None and len(schedulers):
            optimizer = getattr(schedulers[0], "optimizer", None)
        _check_members(owner, schedulers, optimizer, " to be chained")
        check_optimizer(self, optimizer)
        self._schedulers = schedulers
        parts = self._members
        columns = (part.base_lrs for part in parts)
        base_lrs = list(
            map(
                _begins,
                base_rates(optimizer.param_groups),
                zip(*columns, strict=True),
            )
        )
        self._adopt(optimizer, parts[0].last_epoch - 1, verbose, base_lrs)

    def value_at(self, step: int) -> list[Rate]:
        """The learning rates at a step, one a group; nothing is changed."""
        return self._chained([_value_at(part, step) for part in self._members])

    def _own_rates(self) -> list[Rate]:
        return self._chained([part._own_rates() for part in self._members])

    def _chained(self, rates: list[list[Rate]]) -> list[Rate]:
        factors = [
            _factors(own, part.base_lrs)
            for own, part in zip(rates, self._members, strict=True)
        ]
        return list(map(mul, self.base_lrs, _products(factors)))

    def _begin_at(self, step: int) -> None:
        self.last_epoch = step
        for part in self._members:
            if isinstance(part, Foreign):  # it has seen the rates of the others
                part._place(part.last_epoch)

    def _place(self, step: int) -> None:
        self.last_epoch = step
        for part in self._members:
            part._place(step)

    def _advance(self, metrics: Any) -> None:
        self.last_epoch += 1
        for part in self._members:
            part._advance(metrics)

    def _write_rest(self, groups: list[Group]) -> None:
        for part in self._members:
            part._write_rest(groups)


def _member_at(part: ComposableLR | Foreign, step: int) -> ComposableLR | Foreign:
    """The member whose turn it is at a step, at any depth of sequences."""
    while isinstance(part, SequentialLR):
        part, start = part._active(step)
        step -= start
    return part


def _continues(part: ComposableLR | Foreign, step: int = 0) -> bool:
    """Whether the member whose turn it is at a step begins where another ended."""
    active = _member_at(part, step)
    return isinstance(active, ComposableLR) and active._continues


def _begin_from(part: ComposableLR | Foreign, rates: list[Rate]) -> None:
    """Have a member that continues begin at these rates; None: at its base rate."""
    bases = {i: rate for i, rate in enumerate(copied(rates)) if rate is not None}
    _member_at(part, 0)._rebase(bases)


def _factors(rates: list[Rate], bases: list[Rate]) -> list[Rate]:
    """By what each rate is off its base; by nothing, where there is none of either."""
    return [
        rate / base if rate is not None and base else 1.0
        for rate, base in zip(rates, bases, strict=True)
    ]


def _products(columns: list[list[Rate]]) -> list[Rate]:
    """The product of each row, to the bit the same in any order of the columns."""
    if len(columns) == 1:
        return columns[0]
    if len(columns) == 2:
        return list(map(mul, *columns))
    return [math.prod(sorted(row, key=float)) for row in zip(*columns, strict=True)]


def _begins(initial: Rate, bases: Iterable[Rate]) -> Rate:
    """Where a chain begins: a member with bounds of its own, as OneCycleLR, says it."""
    return max((base for base in bases if base != initial), key=float, default=initial)


def _value_at(part: ComposableLR | Foreign, step: int) -> list[Rate]:
    formula = getattr(part, "value_at", None)
    if formula is None:
        name = type(getattr(part, "scheduler", part)).__name__
        raise TypeError(
            f"the rates of {name} are no function of the step: polyak.plot shows what "
            "they will be"
        )
    rates: list[Rate] = formula(step)
    return rates


def _check_members(
    owner: str, schedulers: Sequence[Any], optimizer: Any, to_do: str = ""
) -> None:
    if len(schedulers) < 1:
        raise ValueError(
            f"{owner} expects at least one scheduler{to_do}, but got no scheduler."
        )
    for index, scheduler in enumerate(schedulers):
        name = type(scheduler).__name__
        if not hasattr(scheduler, "optimizer"):
            raise TypeError(
                f"{owner} at index {index} should have `optimizer` as its attribute, "
                f"as schedulers have, but got {name}"
            )
        if scheduler.optimizer is not optimizer:
            raise ValueError(
                f"{owner} expects all schedulers to belong to the same optimizer, but "
                f"got scheduler {name} at index {index} has "
                f"{type(scheduler.optimizer).__name__}, which is different from "
                f"{type(optimizer).__name__}: build it for the same object"
            )
