"""Schedules on any hyperparameter, for chosen groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..bounds import nearest
from ..schedules import Schedule, absolute
from ..slot import Group
from .attachment import check_optimizer
from .composable import ComposableLR
from .formula import FormulaLR
from .rates import Rate, are_floats, put
from .scheduler import Hyperparams, StateDict, kept

__all__ = ["Scheduler"]

Schedules = Schedule | tuple[Schedule | None, ...]


class Scheduler(FormulaLR):
    r"""Set hyperparameters by schedules (:mod:`polyak.schedules`).

    .. math:: h_k = h_0\,f(k)

    where :math:`h_0` is what the group has at first, kept there as ``initial_<name>``,
    and :math:`f` the schedule. ``schedule.absolute()`` gives the values themselves.

    Args:
        optimizer: the optimizer whose hyperparameters it sets.
        last_epoch: the last step that was done; -1 begins.
        verbose: print each learning rate that is set.
        groups: the indices of the groups that it sets; by default all, those included
            that are added later.
        **schedules: a schedule for each hyperparameter, by name: ``lr``,
            ``weight_decay``, ``momentum``, ...; for ``betas``, a tuple of one schedule,
            or None, for each.

    Raises:
        ValueError: a hyperparameter that the groups do not have, a group that does not
            exist, or no schedule at all.
        TypeError: what is no schedule.

    >>> from polyak.schedules import cosine, linear, warmup
    >>> optimizer = polyak.AdamW([torch.ones(2, requires_grad=True)], lr=1.0)
    >>> scheduler = Scheduler(
    ...     optimizer,
    ...     lr=warmup(2) | cosine(4),
    ...     betas=(linear(0.95, 0.85, 2).absolute(), None),
    ... )
    >>> for _ in range(2):
    ...     optimizer.step()
    ...     scheduler.step()
    >>> optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]
    (1.0, (0.85, 0.999))
    """

    chainable = False
    _transient = FormulaLR._transient | {"schedules"}

    def __init__(
        self,
        optimizer: Any,
        last_epoch: int = -1,
        verbose: bool | str = False,
        *,
        groups: Iterable[int] | None = None,
        **schedules: Schedules,
    ) -> None:
        check_optimizer(self, optimizer)
        self.schedules: Mapping[str, Schedules] = schedules
        self.groups = None if groups is None else sorted(groups)
        _check(optimizer, schedules, self.groups)
        self._chosen = _chosen(optimizer.param_groups, self.groups)
        self.bases = {
            name: [_base(group, name) for group in optimizer.param_groups]
            for name in schedules
            if name != "lr"
        }
        self._begin(optimizer, last_epoch, verbose)

    _per_group = (*ComposableLR._per_group, "_chosen")

    def value_at(self, step: int) -> list[Rate]:
        """The learning rates at a step, one a group: None where it sets none."""
        schedule = self.schedules.get("lr")
        if schedule is None:
            return [None] * len(self.base_lrs)
        return [
            _value(schedule, step, base) if chosen else None
            for base, chosen in zip(self.base_lrs, self._chosen, strict=True)
        ]

    def values_at(self, step: int, name: str) -> list[Any]:
        """The values of a hyperparameter at a step, one a group."""
        if name == "lr":
            return self.value_at(step)
        schedule = self.schedules[name]
        return [
            _value(schedule, step, base) if chosen and base is not None else None
            for base, chosen in zip(self.bases[name], self._chosen, strict=True)
        ]

    def _are_floats(self, rates: list[Rate]) -> bool:
        return are_floats(rates)

    def _write_rest(self, groups: list[Group]) -> None:
        step = max(self.last_epoch, 0)
        for name, bases in self.bases.items():
            for group, base, value in zip(
                groups, bases, self.values_at(step, name), strict=True
            ):
                if base is not None:
                    group.setdefault(f"initial_{name}", base)
                if value is not None:
                    put(group, name, value)

    def _regroup(self, groups: list[Group], origins: list[int | None]) -> None:
        self.bases = {
            name: [
                _base(group, name) if origin is None else bases[origin]
                for group, origin in zip(groups, origins, strict=True)
            ]
            for name, bases in self.bases.items()
        }
        super()._regroup(groups, origins)

    def _new_entry(self, name: str, values: list[Any], group: Group) -> Any:
        if name == "_chosen":
            return self.groups is None
        return super()._new_entry(name, values, group)

    def state_dict(self) -> StateDict:
        """Everything but the optimizer and the schedules themselves."""
        state = super().state_dict()
        state["bases"] = {name: kept(bases) for name, bases in self.bases.items()}
        return state

    def _restore(self, state: StateDict, hyperparams: Hyperparams) -> None:
        saved = state.pop("bases", {})
        if hyperparams == "checkpoint":
            self.bases = {
                name: [
                    *map(_tupled, saved.get(name, ())),
                    *bases[len(saved.get(name, ())) :],
                ]
                for name, bases in self.bases.items()
            }
        super()._restore(state, hyperparams)


def _chosen(groups: list[Group], indices: list[int] | None) -> list[bool]:
    return [indices is None or index in indices for index in range(len(groups))]


def _base(group: Group, name: str) -> Any:
    return kept(group.get(f"initial_{name}", group.get(name)))


def _tupled(value: Any) -> Any:
    """What JSON has made a list of, as the groups have it."""
    return tuple(value) if isinstance(value, list) else value


def _value(schedule: Schedules, step: int, base: Any) -> Any:
    if isinstance(schedule, tuple):
        return tuple(
            own if part is None else _value(part, step, own)
            for part, own in zip(schedule, base, strict=True)
        )
    factor = schedule.value_at(step)
    return factor if isinstance(schedule, absolute) else base * factor


def _check(
    optimizer: Any, schedules: Mapping[str, Any], indices: list[int] | None
) -> None:
    groups = optimizer.param_groups
    if not schedules:
        raise ValueError("Scheduler needs a schedule: Scheduler(optimizer, lr=...)")
    for index in indices or ():
        if not 0 <= index < len(groups):
            raise ValueError(
                f"Invalid groups: {indices} (the optimizer has the groups 0 to "
                f"{len(groups) - 1})"
            )
    for name, schedule in schedules.items():
        for group, chosen in zip(groups, _chosen(groups, indices), strict=True):
            if chosen:
                _check_fits(type(optimizer).__name__, name, schedule, group)


def _check_fits(owner: str, name: str, schedule: Any, group: Group) -> None:
    if name not in group or name == "params":
        raise ValueError(
            f"Scheduler cannot set {name!r}: {owner} has no such hyperparameter."
            f"{nearest(name, [key for key in group if key != 'params'])}"
        )
    held = group[name]
    if held is None:  # turned off in this group
        return
    parts = schedule if isinstance(schedule, tuple) else (schedule,)
    if isinstance(held, tuple) != isinstance(schedule, tuple) or (
        isinstance(held, tuple) and len(held) != len(parts)
    ):
        raise ValueError(
            f"Scheduler needs for {name}, which is {held!r}, "
            + (
                f"a tuple of {len(held)} schedules or Nones"
                if isinstance(held, tuple)
                else "one schedule"
            )
            + f", and got {schedule!r}"
        )
    for part in parts:
        if part is not None and not isinstance(part, Schedule):
            raise TypeError(
                f"Scheduler needs a schedule for {name}, and got {part!r}: take one of "
                "polyak.schedules, such as custom(function)"
            )
