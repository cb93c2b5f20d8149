"""Schedules that a function gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any

import numpy as np

from ._checks import callable_
from ._maths import each
from .schedule import Schedule

__all__ = ["custom", "multiplicative"]


@dataclass(frozen=True, repr=False)
class custom(Schedule):
    r"""A function of the step; endless.

    .. math::
        f(k) = g(k)

    Two are equal if their functions are. It can be pickled if the function can, and
    :func:`~polyak.schedules.parse` cannot make one.

    Args:
        function: :math:`g`, of a Python number.

    Raises:
        TypeError: what was given is no function.

    >>> custom(lambda k: 1 / (1 + k)).value_at(1)
    0.5
    """

    function: Callable[[Any], Any]

    bounds = {"function": callable_}

    def _at(self, k: Any) -> Any:
        return each(self.function, k)


@dataclass(frozen=True, repr=False)
class multiplicative(Schedule):
    r"""The running product of a function of the step; endless.

    .. math::
        f(k) = \prod_{j=1}^{k} g(j)

    It is multiplied from :math:`j = 1` upwards, however a step is reached. The last
    product is kept, so that going on from it to the next step is one call.

    Args:
        function: :math:`g`, of a whole number.

    Raises:
        TypeError: what was given is no function.
        ValueError: a step is no whole number.

    >>> multiplicative(lambda j: 0.5).value_at([0, 1, 2])
    array([1.  , 0.5 , 0.25])
    """

    function: Callable[[int], Any]

    bounds = {"function": callable_}

    # The last step and its product. One tuple, so that threads see both or neither.
    _last = (0, 1.0)

    def _at(self, k: Any) -> Any:
        if isinstance(k, np.ndarray):
            whole = k.astype(np.int64)
            if (whole != k).any():
                raise _between_steps(k[whole != k][0])
            steps = range(1, int(whole.max(initial=0)) + 1)
            factors = (float(self.function(j)) for j in steps)
            return np.array(list(accumulate(factors, mul, initial=1.0)))[whole]
        if k != int(k):
            raise _between_steps(k)
        last, product = self._last
        if k < last:
            last, product = 0, 1.0
        for j in range(last + 1, int(k) + 1):
            product *= float(self.function(j))
        object.__setattr__(self, "_last", (int(k), product))
        return product


def _between_steps(step: float) -> ValueError:
    return ValueError(
        f"Invalid step: {step} (multiplicative needs whole steps: its product has no "
        "value between them)"
    )
