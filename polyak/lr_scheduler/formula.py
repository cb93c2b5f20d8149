"""Schedulers that are formulas: rates as a function of base rates and step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar, cast

from ..schedules import Schedule
from .composable import ComposableLR
from .rates import Rate, are_floats

S = TypeVar("S", bound=Schedule)

__all__ = ["FormulaLR", "ScheduleLR", "check_past_end"]


class FormulaLR(ComposableLR):
    """A scheduler whose rates are a function of the step: :meth:`value_at`."""

    _transient = ComposableLR._transient | {"_float_bases"}
    _float_bases: list[Rate] | None = None

    def value_at(self, step: int) -> list[Rate]:
        """The learning rates at a step, one a group; nothing is changed.

        ``step()`` sets these very values, unless something else changes the rates.

        Args:
            step: 0 or more.
        """
        raise NotImplementedError

    def _get_closed_form_lr(self) -> list[Rate]:
        return self.value_at(self.last_epoch)

    def _own_rates(self) -> list[Rate]:
        return self.value_at(max(self.last_epoch, 0))

    def _are_floats(self, rates: list[Rate]) -> bool:
        # Rates are of the kind of their bases, which are looked at but once.
        if self._float_bases is self.base_lrs:
            return True
        if are_floats(rates):
            self._float_bases = self.base_lrs
        return self._float_bases is self.base_lrs

    def _advance(self, metrics: Any) -> None:
        self.last_epoch += 1

    def _place(self, step: int) -> None:
        self.last_epoch = step


class ScheduleLR(FormulaLR, Generic[S]):
    """A scheduler whose rate is its base rate times a schedule, or nearly so.

    A subclass names its ``curve``, and in ``config`` which attribute is which argument
    of it; what the curve does not take is None.
    """

    curve: ClassVar[type[Schedule]]
    config: ClassVar[Mapping[str, str | None]] = {}

    _transient = FormulaLR._transient | {"_schedule", "_schedule_of"}

    _schedule: S
    _schedule_of: tuple[Any, ...] | None = None

    @property
    def schedule(self) -> S:
        """The schedule, a pure function of the step, of the attributes as they are."""
        attributes = vars(self)
        of = tuple([attributes[name] for name in self.config])
        if of != self._schedule_of:
            self._schedule = self._make_schedule()
            self._schedule_of = of
        return self._schedule

    def _make_schedule(self) -> S:
        arguments = {
            argument: getattr(self, name)
            for name, argument in self.config.items()
            if argument is not None
        }
        return cast(S, self.curve(**arguments))

    def value_at(self, step: int) -> list[Rate]:
        """The learning rates at a step, one a group; nothing is changed.

        ``step()`` sets these very values, unless something else changes the rates.

        Args:
            step: 0 or more.
        """
        factor = self.schedule.value_at(step)
        return [base * factor for base in self.base_lrs]

    def _begin(self, *arguments: Any, **keywords: Any) -> None:
        for name in self.config:
            self._check(name, getattr(self, name))
        super()._begin(*arguments, **keywords)

    def _check(self, name: str, value: Any) -> None:
        """Raise where the curve cannot take an argument, by the name it has here."""
        argument = self.config[name]
        if argument is not None:
            self.curve.bounds[argument](type(self).__name__, name, value)


def check_past_end(scheduler: object, choice: str, choices: tuple[str, ...]) -> None:
    """Raise for an unknown answer to what follows a schedule's last step."""
    if choice not in choices:
        raise ValueError(
            f"Invalid past_end: {choice!r} ({type(scheduler).__name__} needs one of "
            f"{', '.join(map(repr, choices))})"
        )
