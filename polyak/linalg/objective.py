"""The loss as a function of one real vector: all the parameters, end to end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .strong_wolfe import Point, strong_wolfe

__all__ = ["Closure", "Iterate", "Objective"]

Closure = Callable[[], Any]
"""``closure()`` computes the loss and its gradients, and returns the loss."""


@dataclass(frozen=True, eq=False)
class Iterate:
    """What is known of one place.

    Attributes:
        loss: the loss.
        grad: its gradient, a vector.
        place: the parameters, a vector.
        t: the step length that led to it.
    """

    loss: float
    grad: Tensor
    place: Tensor
    t: float | Tensor = 0

    @cached_property
    def largest(self) -> Tensor:
        """The largest component of the gradient, on the CPU; NaN if any is."""
        return self.grad.abs().max().cpu()

    @property
    def is_finite(self) -> bool:
        """Whether the loss and every component of the gradient are."""
        return math.isfinite(self.loss) and bool(self.largest.isfinite())


@dataclass(frozen=True, eq=False, slots=True)
class Objective:
    """The loss as a function of one real vector, all the parameters end to end.

    Where the closure raises, the parameters are left where it was called.
    """

    params: list[Tensor]
    closure: Closure

    def evaluate(self, t: float | Tensor = 0) -> tuple[Any, Iterate]:
        """What the closure returns, and what is known of where the parameters are."""
        loss, grad = self._call()
        return loss, Iterate(float(loss), grad, _flat(self.params), t)

    def _call(self) -> tuple[Any, Tensor]:
        with torch.enable_grad():
            loss = self.closure()
        if loss is None:
            raise TypeError(
                "LBFGS needs a closure that returns the loss, and this one returned "
                "None: end it with `return loss`"
            )
        return loss, _flat([_dense_gradient(param) for param in self.params])

    def move(self, t: float | Tensor, direction: Tensor) -> None:
        """Add ``t * direction`` to the parameters."""
        torch._foreach_add_(*self._paired_with(direction), alpha=float(t))

    def put(self, place: Tensor) -> None:
        """Make a vector the parameters."""
        torch._foreach_copy_(*self._paired_with(place))

    def _paired_with(self, vector: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters, and for each its part of a vector, in its shape."""
        views = [_as_real(param) for param in self.params]
        parts = vector.split([view.numel() for view in views])
        shaped = [p.view_as(view) for p, view in zip(parts, views, strict=True)]
        return views, shaped

    def jump(self, t: float | Tensor, direction: Tensor) -> Iterate:
        """Move and evaluate."""
        self.move(t, direction)
        return self.evaluate(t)[1]

    def search(
        self,
        t: float | Tensor,
        direction: Tensor,
        here: Iterate,
        slope: Tensor,
        budget: float,
    ) -> tuple[Iterate, int]:
        """Search along the direction and move to what is found; count the calls."""

        def evaluate(t: float | Tensor) -> tuple[float, Tensor]:
            self.move(t, direction)
            loss, grad = self._call()
            self.put(here.place)
            return float(loss), grad

        start = Point(0, here.loss, here.grad, slope)
        end, calls = strong_wolfe(evaluate, t, direction, start, max_trials=budget)
        self.move(end.t, direction)
        return Iterate(end.loss, end.grad, _flat(self.params), end.t), calls


def _dense_gradient(param: Tensor) -> Tensor:
    if param.grad is None:
        return torch.zeros_like(param)
    return param.grad if param.grad.layout is torch.strided else param.grad.to_dense()


def _flat(tensors: list[Tensor]) -> Tensor:
    """A copy of tensors as one real vector."""
    if not tensors:
        return torch.empty(0)
    return torch.cat([_as_real(tensor).reshape(-1) for tensor in tensors])


def _as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
