"""Schedules made of schedules: what the operators and methods of one return."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._checks import flag, real, whole
from ._maths import least, product_of, split
from .schedule import Schedule, arguments, enclosed, text_of

__all__ = ["absolute", "in_epochs", "product", "sequence", "strict", "until"]


def inner(owner: str, name: str, value: Any) -> Schedule:
    """A schedule that may be a part of another."""
    if isinstance(value, absolute):
        raise ValueError(
            f"{value!r} cannot be a part of another schedule: its values are no "
            "factors. Compose the factors first and take absolute(...) of the whole"
        )
    if not isinstance(value, Schedule):
        raise TypeError(
            f"{owner} needs a schedule, got {value!r} of type {type(value).__name__}"
        )
    return value


def ending(owner: str, name: str, value: Any) -> Schedule:
    """A part that has an end."""
    part = inner(owner, name, value)
    if part.length is None:
        raise ValueError(
            f"{part!r} has no end, and {owner} needs one: say how many steps it is to "
            f"last, {enclosed(part, 2)}.until(n)"
        )
    return part


@dataclass(frozen=True, repr=False)
class sequence(Schedule):
    """Schedules one after the other, each counted from where it begins: ``a | b``."""

    parts: tuple[Schedule, ...]

    _binding = 0

    @classmethod
    def of(cls, *parts: Schedule) -> sequence:
        """The parts, and the parts of those that are sequences."""
        flat: list[Schedule] = []
        for part in parts:
            flat += part.parts if isinstance(part, sequence) else [part]
        for part in flat[:-1]:
            ending("|", "schedule", part)
        return cls((*flat[:-1], inner("|", "schedule", flat[-1])))

    def _at(self, k: Any) -> Any:
        return self._from(0, k)

    def _from(self, index: int, k: Any) -> Any:
        part = self.parts[index]
        if index == len(self.parts) - 1:
            return part._at(k)
        length = part.length
        return split(
            k < length, k, part._at, lambda k: self._from(index + 1, k - length)
        )

    def _length(self) -> int | None:
        lengths = [part.length for part in self.parts]
        return None if None in lengths else sum(lengths)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return " | ".join(enclosed(part, 1) for part in self.parts)


@dataclass(frozen=True, repr=False, eq=False)
class product(Schedule):
    """The product of schedules and a number, ``2 * a * b``, whatever their order.

    Numbers are multiplied with each other as they come.
    """

    parts: tuple[Schedule, ...]
    scale: float = 1.0

    _binding = 1

    @classmethod
    def of(cls, *factors: Any) -> Schedule:
        """The product of schedules and numbers; a schedule alone stays as it is."""
        parts: list[Schedule] = []
        scale = 1.0
        for factor in factors:
            if isinstance(factor, product):
                parts += factor.parts
                scale *= factor.scale
            elif isinstance(factor, Schedule):
                parts.append(inner("*", "schedule", factor))
            else:
                scale *= real()("*", "factor", factor)
        if len(parts) == 1 and scale == 1:
            return parts[0]
        return cls(tuple(parts), scale)

    def _at(self, k: Any) -> Any:
        return self.scale * product_of([part._at(k) for part in self.parts])

    def _length(self) -> int | None:
        lengths = [part.length for part in self.parts]
        return None if None in lengths else max(lengths)  # type: ignore[type-var]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, product):
            return NotImplemented
        return self._unordered() == other._unordered()

    def __hash__(self) -> int:
        return hash((product, *self._unordered()))

    def _unordered(self) -> tuple[float, frozenset[tuple[Schedule, int]]]:
        return self.scale, frozenset(Counter(self.parts).items())

    def __repr__(self) -> str:
        scale = [text_of(self.scale)] if self.scale != 1 else []
        return " * ".join(scale + [enclosed(part, 1) for part in self.parts])


@dataclass(frozen=True, repr=False)
class wrapper(Schedule):
    """A schedule seen through one of the methods of :class:`Schedule`."""

    schedule: Schedule

    def _length(self) -> int | None:
        return self.schedule.length

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{enclosed(self.schedule, 2)}.{name}({arguments(self, skip=1)})"


@dataclass(frozen=True, repr=False)
class until(wrapper):
    """See :meth:`Schedule.until`."""

    n: int

    bounds = {"schedule": inner, "n": whole(0)}

    def _at(self, k: Any) -> Any:
        return self.schedule._at(least(k, self.n))

    def _length(self) -> int:
        return self.n


@dataclass(frozen=True, repr=False)
class strict(wrapper):
    """See :meth:`Schedule.strict`."""

    bounds = {"schedule": ending}

    def _at(self, k: Any) -> Any:
        past = k > self.length
        if np.any(past):
            step = k[past][0] if isinstance(k, np.ndarray) else k
            raise ValueError(
                f"Tried to evaluate step {step} of a schedule of {self.length} steps "
                f"({self.schedule!r}): make it longer, or leave out .strict() to stand "
                "at its last value"
            )
        return self.schedule._at(k)


@dataclass(frozen=True, repr=False)
class in_epochs(wrapper):
    """See :meth:`Schedule.in_epochs`."""

    steps_per_epoch: int
    smooth: bool = False

    bounds = {"schedule": inner, "steps_per_epoch": whole(1), "smooth": flag}

    def _at(self, k: Any) -> Any:
        n = self.steps_per_epoch
        return self.schedule._at(k / n if self.smooth else k // n)

    def _length(self) -> int | None:
        epochs = self.schedule.length
        return None if epochs is None else epochs * self.steps_per_epoch


@dataclass(frozen=True, repr=False)
class absolute(Schedule):
    """The values themselves, rather than factors of a base value.

    A scheduler sets what this gives, whatever the optimizer's value was. It can only be
    the outermost of a composed schedule.

    Args:
        schedule: the values, as a function of the step.

    Raises:
        ValueError: it is made a part of another schedule.

    >>> from polyak.schedules import absolute, linear
    >>> absolute(linear(0.3, 0.1, steps=2)).value_at(2)
    0.1
    """

    schedule: Schedule

    bounds = {"schedule": inner}

    def _at(self, k: Any) -> Any:
        return self.schedule._at(k)

    def _length(self) -> int | None:
        return self.schedule.length
