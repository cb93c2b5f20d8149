"""The step of one parameter as a function."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..engine.eager import apart, computed, gradient, keywords, operand, renewed
from ..engine.inspection import norm_of
from ..optimizer import Optimizer
from ..schema import Schema
from .scalars import scalar

__all__ = ["State", "complete", "injections", "stepped"]

State = dict[str, Any]


def complete(
    optimizer: Optimizer, schema: Schema, param: Tensor, state: State
) -> tuple[State, bool]:
    """A parameter's state with all that it should have, and whether it was made now."""
    present = schema.present(optimizer.param_groups[0], param)
    due = ("step", *present) if schema.counts_steps else present
    missing = [name for name in due if state.get(name) is None]
    made = {name: _begun(optimizer, schema, param, name) for name in missing}
    return {**state, **made}, schema.begins(present, missing)


def _begun(optimizer: Optimizer, schema: Schema, param: Tensor, name: str) -> Tensor:
    """The first value of a state, which derivatives by the parameter pass through."""
    group = optimizer.param_groups[0]
    if name == "step":
        return torch.as_tensor(optimizer.loaded_step(param, 0.0, group)).to(_counting())
    value: Tensor = schema.slots[name].begin(param, group)
    if schema.slots[name].number:
        return torch.as_tensor(value, dtype=_counting())
    return value


def _counting() -> torch.dtype:
    double = torch.get_default_dtype() is torch.float64
    return torch.float64 if double else torch.float32


def stepped(
    optimizer: Optimizer,
    schema: Schema,
    param: Tensor,
    grad: Tensor,
    state: State,
    first: bool,
    injected: list[Any],
) -> tuple[Tensor, State]:
    """A parameter and its state after a step."""
    group = optimizer.param_groups[0]
    present = schema.present(group, param)
    on_device = bool(group.get("capturable")) and param.device.type != "cpu"
    given = partial(scalar, on_device=on_device)
    held = {name: given(state[name]) for name in schema.numbers(present)}
    new_state = dict(state)
    step = None
    if schema.counts_steps:
        new_state["step"] = state["step"] + 1
        step = given(new_state["step"], constant=True)
        del held["step"]
    words = keywords(schema, group, given, step=step, first=first, injected=injected)
    by_rows = grad.is_sparse and optimizer.on_sparse(group) == "rows"
    grad, rows = gradient(group, grad, by_rows=by_rows)
    targets = {"param": param}
    targets |= {name: state[name] for name in schema.tensor_slots(present)}
    tensors = {name: operand(tensor, rows) for name, tensor in targets.items()}
    new = _called(schema, tensors, grad, held, words)
    taken = [*tensors.values(), grad]
    if not param.numel():  # a mean is that of nothing
        new |= tensors
    for name, target in targets.items():
        value = apart(new[name], taken)
        taken += [value] if isinstance(value, Tensor) else []
        new_state[name] = renewed(target, value, rows)
    for name in held:
        new_state[name] = _renewed_number(state[name], new[name])
    return new_state.pop("param"), new_state


def _called(schema: Schema, *operands: Any) -> dict[str, Any]:
    try:
        return computed(schema, *operands)
    except RuntimeError as error:
        if not str(error).startswith("vmap: It looks like"):
            raise
        raise RuntimeError(
            f"{schema.owner}.rule branches on a number that differs within the batch "
            "of torch.func.vmap: give one value for the whole batch"
        ) from error


def _renewed_number(held: Tensor, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(held.dtype)
    return torch.full_like(held, value)


def injections(optimizer: Optimizer, schema: Schema, grads: list[Tensor]) -> list[Any]:
    """The values of the stages that change gradients."""
    values: dict[str, Any] = {"clip_grad_value": optimizer.clip_grad_value}
    limit = optimizer.clip_grad_norm
    if limit is not None and grads:
        norms = [norm_of(_values(grad)) for grad in grads]
        home = norms[0].device
        norm = torch.linalg.vector_norm(torch.stack([n.to(home) for n in norms]))
        factor = limit / (scalar(norm) + 1e-6)
        is_tensor = isinstance(factor, Tensor)
        values["grad_factor"] = factor.clamp(max=1.0) if is_tensor else min(factor, 1.0)
    return [values.get(name, 1.0) for name in schema.injected]


def _values(grad: Tensor) -> Tensor:
    return grad.coalesce().values() if grad.is_sparse else grad
