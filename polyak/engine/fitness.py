"""Whether an engine has a kernel for a parameter, and if not, why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..extent import Extent
from ..slot import Group
from . import torch_abi
from .formats import format_of
from .layout import dense, memory, overlap, same_layout, span
from .triton.devices import engine_of, no_kernels
from .triton.source import FORMATS

__all__ = ["Tensors", "form", "objection", "overlapping", "refusal"]

_PLAIN = (Tensor, torch.nn.Parameter)


@dataclass(frozen=True)
class Tensors:
    """The tensors of one parameter's update; slots with what they extend along."""

    param: Tensor
    grad: Tensor
    slots: Sequence[tuple[Tensor, Extent]]
    numbers: Sequence[Any]


def objection(
    group: Group, tensors: Tensors, *, compiling: bool, in_order: bool
) -> str | None:
    """Why a parameter must run eagerly, or None if a kernel can serve it.

    Args:
        group: the parameter's group.
        tensors: the parameter, its gradient and its state.
        compiling: torch.compile is tracing.
        in_order: the rule does not take each number by itself, and the numbers must
            lie in order.
    """
    why = refusal(group)
    if why is not None:
        return why
    if compiling:
        return "torch.compile is tracing the step"
    if torch_abi.symbols() is None:
        return "this build of torch does not export the functions that kernels need"
    param = tensors.param
    named = [("parameter", param), ("gradient", tensors.grad)]
    named += [("state", slot) for slot, _ in tensors.slots]
    for what, tensor in named:
        why = _tensor_objection(what, tensor)
        if why is not None:
            return why
    if not dense(param):
        return "the parameter's memory has gaps or overlaps itself"
    for what, tensor in named:
        if tensor.device != param.device:
            return f"the {what} is on {tensor.device}, the parameter on {param.device}"
    if in_order and not param.is_contiguous():
        return f"the parameter is not contiguous, but {_form(param)}"
    full = [slot for slot, extent in tensors.slots if extent is Extent.NUMBER]
    for what, tensor in (*named[:2], *(("state", slot) for slot in full)):
        if not same_layout(tensor, param):
            return f"the {what} is {_form(tensor)}, the parameter {_form(param)}"
    for slot, extent in tensors.slots:
        if extent is not Extent.NUMBER and not _is_small(slot, extent, param):
            return f"a state of each {extent} is {_form(slot)}"
    written = (param, *(slot for slot, _ in tensors.slots))
    is_there = tensors.grad is not param  # which stands in for one that is to come
    if is_there and any(overlap(tensors.grad, tensor) for tensor in written):
        return "the gradient overlaps the memory of what is updated"
    if not all(map(_is_number, tensors.numbers)):
        return "a number of the state is no 0-d float tensor on the CPU"
    homes = {number.device for number in tensors.numbers}
    if homes - {torch.device("cpu")} - {param.device} or len(homes) > 1:
        return "the numbers of the state are neither on the CPU nor with the parameter"
    return None


def refusal(group: Group) -> str | None:
    """Why no parameter of a group can have a kernel, whatever the tensors are."""
    if group.get("differentiable"):
        return "differentiable=True: autograd must see the step"
    if group.get("fused") is False:
        return "fused=False"
    if group.get("foreach") is False:
        return "foreach=False"
    return None


def form(tensor: Tensor) -> Any:
    """What can change about a tensor that stays the same object, by ``tensor.data``."""
    kind = type(tensor)
    if kind not in _PLAIN or tensor.layout is not torch.strided:
        return kind
    at = memory(tensor), tensor.storage_offset()
    return kind, at, tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _form(tensor: Tensor) -> str:
    kind = "complex" if tensor.is_complex() else "real"
    return f"{kind}, of shape {tuple(tensor.shape)} and strides {tensor.stride()}"


def _is_small(slot: Tensor, extent: Extent, param: Tensor) -> bool:
    return slot.shape == extent.shape(param.shape) and slot.is_contiguous()


def _is_number(value: Any) -> bool:
    return (
        type(value) is Tensor
        and value.dim() == 0
        and value.dtype in (torch.float32, torch.float64)
        and _tensor_objection("number", value) is None
    )


def _tensor_objection(what: str, tensor: Tensor) -> str | None:
    if type(tensor) not in _PLAIN:
        return f"the {what} is a {type(tensor).__name__}, a tensor subclass"
    if tensor.is_sparse or tensor.layout is not torch.strided:
        return f"the {what} is sparse"
    engine = engine_of(tensor.device)
    if engine is None:
        return no_kernels(tensor.device)
    known = FORMATS.get if engine == "triton" else format_of
    if known(tensor.dtype) is None:
        return f"no kernels for {tensor.dtype}"
    if tensor.is_inference():
        return f"the {what} was made in inference mode"
    if tensor.is_neg() or tensor.is_conj():
        return f"the {what} is a lazily negated or conjugated view"
    if tensor.numel() and not memory(tensor):
        return f"the {what} has no memory of its own"
    if torch_abi.handle(tensor) is None:
        return f"the {what} is not stored as this build of torch stores tensors"
    return None


def overlapping(owners: Iterable[tuple[Tensor, Sequence[Tensor]]]) -> set[Tensor]:
    """The parameters of which some written tensor shares memory with another's."""
    spans = [
        (*span(tensor), owner)
        for owner, tensors in owners
        for tensor in tensors
        if _tensor_objection("", tensor) is None
    ]
    spans.sort(key=lambda span: span[:2])
    clashing: set[Tensor] = set()
    reach, last = 0, None
    for start, end, owner in spans:
        if last is not None and start < reach:
            clashing |= {owner, last}
        if end > reach:
            reach, last = end, owner
    return clashing
