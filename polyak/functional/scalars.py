"""Scalars under the transforms of :mod:`torch.func`: numbers where they can be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad

from ..engine.eager import plain, watched, wide

__all__ = ["ends", "readable", "scalar"]


def scalar(value: Any, *, constant: bool = False, on_device: bool = False) -> Any:
    """A hyperparameter, a counter or a slot that is a number, as the rule takes it.

    It is a number, and the rule may branch on it, if it is the same for all of a batch
    and nothing is differentiated by it. Otherwise it is a tensor without dimensions, in
    float64, the precision that scalars have in every engine.

    Args:
        value: what was given.
        constant: no derivative by it is asked for.
        on_device: what is on a device is not read.
    """
    if not isinstance(value, Tensor):
        return plain(value)
    held = _beneath(value).reshape(-1)
    may_be_read = readable(held) and (held.device.type == "cpu" or not on_device)
    if may_be_read and (constant or not _differentiated(value)) and _alike(held):
        return held[0].item()
    return wide(value).reshape(())


def ends(value: Any) -> tuple[Any, Any]:
    """The least and the greatest of the values that a transform has for one.

    >>> torch.func.vmap(lambda x: x * sum(ends(x)))(torch.tensor([1.0, 2.0]))
    tensor([3., 6.])
    """
    if isinstance(value, tuple | list):
        parts = [ends(part) for part in value]
        return tuple(low for low, _ in parts), tuple(high for _, high in parts)
    if isinstance(value, Tensor) and _functorch.is_functorch_wrapped_tensor(value):
        held = _beneath(value)
        return held.min().item(), held.max().item()
    return value, value


def readable(tensor: Tensor) -> bool:
    """Whether the values of a tensor are there, and may be looked at."""
    return (
        not torch.compiler.is_compiling()
        and not watched()
        and type(tensor) in (Tensor, torch.nn.Parameter)
        and not tensor.is_meta
    )


def _beneath(tensor: Tensor) -> Tensor:
    """What a tensor holds beneath all transforms: the values of a whole batch."""
    if torch.compiler.is_compiling():
        return tensor
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


def _alike(values: Tensor) -> bool:
    return values.numel() == 1 or bool(values.numel() and (values == values[0]).all())


def _differentiated(tensor: Tensor) -> bool:
    """Whether a derivative by a tensor may be asked for."""
    if forward_ad._current_level >= 0:  # which of the transforms asks cannot be told
        return True
    while not tensor.requires_grad:
        if not _functorch.is_functorch_wrapped_tensor(tensor):
            return False
        tensor = _functorch.get_unwrapped(tensor)
    return True
