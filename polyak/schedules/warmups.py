"""Curves that begin with a warm-up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..bounds import at_least
from ._checks import one_of, real, whole
from ._maths import cos, least, split, sqrt
from .decays import cosine_fall
from .schedule import Schedule

__all__ = ["inverse_sqrt", "warmup", "warmup_cosine", "wsd"]


def rise(k: Any, steps: int, start: float = 0.0) -> Any:
    """The warm-up: the first step is one rise above ``start``, the last is at 1."""
    # Past the last whole step the line would overshoot 1.
    return split(
        k + 1 < steps,
        k,
        lambda k: start + (1 - start) * (k + 1) / steps,
        lambda k: 1.0,
    )


@dataclass(frozen=True, repr=False)
class warmup(Schedule):
    r"""A straight rise to the base value, which the last of its steps reaches.

    Gradual warm-up (`Goyal et al., 2017 <https://arxiv.org/abs/1706.02677>`_).

    .. math::
        f(k) = \min\left(1,\ a + (1 - a)\,\frac{k + 1}{n}\right)

    No step is lost: the first is already a rise above :math:`a`, so that a warm-up from
    0 has no step at the rate 0.

    Args:
        steps: :math:`n \ge 0`; 0 is no warm-up.
        start: :math:`a \ge 0`.

    Raises:
        ValueError: a value out of its range.

    >>> warmup(4).value_at(range(6))
    array([0.25, 0.5 , 0.75, 1.  , 1.  , 1.  ])
    """

    steps: int
    start: float = 0.0

    bounds = {"steps": whole(0), "start": real(at_least(0, "start"))}

    def _at(self, k: Any) -> Any:
        return rise(k, self.steps, self.start)

    def _length(self) -> int:
        return self.steps


@dataclass(frozen=True, repr=False)
class warmup_cosine(Schedule):
    r"""A warm-up, then a cosine: ``warmup(w) | cosine(n - w, final)``.

    .. math::
        f(k) = \begin{cases}
            (k + 1) / w & k < w \\
            c + \frac{1 - c}{2} \left(1 + \cos \pi\frac{k - w}{n - w}\right)
                & w \le k < n \\
            c & k \ge n
        \end{cases}

    Args:
        warmup_steps: :math:`w \ge 0`.
        steps: :math:`n > w`, all steps together.
        final: :math:`c`, the factor from step :math:`n` on, exactly.

    Raises:
        ValueError: a value out of its range.

    >>> warmup_cosine(2, steps=6).value_at([0, 1, 2, 4, 6])
    array([0.5, 1. , 1. , 0.5, 0. ])
    """

    warmup_steps: int
    steps: int
    final: float = 0.0

    bounds = {"warmup_steps": whole(0), "steps": whole(1), "final": real()}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps <= self.warmup_steps:
            raise ValueError(
                f"Invalid steps: {self.steps} (warmup_cosine needs steps > "
                f"warmup_steps, which is {self.warmup_steps}: steps counts all of them)"
            )

    def _at(self, k: Any) -> Any:
        w, n = self.warmup_steps, self.steps
        return split(
            k < w,
            k,
            lambda k: rise(k, w),
            lambda k: cosine_fall(least(k, n) - w, n - w, self.final),
        )

    def _length(self) -> int:
        return self.steps


@dataclass(frozen=True, repr=False)
class wsd(Schedule):
    r"""Warm-up, stable, decay.

    The schedule of MiniCPM (`Hu et al., 2024 <https://arxiv.org/abs/2404.06395>`_): the
    decay may begin whenever a run is to end.

    .. math::
        f(k) = \begin{cases}
            (k + 1) / w & k < w \\
            1 & w \le k < w + s \\
            c + (1 - c)\,d(t), \quad t = \min\left(1, \frac{k - w - s}{n}\right)
                & k \ge w + s
        \end{cases}

    .. math::
        d(t) = 1 - t \ \text{(linear)}, \quad
        \tfrac12 (1 + \cos \pi t) \ \text{(cosine)}, \quad
        1 - \sqrt t \ \text{(sqrt)}

    Args:
        warmup_steps: :math:`w \ge 0`.
        stable_steps: :math:`s \ge 0`.
        decay_steps: :math:`n \ge 1`.
        final: :math:`c`, the factor at the end, exactly.
        shape: of the decay: ``"linear"``, ``"cosine"``, or ``"sqrt"`` (`Hägele et al.,
            2024 <https://arxiv.org/abs/2405.18392>`_).

    Raises:
        ValueError: a value out of its range.

    >>> wsd(2, 3, 4).value_at([0, 1, 4, 5, 7, 9])
    array([0.5, 1. , 1. , 1. , 0.5, 0. ])
    """

    warmup_steps: int
    stable_steps: int
    decay_steps: int
    final: float = 0.0
    shape: str = "linear"

    bounds = {
        "warmup_steps": whole(0),
        "stable_steps": whole(0),
        "decay_steps": whole(1),
        "final": real(),
        "shape": one_of("linear", "cosine", "sqrt"),
    }

    def _at(self, k: Any) -> Any:
        return split(
            k < self.warmup_steps + self.stable_steps,
            k,
            lambda k: rise(k, self.warmup_steps),
            lambda k: self._decay(k - (self.warmup_steps + self.stable_steps)),
        )

    def _decay(self, k: Any) -> Any:
        t = least(k, self.decay_steps) / self.decay_steps
        return self.final + (1 - self.final) * _SHAPES[self.shape](t)

    def _length(self) -> int:
        return self.warmup_steps + self.stable_steps + self.decay_steps


_SHAPES = {
    "linear": lambda t: 1 - t,
    "cosine": lambda t: (1 + cos(math.pi * t)) / 2,
    "sqrt": lambda t: 1 - sqrt(t),
}


@dataclass(frozen=True, repr=False)
class inverse_sqrt(Schedule):
    r"""A warm-up, then a fall as the root of the step; endless.

    The schedule of the Transformer (`Vaswani et al., 2017
    <https://arxiv.org/abs/1706.03762>`_), scaled to a peak of 1.

    .. math::
        f(k) = \min\left(\frac{k + 1}{w},\ \sqrt{\frac{w}{k + 1}}\right)

    Args:
        warmup_steps: :math:`w \ge 1`; the peak is at its last step.

    Raises:
        ValueError: the warm-up out of its range.

    >>> inverse_sqrt(4).value_at([0, 3, 15])
    array([0.25, 1.  , 0.5 ])
    """

    warmup_steps: int

    bounds = {"warmup_steps": whole(1)}

    def _at(self, k: Any) -> Any:
        w = self.warmup_steps
        return split(k + 1 < w, k, lambda k: (k + 1) / w, lambda k: sqrt(w / (k + 1)))
