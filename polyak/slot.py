"""Slots: the state that an optimizer keeps for each parameter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .extent import Extent

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
            pairs of reals, and so should the value. For a number, a float. With
            ``per``, what comes has the slot's shape and no values.
        when: the slot exists where this hyperparameter is true (its name), or where
            this function of the group is. Elsewhere the rule receives None.
        number: the slot is one number, which the rule receives as a scalar and may
            branch on. It is kept as a 0-d tensor.
        of: the slot exists for the parameters of which this function is true. The rule
            receives None for the others.
        per: the slot has a value for each ``"row"`` or ``"column"`` of the parameter,
            which are its last two dimensions. The other one is kept with size 1.
    """

    init: Callable[[Tensor, Group], Any] = zeros
    when: str | Callable[[Group], bool] | None = None
    number: bool = False
    of: Callable[[Tensor], bool] | None = None
    per: Literal["row", "column"] | None = None

    @property
    def extent(self) -> Extent:
        """Along what of the parameter it extends."""
        return Extent.NUMBER if self.per is None else Extent[self.per.upper()]

    def begin(self, param: Tensor, group: Group) -> Any:
        """The first value of a parameter's slot: a tensor, or a float for a number."""
        model = param
        if self.per is not None:
            model = param.new_empty(self.extent.shape(param.shape))
        if self.per == "row" and param.is_complex():
            model = model.real.contiguous()
        if not model.is_complex():
            return self.init(model, group)
        value = self.init(torch.view_as_real(model), group)
        return value if self.number else torch.view_as_complex(value)

    def wanted(self, group: Group, param: Tensor | None = None) -> bool:
        """Whether a parameter of this group has the slot; without one, whether any."""
        if self.of is not None and param is not None and not self.of(param):
            return False
        if self.when is None:
            return True
        return bool(
            group[self.when] if isinstance(self.when, str) else self.when(group)
        )
