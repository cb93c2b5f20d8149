"""The eager engine: the rule, called on tensors.

It is the reference for every other engine, and serves what they cannot: devices without
kernels, tensor subclasses, rules with leaves, sparse gradients, and steps that autograd
must see (``differentiable=True``).
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..schema import Schema
from ..slot import Group, number
from .layout import memory

__all__ = ["update"]

_NARROW = (torch.bfloat16, torch.float16)


def update(
    schema: Schema,
    group: Group,
    param: Tensor,
    grad: Tensor,
    state: dict[str, Any],
    *,
    present: tuple[str, ...],
    first: bool,
    by_rows: bool,
) -> None:
    """Apply a rule to one parameter and its state, in place.

    Args:
        schema: the rule.
        group: the parameter's group.
        param: the parameter.
        grad: its gradient.
        state: its state, with every slot that ``present`` names.
        present: the slots there are.
        first: the state was made in this step.
        by_rows: the gradient is sparse, and only its rows are updated.
    """
    live = bool(group.get("differentiable"))
    on_device = bool(group.get("capturable")) and param.device.type != "cpu"
    as_tensors = live or on_device
    keywords = {
        name: _given(value, as_tensors) for name, value in schema.values(group).items()
    }
    step = _held(state["step"], on_device) + 1 if schema.counts_steps else None
    if schema.wants_step:
        keywords["step"] = step
    if schema.wants_first:
        keywords["first"] = first
    if group.get("maximize"):
        grad = -grad

    tensor_slots = schema.tensor_slots(present)
    targets = [param, *(state[name] for name in tensor_slots)]
    rows: tuple[Tensor, ...] | None = None
    if grad.is_sparse and grad.dtype in _NARROW:
        grad = grad.float()  # before rows that occur twice are summed
    if by_rows:
        grad = grad.coalesce()
        rows, grad = tuple(grad.indices()), grad.values()
    elif grad.is_sparse:
        grad = grad.to_dense()
    sources = [_operand(target, rows, live) for target in targets]
    slots: dict[str, Any] = dict.fromkeys(schema.slots)
    slots |= dict(zip(tensor_slots, sources[1:], strict=True))
    for name in schema.numbers(present):
        if name != "step":
            slots[name] = _held(state[name], on_device)

    arguments = (sources[0], _operand(grad, None, False), *slots.values())
    results = schema.rule(*arguments, **keywords)
    results = results if isinstance(results, tuple) else (results,)
    new = dict(zip(("param", *schema.slots), results, strict=True))
    names = ("param", *tensor_slots)
    held = (*targets, grad)
    for target, name in zip(targets, names, strict=True):
        new[name] = _apart(new[name], target, held)
    for target, name in zip(targets, names, strict=True):
        _write(target, new[name], rows)
    for name in schema.numbers(present):
        if name == "step":
            _write_number(state, name, step)
        else:
            _write_number(state, name, new[name])


def _given(value: Any, as_tensors: bool) -> Any:
    """A hyperparameter as the rule receives it."""
    if isinstance(value, tuple | list):
        return tuple(_given(part, as_tensors) for part in value)
    if isinstance(value, Tensor):
        return value if as_tensors else value.item()
    return value if isinstance(value, int | float) else _plain(value)


def _plain(value: Any) -> Any:
    """NumPy's numbers would make arrays of tensors."""
    return float(value) if isinstance(value, Real) else value


def _held(value: Any, on_device: bool) -> Any:
    return value if on_device else number(value)


def _operand(tensor: Tensor, rows: Sequence[Tensor] | None, copy: bool) -> Tensor:
    """A tensor as the rule computes with it: real, and no narrower than float32."""
    if rows is not None:
        tensor = tensor[tuple(rows)]
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.dtype in _NARROW:
        return tensor.float()
    return tensor.clone() if copy else tensor


def _apart(value: Any, target: Tensor, held: Sequence[Tensor]) -> Any:
    """A result that does not change when another target is written."""
    if not isinstance(value, Tensor) or not value.numel():
        return value
    at = memory(value)
    others = (tensor for tensor in held if tensor is not target)
    return value.clone() if any(memory(other) == at for other in others) else value


def _write(target: Tensor, value: Any, rows: Sequence[Tensor] | None) -> None:
    if rows is not None:
        if target.is_complex():
            value = torch.view_as_complex(value)
        target.index_put_(tuple(rows), value.to(target.dtype))
        return
    if not isinstance(value, Tensor):
        value = torch.full_like(_operand(target, None, False), value)
    target.copy_(torch.view_as_complex(value) if target.is_complex() else value)


def _write_number(state: dict[str, Any], name: str, value: Any) -> None:
    held = state[name]
    if not isinstance(held, Tensor):
        state[name] = type(held)(value)
    elif isinstance(value, Tensor):
        held.copy_(value.detach())
    else:
        held.fill_(value)
