"""Whether an engine has a kernel for a parameter, and if not, why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..extent import Extent
from ..slot import Group
from . import torch_abi
from .formats import format_of
from .layout import dense, memory, same_layout, span
from .triton.devices import engine_of, no_kernels
from .triton.source import FORMATS

__all__ = ["Places", "Tensors", "form", "objection", "overlapping", "refusal"]

_PLAIN = (Tensor, torch.nn.Parameter)


class Place(NamedTuple):
    """Where a tensor lies.

    Attributes:
        objection: why native code cannot read it, for the name of what it is to be put
            in; None if it can.
        start: the first address of its memory, if native code can read it.
        end: the address after its last.
    """

    objection: str | None
    start: int = 0
    end: int = 0

    def overlaps(self, other: Place) -> bool:
        """Whether they span some of the same memory."""
        return self.start < other.end and other.start < self.end


class Places:
    """The places of tensors, each looked at once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, Place]] = {}  # by id, and so kept alive
        self._kinds: dict[Any, str | None] = {}

    def of(self, tensor: Tensor) -> Place:
        """Where a tensor lies."""
        known = self._known.get(id(tensor))
        if known is None:
            known = self._known[id(tensor)] = tensor, self._look(tensor)
        return known[1]

    def _look(self, tensor: Tensor) -> Place:
        if type(tensor) not in _PLAIN:
            return Place(f"the {{}} is a {type(tensor).__name__}, a tensor subclass")
        kind = tensor.layout, tensor.device, tensor.dtype
        if kind not in self._kinds:
            self._kinds[kind] = _objection_to_kind(*kind)
        objection = self._kinds[kind]
        if objection is not None:
            return Place(objection)
        if tensor.is_inference():
            return Place("the {} was made in inference mode")
        if tensor.is_neg() or tensor.is_conj():
            return Place("the {} is a lazily negated or conjugated view")
        if tensor.numel() and not memory(tensor):
            return Place("the {} has no memory of its own")
        if torch_abi.handle(tensor) is None:
            return Place("the {} is not stored as this build of torch stores tensors")
        return Place(None, *span(tensor))


def _objection_to_kind(
    layout: torch.layout, device: torch.device, dtype: torch.dtype
) -> str | None:
    if layout is not torch.strided:
        return "the {} is sparse"
    engine = engine_of(device)
    if engine is None:
        return no_kernels(device)
    known = FORMATS.get if engine == "triton" else format_of
    return f"no kernels for {dtype}" if known(dtype) is None else None


@dataclass(frozen=True)
class Tensors:
    """The tensors of one parameter's update; slots with what they extend along."""

    param: Tensor
    grad: Tensor
    slots: Sequence[tuple[Tensor, Extent]]
    numbers: Sequence[Any]


def objection(
    group: Group, tensors: Tensors, places: Places, *, compiling: bool, in_order: bool
) -> str | None:
    """Why a parameter must run eagerly, or None if a kernel can serve it.

    Args:
        group: the parameter's group.
        tensors: the parameter, its gradient and its state.
        places: where they lie.
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
        why = places.of(tensor).objection
        if why is not None:
            return why.format(what)
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
    if is_there and any(map(places.of(tensors.grad).overlaps, map(places.of, written))):
        return "the gradient overlaps the memory of what is updated"
    if not all(_is_number(number, places) for number in tensors.numbers):
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


def _is_number(value: Any, places: Places) -> bool:
    return (
        type(value) is Tensor
        and value.dim() == 0
        and value.dtype in (torch.float32, torch.float64)
        and places.of(value).objection is None
    )


def overlapping(
    owners: Iterable[tuple[Tensor, Sequence[Tensor]]], places: Places
) -> set[Tensor]:
    """The parameters of which some written tensor shares memory with another's."""
    found = ((places.of(t), owner) for owner, tensors in owners for t in tensors)
    spans = [(at.start, at.end, owner) for at, owner in found if at.objection is None]
    spans.sort(key=lambda span: span[:2])
    clashing: set[Tensor] = set()
    reach, last = 0, None
    for start, end, owner in spans:
        if last is not None and start < reach:
            clashing |= {owner, last}
        if end > reach:
            reach, last = end, owner
    return clashing
