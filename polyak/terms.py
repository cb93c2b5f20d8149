"""The shared vocabulary of rules."""

from __future__ import annotations

from typing import Any

__all__ = ["ema"]


def ema(old: Any, new: Any, beta: Any) -> Any:
    r"""Exponential moving average, :math:`\beta\,\text{old} + (1-\beta)\,\text{new}`.

    >>> ema(1.0, 2.0, 0.75)
    1.25
    """
    return beta * old + (1 - beta) * new
