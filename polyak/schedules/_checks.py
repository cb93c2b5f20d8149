"""Checks of a schedule's arguments, which also give them their one form.

A whole number is stored as an int and any other as a float, whatever kind of number it
came as, so that equal schedules print, hash and compute alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from ..bounds import Check, nearest

__all__ = [
    "Convert",
    "callable_",
    "flag",
    "one_of",
    "optional",
    "real",
    "whole",
    "wholes",
]

Convert = Callable[[str, str, Any], Any]
"""``convert(owner, name, value)``: the value as it is stored, or an error."""


def real(check: Check | None = None) -> Convert:
    """A finite number, which also passes ``check``."""

    def convert(owner: str, name: str, value: Any) -> float:
        if isinstance(value, bool | str) or not hasattr(value, "__float__"):
            raise _not_a(f"a number for {name}", owner, value)
        if check is not None:
            check(owner, name, value)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ValueError(
                f"Invalid {name}: {value} ({owner} needs a finite number for {name})"
            )
        return number

    return convert


def whole(low: int) -> Convert:
    """A whole number of ``low`` or more; ``1e4`` is one."""
    number = real()

    def convert(owner: str, name: str, value: Any) -> int:
        if type(value) is not int:
            if not number(owner, name, value).is_integer():
                raise ValueError(
                    f"Invalid {name}: {value} ({owner} needs a whole number for {name})"
                )
            value = int(value)
        if value < low:
            raise ValueError(f"Invalid {name}: {value} ({owner} needs {name} >= {low})")
        return int(value)

    return convert


def wholes(low: int) -> Convert:
    """Whole numbers of ``low`` or more, none below the one before it."""
    one = whole(low)

    def convert(owner: str, name: str, value: Any) -> tuple[int, ...]:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise _not_a(f"a list of whole numbers for {name}", owner, value)
        numbers = tuple(
            one(owner, f"{name}[{i}]", part) for i, part in enumerate(value)
        )
        if list(numbers) != sorted(numbers):
            raise ValueError(
                f"Invalid {name}: {numbers} ({owner} needs {name} in increasing order)"
            )
        return numbers

    return convert


def optional(inner: Convert) -> Convert:
    """None, or what ``inner`` takes."""
    return lambda owner, name, value: (
        None if value is None else inner(owner, name, value)
    )


def one_of(*names: str) -> Convert:
    """One of these strings."""

    def convert(owner: str, name: str, value: Any) -> str:
        if value in names:
            return str(value)
        hint = nearest(value, names) if isinstance(value, str) else ""
        listed = ", ".join(map(repr, names))
        raise ValueError(
            f"Invalid {name}: {value!r} ({owner} needs one of {listed}).{hint}"
        )

    return convert


def flag(owner: str, name: str, value: Any) -> bool:
    """True or False."""
    if isinstance(value, bool):
        return value
    raise _not_a(f"True or False for {name}", owner, value)


def callable_(owner: str, name: str, value: Any) -> Any:
    """A function, or an object that is called like one."""
    if callable(value):
        return value
    raise _not_a(f"a function for {name}", owner, value)


def _not_a(wanted: str, owner: str, value: Any) -> TypeError:
    return TypeError(
        f"{owner} needs {wanted}, got {value!r} of type {type(value).__name__}"
    )
