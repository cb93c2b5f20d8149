"""Numbers changed in their last place: how far does a run go from itself?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Nudge:
    """A change of all numbers that a run is given.

    Args:
        seed: of the change.
        eps: the unit in the last place of hyperparameters, which have no dtype.
    """

    def __init__(self, seed: int, eps: float) -> None:
        self.rng, self.eps = torch.Generator().manual_seed(seed), eps

    def tensor(self, values: Tensor) -> Tensor:
        """Each number one unit up or down, or as it is."""
        sign = torch.randint(-1, 2, values.shape, generator=self.rng)
        eps = torch.finfo(values.dtype).eps
        return values * (1 + eps * sign.to(values.real.dtype))

    def arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """Those that tensors are multiplied with, changed by less than a unit."""
        return {
            name: _CHANGED[name](value, self._part()) if name in _CHANGED else value
            for name, value in given.items()
        }

    def _part(self) -> float:
        return self.eps * torch.rand((), generator=self.rng).item()


def _scaled(value: Any, part: float) -> Any:
    return value * (1 - part)


def _decayed(value: Any, part: float) -> Any:
    """As if what it lacks to 1, with which torch computes, were rounded; 0 stays."""
    if isinstance(value, tuple):
        return tuple(_decayed(each, part) for each in value)
    return value and value + part * (1 - value)


_CHANGED: dict[str, Callable[[Any, float], Any]] = {
    **dict.fromkeys(("lr", "weight_decay", "lambd"), _scaled),
    **dict.fromkeys(("betas", "dampening", "alpha", "rho"), _decayed),
    # An exponent of the step.
    "beta2_decay": lambda value, part: value - part,
    # Muon's is a weight, and what it lacks to 1 is one.
    "momentum": lambda value, part: value and value + part,
}
