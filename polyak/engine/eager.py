"""The eager engine: the rule, called on tensors.

It is the reference for every other engine, and serves what they cannot: devices without
kernels, tensor subclasses, sparse gradients, rules that mix leaves with sums, and steps
that autograd must see (``differentiable=True``).

The step of one parameter has three parts. What the rule takes is made first, by
:func:`keywords`, :func:`gradient` and :func:`operand`; :func:`computed` calls it and
writes nothing; then the results are written (:func:`update`), or become new tensors
(:func:`renewed`, for :mod:`polyak.functional`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..schema import Schema
from ..slot import Group, number

__all__ = [
    "apart",
    "as_numbers",
    "computed",
    "double",
    "gradient",
    "keywords",
    "operand",
    "plain",
    "renewed",
    "stored",
    "update",
    "watched",
    "wide",
    "write_number",
]

# Whether every operation is to be seen by someone, who may have no numbers yet: so many
# dispatch modes there are, such as those of ``make_fx`` and ``FakeTensorMode``.
watched: Callable[[], int] = torch._C._len_torch_dispatch_stack

Rows = tuple[Tensor, ...]

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
    injected: Sequence[Any] = (),
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
        injected: the values that the schema's ``injected`` names.
    """
    live = bool(group.get("differentiable"))
    on_device = bool(group.get("capturable")) and param.device.type != "cpu"
    unread = on_device or bool(watched())
    held = {name: _held(state[name], unread) for name in schema.numbers(present)}
    step = held.pop("step") + 1 if schema.counts_steps else None
    given = _as_they_are if live or unread else as_numbers
    words = keywords(schema, group, given, step=step, first=first, injected=injected)
    grad, rows = gradient(group, grad, by_rows=by_rows)
    targets = {"param": param}
    targets |= {name: state[name] for name in schema.tensor_slots(present)}
    tensors = {name: operand(t, rows, copy=live) for name, t in targets.items()}
    new = computed(schema, tensors, grad, held, words)
    for name in targets:
        others = (tensor for key, tensor in tensors.items() if key != name)
        new[name] = apart(new[name], [*others, grad])
    if param.numel():  # else a mean is that of nothing
        for name, target in targets.items():
            _write(target, new[name], rows)
    for name in held:
        write_number(state, name, new[name])
    if schema.counts_steps:
        write_number(state, "step", step)


# What the rule takes


def keywords(
    schema: Schema,
    group: Group,
    given: Callable[[Any], Any],
    *,
    step: Any,
    first: bool,
    injected: Sequence[Any],
) -> dict[str, Any]:
    """The keyword arguments of a rule.

    Args:
        schema: the rule.
        group: the parameter's group.
        given: a number or a tensor among the hyperparameters, as the rule takes it.
        step: the number of this step.
        first: the state was made in this step.
        injected: the values that the schema's ``injected`` names.
    """
    values = schema.values(group).items()
    words = {name: _each(value, given) for name, value in values}
    words |= zip(schema.injected, injected, strict=True)
    if schema.wants_step:
        words["step"] = step
    if schema.wants_first:
        words["first"] = first
    return words


def _each(value: Any, given: Callable[[Any], Any]) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_each(part, given) for part in value)
    return given(value)


def _as_they_are(value: Any) -> Any:
    return value if isinstance(value, Tensor) else plain(value)


def as_numbers(value: Any) -> Any:
    """A hyperparameter as the rule takes it, where tensors are read."""
    return value.item() if isinstance(value, Tensor) else plain(value)


def plain(value: Any) -> Any:
    """A hyperparameter; of NumPy's numbers, which make arrays of tensors, a float."""
    if isinstance(value, int | float) or not isinstance(value, Real):
        return value
    return float(value)


def _held(value: Any, unread: bool) -> Any:
    return wide(value) if unread and isinstance(value, Tensor) else number(value)


def wide(scalar: Tensor) -> Tensor:
    """A scalar that is not read, in the precision of scalars, if the device has it."""
    return scalar.to(double(scalar.device))


def double(device: torch.device) -> torch.dtype:
    """The widest real numbers that a device has."""
    return torch.float32 if device.type == "mps" else torch.float64


def gradient(
    group: Group, grad: Tensor, *, by_rows: bool
) -> tuple[Tensor, Rows | None]:
    """A gradient as the rule computes with it, and the rows that it has.

    Args:
        group: the parameter's group.
        grad: the gradient.
        by_rows: it is sparse, and only its rows are updated. Otherwise it has none.
    """
    rows: Rows | None = None
    if group.get("maximize"):
        grad = -grad
    if grad.is_sparse and grad.dtype in _NARROW:
        grad = grad.float()  # before rows that occur twice are summed
    if by_rows:
        grad = grad.coalesce()
        rows, grad = tuple(grad.indices()), grad.values()
    elif grad.is_sparse:
        grad = grad.to_dense()
    return operand(grad), rows


def operand(tensor: Tensor, rows: Rows | None = None, *, copy: bool = False) -> Tensor:
    """A tensor as the rule computes with it: real, and no narrower than float32.

    Of a complex tensor real and imaginary parts lie side by side, so that its last
    dimension is twice as long.

    Args:
        tensor: a parameter or a slot.
        rows: those that the rule computes with, if not with all.
        copy: it is another tensor, which autograd may keep when this one is written.
    """
    if rows is not None:
        tensor = tensor[rows]
    if tensor.is_complex():
        pairs = torch.view_as_real(tensor.resolve_conj())
        tensor = pairs.flatten(-2) if tensor.dim() else pairs
    if tensor.dtype in _NARROW:
        return tensor.float()
    return tensor.clone() if copy else tensor


# The call


def computed(
    schema: Schema,
    tensors: Mapping[str, Tensor],
    grad: Tensor,
    numbers: Mapping[str, Any],
    words: Mapping[str, Any],
) -> dict[str, Any]:
    """What the rule makes of its operands, by name; nothing is written.

    Args:
        schema: the rule.
        tensors: the parameter, as ``"param"``, and the slots there are.
        grad: the gradient.
        numbers: the slots that are numbers.
        words: the keyword arguments.
    """
    held = {**tensors, **numbers}
    slots = (held.get(name) for name in schema.slots)
    results = schema.rule(held["param"], grad, *slots, **words)
    results = results if isinstance(results, tuple) else (results,)
    return dict(zip(("param", *schema.slots), results, strict=True))


# The results


def apart(value: Any, others: Sequence[Tensor]) -> Any:
    """A result that does not change when another tensor is written."""
    if not isinstance(value, Tensor) or not value.numel():
        return value
    if torch.compiler.is_compiling():
        return value.clone()  # a compiler sees by itself where it needs none
    at = _place(value)
    return value.clone() if any(_place(other) == at for other in others) else value


def _place(tensor: Tensor) -> int:
    """What tells the memories of tensors apart."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        return id(tensor)  # it has none of its own


def renewed(target: Tensor, value: Any, rows: Rows | None = None) -> Tensor:
    """A result as a new tensor of the target's kind."""
    made = stored(target, value, rows).to(target.dtype)
    return made if rows is None else target.index_put(rows, made)


def _write(target: Tensor, value: Any, rows: Rows | None) -> None:
    made = stored(target, value, rows)
    if rows is not None:
        target.index_put_(rows, made.to(target.dtype))
    else:
        target.copy_(made)


def stored(target: Tensor, value: Any, rows: Rows | None = None) -> Tensor:
    """A result as a tensor, complex if the target is."""
    if not isinstance(value, Tensor):
        value = torch.full_like(operand(target, rows), value)
    assert isinstance(value, Tensor)
    if not target.is_complex():
        return value
    made = torch.view_as_complex(value.unflatten(-1, (-1, 2)))
    return made if target.dim() else made.squeeze()


def write_number(state: dict[str, Any], name: str, value: Any) -> None:
    """Keep a number in the state, as the kind of object that is there."""
    held = state[name]
    if not isinstance(held, Tensor):
        state[name] = type(held)(value)
    elif isinstance(value, Tensor):
        held.copy_(value.detach())
    else:
        held.fill_(value)
