"""Functions of a step and of an array of steps alike: each curve has one formula.

What is computed from a Python number comes from :mod:`math`, whose results do not
depend on a machine's vector instructions; numpy computes an array, all at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = [
    "as_steps",
    "cos",
    "each",
    "floor",
    "full",
    "least",
    "power",
    "product_of",
    "split",
    "sqrt",
]


def as_steps(step: Any) -> Any:
    """A checked step: an int or a float, or an array of int64 or float64.

    Raises:
        ValueError: a step is negative, NaN or infinite.
        TypeError: what was given is no number and no array of numbers.
    """
    # A scheduler comes here at each step of training, with an int.
    if type(step) is int or type(step) is float:
        if 0 <= step < math.inf:
            return step
        raise _bad_step(step)
    array = np.asarray(step)
    if array.dtype.kind not in "iuf":
        raise TypeError(
            "A schedule needs a step, a number or an array of numbers, got "
            f"{step!r} of type {type(step).__name__}"
        )
    # Whole steps stay whole: a user's function may index with them.
    array = array.astype(
        np.float64 if array.dtype.kind == "f" else np.int64, copy=False
    )
    wrong = array[~((array >= 0) & (array < math.inf))]
    if wrong.size:
        raise _bad_step(wrong[0])
    return array if array.ndim else array.item()


def _bad_step(step: Any) -> ValueError:
    return ValueError(f"Invalid step: {step} (a schedule needs a finite step >= 0)")


def split(
    where: Any, k: Any, then: Callable[[Any], Any], other: Callable[[Any], Any]
) -> Any:
    """``then(k)`` where the condition holds, ``other(k)`` elsewhere; never both."""
    if not isinstance(k, np.ndarray):
        return then(k) if where else other(k)
    elsewhere = ~where
    result = np.empty(k.shape)
    result[where] = then(k[where])
    result[elsewhere] = other(k[elsewhere])
    return result


def full(k: Any, value: float) -> Any:
    """The value at every step of ``k``."""
    return np.full(k.shape, value) if isinstance(k, np.ndarray) else value


def each(function: Callable[[Any], Any], k: Any) -> Any:
    """The function of every step of ``k``, which it receives as a Python number."""
    if isinstance(k, np.ndarray):
        values = [float(function(one)) for one in k.ravel().tolist()]
        return np.array(values, dtype=np.float64).reshape(k.shape)
    return float(function(k))


def least(k: Any, bound: float) -> Any:
    """The lesser of the two."""
    if isinstance(k, np.ndarray):
        return np.minimum(k, bound)
    return k if k < bound else bound


def floor(x: Any) -> Any:
    """The whole number at or below ``x``, as an int."""
    return np.floor(x).astype(np.int64) if isinstance(x, np.ndarray) else math.floor(x)


def cos(x: Any) -> Any:
    """The cosine."""
    return np.cos(x) if isinstance(x, np.ndarray) else math.cos(x)


def sqrt(x: Any) -> Any:
    """The square root."""
    return np.sqrt(x) if isinstance(x, np.ndarray) else math.sqrt(x)


def power(base: Any, exponent: Any) -> Any:
    """``base ** exponent``, infinite where that is too large for a float."""
    if isinstance(base, np.ndarray) or isinstance(exponent, np.ndarray):
        with np.errstate(over="ignore"):
            return np.power(base, exponent)
    try:
        return base**exponent
    except OverflowError:
        return math.inf


def product_of(values: list[Any]) -> Any:
    """The product, rounded alike in whatever order the values come."""
    if len(values) == 1:
        return values[0]
    if isinstance(values[0], np.ndarray):
        return np.prod(np.sort(values, axis=0), axis=0)
    return math.prod(sorted(values))
