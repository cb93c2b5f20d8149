"""Which engine runs which parameter, why, and what it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine.plan import Plan
    from .optimizer import Optimizer

__all__ = ["Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    pass


def explain(optimizer: Optimizer, *, kernel: bool = False) -> Explanation:
    return Explanation()
