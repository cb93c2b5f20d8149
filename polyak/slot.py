"""Slots: the state that an optimizer keeps for each parameter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Group", "Slot", "number", "zeros"]

Group = dict[str, Any]


def number(value: float | Tensor) -> float:
    """A hyperparameter or a 0-d state as a Python number, whatever its graph."""
    return float(value.item() if isinstance(value, Tensor) else value)


def zeros(param: Tensor, group: Group) -> Tensor:
    """Zeros, laid out like the parameter."""
    return torch.zeros_like(param, memory_format=torch.preserve_format)


@dataclass(frozen=True)
class Slot:
    """How one state tensor of a parameter comes into being.

    A slot that an optimizer does not declare is a tensor of zeros like the parameter.

    Args:
        init: ``init(param, group)`` gives the first value. A complex parameter comes as
            pairs of reals, and so should the value. For a number, a float.
        when: the slot exists where this hyperparameter is true (its name), or where
            this function of the group is. Elsewhere the rule receives None.
        number: the slot is one number, which the rule receives as a scalar and may
            branch on. It is kept as a 0-d tensor.
        of: the slot exists for the parameters of which this function is true. The rule
            receives None for the others.
    """

    init: Callable[[Tensor, Group], Any] = zeros
    when: str | Callable[[Group], bool] | None = None
    number: bool = False
    of: Callable[[Tensor], bool] | None = None

    def wanted(self, group: Group, param: Tensor | None = None) -> bool:
        """Whether a parameter of this group has the slot; without one, whether any."""
        if self.of is not None and param is not None and not self.of(param):
            return False
        if self.when is None:
            return True
        return bool(
            group[self.when] if isinstance(self.when, str) else self.when(group)
        )
