"""The base of every schedule: its value at a step, its length, and the operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from numbers import Real
from typing import Any, ClassVar, overload

import numpy as np
from numpy.typing import NDArray

from ._checks import Convert
from ._maths import as_steps

__all__ = ["Schedule", "arguments", "enclosed", "text_of"]


class Schedule:
    """A factor of a base value, as a function of the step.

    Schedules are small immutable values: two with the same arguments are equal, their
    ``repr`` is an expression that :func:`~polyak.schedules.parse` reads, and they can
    be pickled and be keys of a dict.

    >>> from polyak.schedules import cosine, warmup
    >>> schedule = warmup(2) | cosine(4)
    >>> schedule
    warmup(2) | cosine(4)
    >>> schedule.length
    6
    >>> [round(schedule(step), 3) for step in range(8)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    bounds: ClassVar[Mapping[str, Convert]] = {}
    """How each argument is checked and stored (:mod:`polyak.schedules._checks`)."""

    _binding: ClassVar[int] = 2
    """How tightly the printed form holds together: ``|`` 0, ``*`` 1, a call 2."""

    # Every subclass is a dataclass.
    __dataclass_fields__: ClassVar[dict[str, Any]]

    # numpy leaves `np.float64(2) * schedule` to `__rmul__`.
    __array_ufunc__ = None

    def __post_init__(self) -> None:
        for name, convert in self.bounds.items():
            value = convert(type(self).__name__, name, getattr(self, name))
            object.__setattr__(self, name, value)

    @overload
    def value_at(self, step: float) -> float: ...
    @overload
    def value_at(self, step: Sequence[float] | NDArray[Any]) -> NDArray[np.float64]: ...
    def value_at(self, step: Any) -> Any:
        """The factor at a step, or at each of many.

        Args:
            step: a number >= 0; or an array or a sequence of them.

        Returns:
            A float, or a float64 array of the shape of ``step``.

        Raises:
            ValueError: a step is negative, NaN or infinite.
            TypeError: the step is no number.

        >>> from polyak.schedules import linear
        >>> linear(1, 0, steps=4).value_at(1)
        0.75
        >>> linear(1, 0, steps=4).value_at([0, 1, 2.5, 9])
        array([1.   , 0.75 , 0.375, 0.   ])
        """
        return self._at(as_steps(step))

    __call__ = value_at

    def _at(self, k: Any) -> Any:
        """The factor at a checked step or array of steps."""
        raise NotImplementedError(f"{type(self).__name__} does not define _at(k)")

    @property
    def length(self) -> int | None:
        """Steps after which the value stands still for ever; None if it never does."""
        return self._length()

    def _length(self) -> int | None:
        return None

    def __or__(self, other: Schedule) -> Schedule:
        """This schedule for its length, then the other, counted from there.

        Raises:
            ValueError: this schedule has no end (``until`` gives it one).
        """
        from .compose import sequence

        if isinstance(other, Schedule):
            return sequence.of(self, other)
        return NotImplemented

    def __mul__(self, other: Schedule | float) -> Schedule:
        """The product with another schedule or a number."""
        from .compose import product

        if isinstance(other, Schedule | Real) and not isinstance(other, bool):
            return product.of(self, other)
        return NotImplemented

    __rmul__ = __mul__

    def until(self, n: int) -> Schedule:
        """The same schedule with the length ``n``: a part of it, or more than it.

        From step ``n`` on it stands at its value at ``n``, as every curve that has a
        length stands at the value where it arrives.

        >>> from polyak.schedules import constant, exponential
        >>> exponential(0.5).until(2) | constant(0.1)
        exponential(0.5).until(2) | constant(0.1)
        >>> exponential(0.5).until(2).value_at(10)
        0.25
        """
        from .compose import until

        return until(self, n)

    def strict(self) -> Schedule:
        """The same schedule, but a step past its length is an error.

        The step that is equal to the length is not past it: a scheduler that was
        stepped after each of ``length`` optimizer steps stands there.

        Raises:
            ValueError: this schedule has no end (``until`` gives it one).

        >>> from polyak.schedules import cosine
        >>> cosine(10).strict().value_at(12)
        Traceback (most recent call last):
        ValueError: Tried to evaluate step 12 of a schedule of 10 steps ...
        """
        from .compose import strict

        return strict(self)

    def in_epochs(self, steps_per_epoch: int, smooth: bool = False) -> Schedule:
        """The same schedule, counted in epochs.

        Args:
            steps_per_epoch: steps in an epoch, 1 or more.
            smooth: go on within an epoch, at fractions of it; otherwise the value
                changes only where an epoch begins.

        >>> from polyak.schedules import linear
        >>> linear(1, 0, steps=2).in_epochs(2).value_at(range(5))
        array([1. , 1. , 0.5, 0.5, 0. ])
        >>> linear(1, 0, steps=2).in_epochs(2, smooth=True).value_at(range(5))
        array([1.  , 0.75, 0.5 , 0.25, 0.  ])
        """
        from .compose import in_epochs

        return in_epochs(self, steps_per_epoch, smooth)

    def absolute(self) -> Schedule:
        """:class:`~polyak.schedules.absolute` of this: values, rather than factors."""
        from .compose import absolute

        return absolute(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({arguments(self)})"

    def __getstate__(self) -> dict[str, Any]:
        # What a schedule remembers besides its arguments stays behind.
        return {field.name: getattr(self, field.name) for field in fields(self)}


def arguments(schedule: Schedule, skip: int = 0) -> str:
    """The arguments of a call that makes the schedule, without the defaults."""
    written = []
    by_keyword = False
    for field in fields(schedule)[skip:]:
        value = getattr(schedule, field.name)
        if field.default is not MISSING and value == field.default:
            by_keyword = True
        else:
            written.append(f"{field.name}=" * by_keyword + text_of(value))
    return ", ".join(written)


def text_of(value: Any) -> str:
    """An argument as it is written: ``10000`` for 10000.0, a function by its name."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        return str(int(value))
    if callable(value) and not isinstance(value, Schedule):
        return str(getattr(value, "__qualname__", None) or repr(value))
    return repr(value)


def enclosed(schedule: Schedule, binding: int) -> str:
    """The printed form, in parentheses if it is held together less tightly."""
    return repr(schedule) if schedule._binding >= binding else f"({schedule!r})"
