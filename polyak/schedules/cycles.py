"""Curves that rise and fall: restarts, cycles and the one cycle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..bounds import above, at_least, between
from ._checks import callable_, flag, one_of, optional, real, whole
from ._maths import as_steps, cos, each, floor, full, least, power, split
from .decays import cosine_fall
from .schedule import Schedule

__all__ = ["cosine_restarts", "cyclic", "one_cycle"]


@dataclass(frozen=True, repr=False)
class cosine_restarts(Schedule):
    r"""A cosine that falls, restarts at 1, and falls again; endless.

    SGDR (`Loshchilov and Hutter, 2017 <https://arxiv.org/abs/1608.03983>`_).

    .. math::
        f(k) = c + \frac{1 - c}{2}
               \left(1 + \cos\frac{\pi\,T_{cur}}{T_i}\right), \qquad T_i = T_0\,m^i

    Args:
        first: :math:`T_0 \ge 1`, steps of the first fall.
        mult: :math:`m \ge 1`, how many times longer each fall is than the one before.
        final: :math:`c`, where each fall ends.

    Raises:
        ValueError: a value out of its range.

    >>> cosine_restarts(2, mult=2).value_at([0, 1, 2, 4, 6])
    array([1. , 0.5, 1. , 0.5, 1. ])
    """

    first: int
    mult: int = 1
    final: float = 0.0

    bounds = {"first": whole(1), "mult": whole(1), "final": real()}

    def position(self, step: Any) -> tuple[Any, Any]:
        r""":math:`T_{cur}`, the steps since the last restart, and :math:`T_i`.

        Whole steps are counted exactly, however large they are.

        >>> cosine_restarts(10, mult=2).position(35)
        (5, 40)
        """
        return self._position(as_steps(step))

    def _position(self, k: Any) -> tuple[Any, Any]:
        if self.mult == 1:
            return k % self.first, full(k, self.first)
        if not isinstance(k, np.ndarray):
            start, length = self._falls(k)[-1]
            return k - start, length
        falls = self._falls(k.max(initial=0).item())
        starts = np.array([start for start, _ in falls])
        index = np.searchsorted(starts, k, side="right") - 1
        # As floats: the last fall may be longer than the largest int64.
        lengths = np.array([float(length) for _, length in falls])
        return k - starts[index], lengths[index]

    def _falls(self, k: Any) -> list[tuple[int, int]]:
        """Start and length of each fall up to the one that holds step ``k``."""
        falls = [(0, self.first)]
        start, length = 0, self.first
        while k - start >= length:
            start, length = start + length, length * self.mult
            falls.append((start, length))
        return falls

    def _at(self, k: Any) -> Any:
        since, length = self._position(k)
        return cosine_fall(since, length, self.final)


@dataclass(frozen=True, repr=False)
class cyclic(Schedule):
    r"""A straight rise to a peak and back, again and again; endless.

    Cyclical learning rates (`Smith, 2017 <https://arxiv.org/abs/1506.01186>`_).

    .. math::
        f(k) = 1 + (p - 1)\,h(k), \qquad h(k) = s(k) \cdot \begin{cases}
            j / u           & j \le u \\
            (u + d - j) / d & j > u
        \end{cases}, \qquad j = k \bmod (u + d)

    The scale :math:`s` is 1 (``"triangular"``), :math:`2^{-c}` in cycle
    :math:`c = 0, 1, \dots` (``"triangular2"``), :math:`\gamma^k` (``"exp_range"``), or
    a function.

    Args:
        peak: :math:`p`, the factor at the top.
        up: :math:`u > 0`, steps of the rise.
        down: :math:`d \ge 0`, steps of the fall; as many as of the rise if None.
        mode: ``"triangular"``, ``"triangular2"`` or ``"exp_range"``.
        gamma: :math:`\gamma \ge 0`, of ``"exp_range"``.
        scale: a function instead of the mode.
        scale_by: what the function is given: ``"cycle"``, the number of the cycle
            counted from 1, or ``"iterations"``, the step.

    Raises:
        ValueError: a value out of its range, or no such mode.
        TypeError: the scale is no function.

    >>> cyclic(5, up=4).value_at([0, 2, 4, 6, 8])
    array([1., 3., 5., 3., 1.])
    """

    peak: float
    up: float
    down: float | None = None
    mode: str = "triangular"
    gamma: float = 1.0
    scale: Callable[[Any], Any] | None = None
    scale_by: str = "cycle"

    bounds = {
        "peak": real(),
        "up": real(above(0, "up")),
        "down": optional(real(at_least(0, "down"))),
        "mode": one_of("triangular", "triangular2", "exp_range"),
        "gamma": real(at_least(0, "gamma")),
        "scale": optional(callable_),
        "scale_by": one_of("cycle", "iterations"),
    }

    def height(self, step: Any) -> Any:
        """How far up the cycle is: 0 at the bottom, the scale at the top.

        >>> cyclic(5, up=4, mode="triangular2").height([2, 4, 12])
        array([0.5, 1. , 0.5])
        """
        return self._height(as_steps(step))

    def _height(self, k: Any) -> Any:
        total = self.up + (self.up if self.down is None else self.down)
        ratio = self.up / total
        cycle = floor(1 + k / total)
        x = 1.0 + k / total - cycle
        height = split(
            x <= ratio, x, lambda x: x / ratio, lambda x: (x - 1) / (ratio - 1)
        )
        return height * self._scale(k, cycle)

    def _scale(self, k: Any, cycle: Any) -> Any:
        if self.scale is not None:
            return each(self.scale, cycle if self.scale_by == "cycle" else k)
        if self.mode == "exp_range":
            return power(self.gamma, k)
        return power(0.5, cycle - 1) if self.mode == "triangular2" else 1.0

    def _at(self, k: Any) -> Any:
        return 1.0 + (self.peak - 1.0) * self._height(k)


@dataclass(frozen=True, repr=False)
class one_cycle(Schedule):
    r"""One rise to the base value, and one long fall to far below the start.

    The 1cycle policy (`Smith and Topin, 2018 <https://arxiv.org/abs/1708.07120>`_).

    From :math:`1/d` the factor anneals to 1, and from there to :math:`1/(d\,e)`; in
    three phases it first comes back to :math:`1/d`. The phases end at the steps

    .. math::
        p\,n - 1,\ n - 1 \qquad\text{or}\qquad p\,n - 1,\ 2\,p\,n - 2,\ n - 1

    and each goes from its first level to its last, :math:`a` to :math:`b`, as

    .. math::
        b + \frac{a - b}{2}\,(1 + \cos \pi t) \ \text{(cos)}, \qquad
        a + (b - a)\,t \ \text{(linear)}

    Args:
        steps: :math:`n \ge 1`.
        pct_start: :math:`p \in [0, 1]`, the part of the steps that the rise takes.
        anneal: ``"cos"`` or ``"linear"``.
        div_factor: :math:`d > 0`.
        final_div_factor: :math:`e > 0`.
        three_phase: fall to the start as fast as it rose, then to the end.

    Raises:
        ValueError: a value out of its range.

    >>> one_cycle(10, pct_start=0.5, anneal="linear", div_factor=5).value_at([0, 2, 4])
    array([0.2, 0.6, 1. ])
    """

    steps: int
    pct_start: float = 0.3
    anneal: str = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False

    bounds = {
        "steps": whole(1),
        "pct_start": real(between(0, 1, "pct_start", open_above=False)),
        "anneal": one_of("cos", "linear"),
        "div_factor": real(above(0, "div_factor")),
        "final_div_factor": real(above(0, "final_div_factor")),
        "three_phase": flag,
    }

    def between(self, step: Any, initial: Any, peak: Any, final: Any) -> Any:
        """The value annealed through these levels instead of the factors.

        Args:
            step: a step, or an array of steps.
            initial: level at the start.
            peak: level at the end of the rise.
            final: level at the end.

        >>> one_cycle(10, pct_start=0.5).between(9, 0.1, 1.0, 0.01)
        0.01
        """
        k = least(as_steps(step), self.steps - 1)
        if self.three_phase:
            return self._through(0, k, (initial, peak, initial, final))
        return self._through(0, k, (initial, peak, final))

    def _through(self, phase: int, k: Any, levels: tuple[Any, ...]) -> Any:
        """The annealed value, ``k`` being in this phase or in a later one."""
        if phase == len(levels) - 2:
            return self._annealed(phase, k, levels)
        return split(
            k <= self._ends[phase],
            k,
            lambda k: self._annealed(phase, k, levels),
            lambda k: self._through(phase + 1, k, levels),
        )

    def _annealed(self, phase: int, k: Any, levels: tuple[Any, ...]) -> Any:
        start, end = levels[phase], levels[phase + 1]
        first, last = self._ends[phase - 1] if phase else 0.0, self._ends[phase]
        t = (k - first) / (last - first) if last != first else full(k, 1.0)
        if self.anneal == "linear":
            return (end - start) * t + start
        return end + (start - end) / 2.0 * (cos(math.pi * t) + 1)

    @cached_property
    def _ends(self) -> tuple[float, ...]:
        rise, end = self.pct_start * self.steps, self.steps - 1
        if self.three_phase:
            return rise - 1, 2 * self.pct_start * self.steps - 2, end
        return rise - 1, end

    def _at(self, k: Any) -> Any:
        initial = 1 / self.div_factor
        return self.between(k, initial, 1.0, initial / self.final_div_factor)

    def _length(self) -> int:
        return self.steps
