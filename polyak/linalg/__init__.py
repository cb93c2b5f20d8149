"""Numerical methods that optimizers are made of."""

from __future__ import annotations

from .newton_schulz import QUINTIC, newton_schulz
from .objective import Closure, Iterate, Objective
from .strong_wolfe import Point, strong_wolfe

__all__ = [
    "QUINTIC",
    "Closure",
    "Iterate",
    "Objective",
    "Point",
    "newton_schulz",
    "strong_wolfe",
]
