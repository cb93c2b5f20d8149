"""Numerical methods that optimizers are made of."""

from __future__ import annotations

from .objective import Closure, Iterate, Objective
from .strong_wolfe import Point, strong_wolfe

__all__ = ["Closure", "Iterate", "Objective", "Point", "strong_wolfe"]
