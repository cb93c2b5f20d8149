"""Checks of hyperparameters, declared by each optimizer and made for every group.

``bounds = {"lr": at_least(0, "learning rate")}`` is read as: a group whose ``lr`` is
below 0 (or is not a number) is refused, with torch's words and the bound.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

__all__ = [
    "Check",
    "above",
    "at_least",
    "at_most",
    "between",
    "each",
    "nearest",
    "one_of",
]

Check = Callable[[str, str, Any], None]
"""``check(owner, name, value)`` raises if an optimizer cannot take the value."""


def at_least(low: float, label: str | None = None, *, should: bool = False) -> Check:
    """A number of ``low`` or more; ``should``: say it as torch's newer classes do."""
    return _number(lambda x: x >= low, f">= {low}", label, should)


def at_most(high: float, label: str | None = None, *, should: bool = False) -> Check:
    """A number of ``high`` or less."""
    return _number(lambda x: x <= high, f"<= {high}", label, should)


def above(low: float, label: str | None = None) -> Check:
    """A number greater than ``low``."""
    return _number(lambda x: x > low, f"> {low}", label)


def between(
    low: float, high: float, label: str | None = None, *, open_above: bool = True
) -> Check:
    """A number from ``low`` to below ``high``, or to ``high`` itself."""
    if open_above:
        return _number(lambda x: low <= x < high, f"in [{low}, {high})", label)
    return _number(lambda x: low <= x <= high, f"in [{low}, {high}]", label)


def each(check: Check, count: int) -> Check:
    """A tuple of ``count`` values, each of which passes ``check``."""

    def checks(owner: str, name: str, value: Any) -> None:
        if not isinstance(value, tuple | list) or len(value) != count:
            raise ValueError(
                f"Invalid {name} value: {value!r} ({owner} needs {count} numbers)"
            )
        for index, part in enumerate(value):
            check(owner, f"{name}[{index}]", part)

    return checks


def one_of(*choices: str | bool) -> Check:
    """One of some words, or of the truth values."""

    def check(owner: str, name: str, value: Any) -> None:
        if value not in choices:
            known = ", ".join(map(repr, choices))
            raise ValueError(
                f"Invalid {name} value: {value!r} ({owner} needs one of {known})"
            )

    return check


def nearest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the name most like ``name``, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def _number(
    holds: Callable[[Any], Any], bound: str, label: str | None, should: bool = False
) -> Check:
    def check(owner: str, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(
                    f"Tensor {name} must be 1-element ({owner} got shape "
                    f"{tuple(value.shape)})"
                )
        elif isinstance(value, bool | str) or not hasattr(value, "__float__"):
            raise TypeError(
                f"{owner} needs a number for {name}, got {value!r} of type "
                f"{type(value).__name__}"
            )
        if not holds(value):
            index = name.partition("[")[2].rstrip("]")
            said = (label or f"{name} value").format(index=index)
            said = f"{said} should be {bound} but is" if should else f"Invalid {said}"
            raise ValueError(f"{said}: {value} ({owner} needs {name} {bound})")

    return check
