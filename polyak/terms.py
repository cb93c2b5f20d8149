"""The shared vocabulary of rules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .engine.stands import Scalar, epsilon

__all__ = ["ema", "epsilon", "lerp", "where"]


def ema(old: Any, new: Any, beta: Any) -> Any:
    r"""Exponential moving average, :math:`\beta\,\text{old} + (1-\beta)\,\text{new}`.

    >>> ema(1.0, 2.0, 0.75)
    1.25
    """
    return beta * old + (1 - beta) * new


def lerp(start: Any, end: Any, weight: Any) -> Any:
    r"""Linear interpolation, :math:`\text{start} + w\,(\text{end}-\text{start})`.

    It is exact at both ends, as :func:`torch.lerp`, and stays where they are equal. The
    weight is a number.

    >>> lerp(1.0, 2.0, 0.25)
    1.25
    """
    span = end - start
    if isinstance(weight, Tensor):
        return torch.where(
            weight < 0.5, start + weight * span, end - (1 - weight) * span
        )
    if weight < 0.5:
        return start + weight * span
    return end - (1 - weight) * span


def where(condition: Any, x: Any, y: Any) -> Any:
    """A choice by a scalar: ``x`` where the condition holds, else ``y``.

    A rule that says ``if`` makes a kernel for each branch, and so does this. But where
    ``capturable`` keeps the step on a device, ``if`` would wait for the device; this
    leaves the choice to it. Both values are computed, and both must be finite: autograd
    would find NaN in the one that was not chosen.

    >>> where(3 > 5, 1.0, 2.0)
    2.0
    >>> where(torch.tensor(7) > 5, 1.0, 2.0)
    tensor(1.)
    """
    if isinstance(condition, Tensor):
        return torch.where(condition, x, y)
    if isinstance(condition, Scalar):
        return condition.choose(x, y)
    return x if condition else y
