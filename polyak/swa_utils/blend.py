"""The pass that every average is made of: a step towards the weights."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor

from ..optimizer import Optimizer
from ..slot import Group, Slot
from ..terms import lerp

__all__ = ["Blend"]

_LOW = (torch.bfloat16, torch.float16)


class _Elsewhere(Exception):
    """A weight is on another device than its average."""


class _Average(Optimizer):
    r"""A running average as an optimizer: what it follows is its gradient.

    .. math:: a \leftarrow a + w (\theta - a)

    So the engine that runs optimizers runs averages: one kernel for all, one pass over
    memory. An average of half precision, which a small step would never move, is kept
    in float32 besides.
    """

    slots = {
        "accumulator": Slot(
            init=lambda average, group: average.float(), when="accumulates"
        )
    }

    def __init__(self, params: Any) -> None:
        super().__init__(params, dict(weight=1.0, accumulates=False))

    def check_gradient(self, param: Tensor, grad: Tensor, group: Group) -> None:
        """Raise where the weights have another shape than their average."""
        _check_shape(param, grad)
        if param.device != grad.device:
            raise _Elsewhere

    def move(self, weight: float) -> None:
        """Do a step of this size; hooks on all optimizers' steps do not mean it."""
        for group in self.param_groups:
            group["weight"] = weight
        Optimizer.step.__wrapped__(self)  # type: ignore[attr-defined]

    @staticmethod
    def rule(param, grad, accumulator=None, *, weight):  # type: ignore[no-untyped-def]
        """The average, moved towards the weights."""
        average = param
        if accumulator is not None:
            # Further apart than by rounding: somebody has set the average anew.
            rounding = param.abs() * 2**-8 + 2**-24
            kept = (accumulator - param).abs() <= rounding
            average = torch.where(kept, accumulator, param)
        average = lerp(average, grad, weight)
        return average, None if accumulator is None else average


class Blend:
    """Averages, and the weights that they follow.

    Args:
        averages: tensors that are written.
        sources: the weights, of the same shapes; they may be of another dtype or on
            another device, and are looked up anew each time.
    """

    def __init__(self, averages: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
        self.averages, self.sources = list(averages), list(sources)
        # Aliases: the averages may be parameters of a module, whose `.grad` is theirs.
        self._aliases = [average.detach() for average in self.averages]
        for alias, source in zip(self._aliases, self.sources, strict=True):
            _check_shape(alias, source)
        groups: list[dict[str, Any]]
        low = [alias for alias in self._aliases if alias.dtype in _LOW]
        full = [alias for alias in self._aliases if alias.dtype not in _LOW]
        groups = [{"params": full}] if full else []
        groups += [{"params": low, "accumulates": True}] if low else []
        self._optimizer = _Average(groups)
        self._bind()

    def _bind(self) -> None:
        """Make the weights the gradients of their averages."""
        self._away = [
            (alias, source)
            for alias, source in zip(self._aliases, self.sources, strict=True)
            if not _bound(alias, source)
        ]

    def holds(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
        """Whether these are the averages and weights that the blend was made for."""
        return (
            len(pairs) == len(self.averages)
            and all(map(_same_memory, (a for a, _ in pairs), self._aliases))
            and all(map(is_, (s for _, s in pairs), self.sources))
        )

    def copy(self) -> None:
        """Make the averages equal to the weights."""
        for alias, source in zip(self._aliases, self.sources, strict=True):
            _check_shape(alias, source)
        self._optimizer.state.clear()
        with torch.no_grad():
            for alias, source in zip(self._aliases, self.sources, strict=True):
                alias.copy_(source)

    def move(self, weight: float) -> None:
        """Move the averages towards the weights by ``weight`` of the way."""
        try:
            self._move(weight)
        except _Elsewhere:  # weights went to another device
            self._bind()
            self._move(weight)

    def _move(self, weight: float) -> None:
        for alias, source in self._away:
            alias.grad = source.detach().to(alias.device, alias.dtype)
        self._optimizer.move(weight)

    def accumulators(self) -> dict[int, Tensor]:
        """The float32 averages of those in half precision, by index."""
        state = self._optimizer.state
        return {
            index: state[alias]["accumulator"]
            for index, alias in enumerate(self._aliases)
            if alias in state and "accumulator" in state[alias]
        }

    def set_accumulator(self, index: int, value: Tensor) -> None:
        """Give an average in half precision its float32 one."""
        alias = self._aliases[index]
        if alias.dtype not in _LOW:
            return
        kept = value.detach().to(alias.device, torch.float32, copy=True)
        self._optimizer.state[alias]["accumulator"] = kept

    # Copies are bound anew: a gradient does not travel.

    def __getstate__(self) -> tuple[Any, ...]:
        return self.averages, self.sources, self.accumulators()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        averages, sources, accumulators = state
        self.__init__(averages, sources)  # type: ignore[misc]
        for index, value in accumulators.items():
            self.set_accumulator(index, value)


def _check_shape(average: Tensor, source: Tensor) -> None:
    if average.shape != source.shape:
        raise ValueError(
            f"a weight has the shape {tuple(source.shape)}, and its average has "
            f"{tuple(average.shape)}: make a new average. Nothing was changed."
        )


def _bound(alias: Tensor, source: Tensor) -> bool:
    """Make the source the gradient of the alias itself, where torch allows it."""
    if alias.device != source.device:
        return False
    if alias.dtype != source.dtype:
        if not hasattr(alias, "grad_dtype"):  # before torch 2.10
            return False
        alias.grad_dtype = source.dtype
    alias.grad = source
    return True


def _same_memory(average: Tensor, alias: Tensor) -> bool:
    return average.data_ptr() == alias.data_ptr() and average.dtype == alias.dtype
