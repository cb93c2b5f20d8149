"""The shared vocabulary of rules."""

from __future__ import annotations

from typing import Any

__all__ = ["ema", "lerp"]


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
    if weight < 0.5:
        return start + weight * (end - start)
    return end - (1 - weight) * (end - start)
