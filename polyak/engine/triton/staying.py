"""Scalars that stay on the device: where they may, and what a rule makes of that.

A step counter is on the device where a group asks for it (``capturable``, or ``fused``,
as in torch), and a hyperparameter where the user has put it. Reading them would make
the host wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...schema import Schema
from ...slot import Group
from ..graph import Graph
from .devices import engine_of
from .program import branches_on, leaves_take

if TYPE_CHECKING:
    from ..survey import Member

__all__ = ["OnDevice", "reader", "stays", "unreadable"]


class OnDevice(float):
    """A hyperparameter that is a tensor and is not read: it passes for a 1.

    It equals itself alone, so that another tensor in its place is seen.
    """

    tensor: Tensor

    def __new__(cls, tensor: Tensor) -> OnDevice:  # noqa: D102
        made = super().__new__(cls, 1.0)
        made.tensor = tensor
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OnDevice) and other.tensor is self.tensor

    def __hash__(self) -> int:
        return id(self.tensor)


def reader(group: Group, schema: Schema) -> Callable[[Tensor], float]:
    """How the hyperparameters of a group that are tensors are read.

    Args:
        group: the group.
        schema: its rule.
    """
    counted = schema.counts_steps or any(slot.number for slot in schema.slots.values())
    if counted and not _keeps(group):
        return Tensor.item
    return _left


def _left(value: Tensor) -> float:
    """A tensor where it is, if kernels can read it there."""
    readable = value.dtype in (torch.float32, torch.float64)
    if readable and engine_of(value.device) == "triton":
        return OnDevice(value)
    return value.item()


def _keeps(group: Group) -> bool:
    """Whether a group's step counters are on the device."""
    return bool(group.get("capturable") or group.get("fused"))


def stays(group: Group, member: Member, numbers: Sequence[float]) -> bool:
    """Whether a member's scalars are computed on its device.

    Args:
        group: its group.
        member: a parameter.
        numbers: the group's hyperparameters.
    """
    device = member.param.device
    if engine_of(device) != "triton":
        return False
    held = member.numbers()
    if held:
        there = all(isinstance(n, Tensor) and n.device == device for n in held)
        return there and (device.type != "cpu" or _keeps(group))
    wanted = any(isinstance(number, OnDevice) for number in numbers)
    return wanted or bool(member.schema.injected)


def unreadable(
    member: Member, graph: Graph, numbers: Sequence[float], live: bool
) -> str | None:
    """Why a member's scalars cannot be where they are, or None.

    Args:
        member: a parameter.
        graph: the rule.
        numbers: the group's hyperparameters.
        live: they are computed on the device.
    """
    left = [isinstance(number, OnDevice) for number in numbers]
    if not live:
        if any(left):
            return "a hyperparameter is on the device, and the step counter is not"
        return None
    for number in numbers:
        home = member.param.device
        if isinstance(number, OnDevice) and number.tensor.device != home:
            return f"a hyperparameter is on {number.tensor.device}, not on {home}"
    held = [*member.schema.numbers(member.present), *member.schema.injected]
    inputs = [name for name in graph.hyperparameters if name not in held]
    held += [name for name, is_left in zip(inputs, left, strict=True) if is_left]
    branch = branches_on(graph, held)
    if branch is not None:
        return f"the rule branches on {branch}, which is on the device"
    taken = leaves_take(graph, held)
    if taken is not None:
        return f"a leaf takes what is made of {taken}, which is on the device"
    return None
