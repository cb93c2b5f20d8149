"""Curves that go from the base value to another: the decays, and a constant."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..bounds import above, at_least
from ._checks import flag, real, whole, wholes
from ._maths import cos, full, least, power, split
from .schedule import Schedule

__all__ = [
    "constant",
    "cosine",
    "exponential",
    "linear",
    "multistep",
    "polynomial",
    "rex",
    "step",
]


def cosine_fall(k: Any, steps: float, final: float) -> Any:
    """Half a wave of the cosine, from 1 at step 0 to ``final`` at ``steps``."""
    return final + (1 - final) * (1 + cos(math.pi * k / steps)) / 2


@dataclass(frozen=True, repr=False)
class constant(Schedule):
    r"""The same factor at every step, without an end.

    .. math::
        f(k) = c

    Args:
        factor: :math:`c`, any number.

    Raises:
        ValueError: the factor is not finite.

    >>> constant(0.5).value_at(1000)
    0.5
    """

    factor: float = 1.0

    bounds = {"factor": real()}

    def _at(self, k: Any) -> Any:
        return full(k, self.factor)


@dataclass(frozen=True, repr=False)
class step(Schedule):
    r"""A decay by a factor, each time that a number of steps is done; endless.

    .. math::
        f(k) = \gamma^{\lfloor k / s \rfloor}

    Args:
        size: :math:`s \ge 1`, steps from one decay to the next.
        gamma: :math:`\gamma \ge 0`.

    Raises:
        ValueError: a value out of its range.

    >>> step(30, gamma=0.5).value_at([0, 29, 30, 60])
    array([1.  , 1.  , 0.5 , 0.25])
    """

    size: int
    gamma: float = 0.1

    bounds = {"size": whole(1), "gamma": real(at_least(0, "gamma"))}

    def _at(self, k: Any) -> Any:
        return power(self.gamma, k // self.size)


@dataclass(frozen=True, repr=False)
class multistep(Schedule):
    r"""A decay by a factor at each of some steps; endless, as its last plateau is.

    .. math::
        f(k) = \gamma^{\,|\{m \in M:\ m \le k\}|}

    Args:
        milestones: :math:`M`, whole numbers >= 0 in increasing order. One that comes
            twice decays twice.
        gamma: :math:`\gamma \ge 0`.

    Raises:
        ValueError: a value out of its range, or milestones out of order.

    >>> multistep([30, 80], gamma=0.5).value_at([0, 30, 79, 80])
    array([1.  , 0.5 , 0.5 , 0.25])
    """

    milestones: tuple[int, ...]
    gamma: float = 0.1

    bounds = {"milestones": wholes(0), "gamma": real(at_least(0, "gamma"))}

    def _at(self, k: Any) -> Any:
        if isinstance(k, np.ndarray):
            return power(self.gamma, np.searchsorted(self.milestones, k, side="right"))
        return power(self.gamma, bisect_right(self.milestones, k))


@dataclass(frozen=True, repr=False)
class linear(Schedule):
    r"""A straight line from one factor to another.

    .. math::
        f(k) = a + (b - a)\,\frac{\min(k, n)}{n}

    Args:
        start: :math:`a`, the factor at step 0.
        end: :math:`b`, the factor from step :math:`n` on, exactly.
        steps: :math:`n \ge 0`; 0 is at the end at once.

    Raises:
        ValueError: a value out of its range.

    >>> linear(1, 0.1, steps=9).value_at([0, 5, 9, 20])
    array([1. , 0.5, 0.1, 0.1])
    """

    start: float
    end: float
    steps: float

    bounds = {"start": real(), "end": real(), "steps": real(at_least(0, "steps"))}

    def _at(self, k: Any) -> Any:
        return split(k < self.steps, k, self._line, lambda k: self.end)

    def _line(self, k: Any) -> Any:
        return self.start + (self.end - self.start) * k / self.steps

    def _length(self) -> int:
        return math.ceil(self.steps)


@dataclass(frozen=True, repr=False)
class exponential(Schedule):
    r"""A decay by the same factor at every step; endless.

    .. math::
        f(k) = \gamma^k

    Args:
        gamma: :math:`\gamma \ge 0`.

    Raises:
        ValueError: gamma out of its range.

    >>> exponential(0.5).value_at([0, 1, 2])
    array([1.  , 0.5 , 0.25])
    """

    gamma: float

    bounds = {"gamma": real(at_least(0, "gamma"))}

    def _at(self, k: Any) -> Any:
        return power(self.gamma, k)


@dataclass(frozen=True, repr=False)
class polynomial(Schedule):
    r"""A fall along a power of what is left.

    .. math::
        f(k) = c + (1 - c)\left(1 - \frac{\min(k, n)}{n}\right)^p

    Args:
        steps: :math:`n > 0`.
        power: :math:`p \ge 0`.
        final: :math:`c`, the factor from step :math:`n` on, exactly.

    Raises:
        ValueError: a value out of its range.

    >>> polynomial(10, power=2).value_at([0, 5, 10, 11])
    array([1.  , 0.25, 0.  , 0.  ])
    """

    steps: float
    power: float = 1.0
    final: float = 0.0

    bounds = {
        "steps": real(above(0, "steps")),
        "power": real(at_least(0, "power")),
        "final": real(),
    }

    def _at(self, k: Any) -> Any:
        left = 1 - least(k, self.steps) / self.steps
        return self.final + (1 - self.final) * power(left, self.power)

    def _length(self) -> int:
        return math.ceil(self.steps)


@dataclass(frozen=True, repr=False)
class cosine(Schedule):
    r"""A fall along half a wave of the cosine.

    SGDR (`Loshchilov and Hutter, 2017 <https://arxiv.org/abs/1608.03983>`_) without its
    restarts.

    .. math::
        f(k) = c + \frac{1 - c}{2}\left(1 + \cos\frac{\pi k}{n}\right)

    Args:
        steps: :math:`n > 0`.
        final: :math:`c`, the factor from step :math:`n` on, exactly.
        periodic: climb back to 1 after the fall, fall again, and so on without an end,
            as :class:`torch.optim.lr_scheduler.CosineAnnealingLR` does.

    Raises:
        ValueError: a value out of its range.

    >>> cosine(10).value_at([0, 5, 10, 20])
    array([1. , 0.5, 0. , 0. ])
    >>> cosine(10, periodic=True).value_at([10, 15, 20])
    array([0. , 0.5, 1. ])
    """

    steps: float
    final: float = 0.0
    periodic: bool = False

    bounds = {"steps": real(above(0, "steps")), "final": real(), "periodic": flag}

    def _at(self, k: Any) -> Any:
        k = k if self.periodic else least(k, self.steps)
        return cosine_fall(k, self.steps, self.final)

    def _length(self) -> int | None:
        return None if self.periodic else math.ceil(self.steps)


@dataclass(frozen=True, repr=False)
class rex(Schedule):
    r"""A fall that is slow at first and fast at the end.

    The reflected exponential (`Chen et al., 2021 <https://arxiv.org/abs/2107.04197>`_).

    .. math::
        f(k) = c + (1 - c)\,\frac{1 - t}{1 - t / 2},
        \qquad t = \frac{\min(k, n)}{n}

    Args:
        steps: :math:`n > 0`.
        final: :math:`c`, the factor from step :math:`n` on, exactly.

    Raises:
        ValueError: a value out of its range.

    >>> rex(3).value_at([0, 2, 3])
    array([1. , 0.5, 0. ])
    """

    steps: float
    final: float = 0.0

    bounds = {"steps": real(above(0, "steps")), "final": real()}

    def _at(self, k: Any) -> Any:
        t = least(k, self.steps) / self.steps
        return self.final + (1 - self.final) * ((1 - t) / (1 - t / 2))

    def _length(self) -> int:
        return math.ceil(self.steps)
