"""How much an average takes of the weights: of all equally, or less of old ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Exponential",
    "Mean",
    "Weight",
    "Weighting",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
]

Weight = Callable[[int], float]
"""``weight(n)``: the part of the weights in the average, when ``n`` are in it."""


@dataclass(frozen=True)
class Mean:
    """The weight that makes a mean of all: ``1 / (n + 1)``."""

    def __call__(self, count: int) -> float:
        """The weight, when ``count`` are in the average."""
        return 1.0 / (count + 1)


@dataclass(frozen=True)
class Exponential:
    r"""The weight of an exponential moving average.

    .. math:: w_n = 1 - d, \qquad w_n = 1 - \min(d, (1 + n) / (10 + n)) \ \text{warm}

    Args:
        decay: :math:`d`, from 0 to 1.
        warmup: begin with a smaller decay: the first weights are soon forgotten.

    Raises:
        ValueError: ``decay`` out of range.
    """

    decay: float
    warmup: bool = False

    def __post_init__(self) -> None:
        if not hasattr(self.decay, "__float__"):
            raise TypeError(f"decay must be a number in [0,1], got {self.decay!r}")
        if not 0.0 <= self.decay <= 1.0:
            raise ValueError(
                f"Invalid decay value {self.decay} provided. Please provide a value in "
                "[0,1] range."
            )

    def __call__(self, count: int) -> float:
        """The weight, when ``count`` are in the average."""
        decay = self.decay
        return 1.0 - (min(decay, (1 + count) / (10 + count)) if self.warmup else decay)


class Weighting:
    """An averaging function that is known by its weight.

    :class:`~polyak.swa_utils.AveragedModel` asks for its ``weight`` alone, and does the
    averaging in one pass of its own.

    Attributes:
        weight: the part of the weights that is taken in, by how many were before.
    """

    def __init__(self, weight: Weight) -> None:
        self.weight = weight


class OfTensor(Weighting):
    """The new average of one tensor."""

    @torch.no_grad()
    def __call__(
        self, average: Tensor, current: Tensor, num_averaged: Tensor | int
    ) -> Tensor:
        """The average, moved towards the weights."""
        return average + self.weight(int(num_averaged)) * (current - average)


class OfTensors(Weighting):
    """The averages of a list of tensors, in place; integers are copied."""

    @torch.no_grad()
    def __call__(
        self,
        averages: Sequence[Tensor],
        current: Sequence[Tensor],
        num_averaged: Tensor | int,
    ) -> None:
        """Move the averages, in place."""
        weight = self.weight(int(num_averaged))
        moved, towards = [], []
        for average, value in zip(averages, current, strict=True):
            if average.is_floating_point() or average.is_complex():
                moved.append(average)
                towards.append(value.to(average.dtype))
            else:
                average.copy_(value)
        if moved:
            torch._foreach_lerp_(moved, towards, weight)


def get_ema_multi_avg_fn(decay: float = 0.999, *, warmup: bool = False) -> OfTensors:
    r"""The exponential moving average, for :class:`AveragedModel`'s ``multi_avg_fn``.

    .. math:: a \leftarrow d\,a + (1 - d)\,\theta

    Args:
        decay: :math:`d`, from 0 to 1.
        warmup: begin with the smaller decay :math:`(1 + n) / (10 + n)`.

    Raises:
        ValueError: ``decay`` out of range.
    """
    return OfTensors(Exponential(decay, warmup))


def get_swa_multi_avg_fn() -> OfTensors:
    """The mean of all weights so far, for :class:`AveragedModel`'s ``multi_avg_fn``."""
    return OfTensors(Mean())


def get_ema_avg_fn(decay: float = 0.999) -> OfTensor:
    """The exponential moving average of one tensor, for ``avg_fn``.

    Raises:
        ValueError: ``decay`` outside [0, 1].
    """
    return OfTensor(Exponential(decay))


def get_swa_avg_fn() -> OfTensor:
    """The mean of all so far, of one tensor, for ``avg_fn``."""
    return OfTensor(Mean())
