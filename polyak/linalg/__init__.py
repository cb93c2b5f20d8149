"""Numerical methods that optimizers are made of."""

from __future__ import annotations

from .strong_wolfe import Point, strong_wolfe

__all__ = ["Point", "strong_wolfe"]
