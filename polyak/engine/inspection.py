"""What a step finds out about its gradients before it uses them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..groups import named
from ..slot import number
from .eager import double
from .triton.found import found_on_device

if TYPE_CHECKING:
    from ..optimizer import Optimizer
    from .plan import Plan

__all__ = ["inspect_gradients", "norm_of"]

Factor = float | Tensor
_LOW = (torch.bfloat16, torch.float16)
_MANY = 3


def inspect_gradients(optimizer: Optimizer, plan: Plan) -> tuple[Any, ...] | None:
    """The values that the plan wants injected; None if no step is to be done.

    The gradients are read once, and only if a stage asks for their norm or whether they
    are finite.

    Raises:
        RuntimeError: a gradient is not finite, and the optimizer has
            ``nonfinite="raise"``.
    """
    if plan.on_device and not plan.begins and optimizer.nonfinite != "raise":
        return found_on_device(optimizer, plan)
    given = vars(optimizer)
    found_inf = given.get("found_inf")
    if found_inf is not None and number(found_inf):
        return None
    scale = given.get("grad_scale")
    factor: Factor = 1.0 if scale is None else 1.0 / number(scale)
    limit, checks = optimizer.clip_grad_norm, optimizer.nonfinite != "ignore"
    if limit is not None or checks:
        norm = _norm(plan) * factor
        if checks and not math.isfinite(number(norm)):
            bad = list(_nonfinite(optimizer))
            if bad and optimizer.nonfinite == "raise":
                _refuse(type(optimizer).__name__, bad)
            if bad:
                return None
        if limit is not None:
            factor = factor * _at_most_one(limit / (norm + 1e-6))
    values = {"grad_factor": factor, "clip_grad_value": optimizer.clip_grad_value}
    return tuple(values[name] for name in plan.injected)


def _norm(plan: Plan) -> Factor:
    """The norm of all gradients as one vector; a tensor where autograd must see it."""
    squares: float = sum(bucket.squares() for bucket in plan.buckets)
    if not plan.eager:
        return math.sqrt(squares)
    norms = [norm_of(_values(entry.member.param)) for entry in plan.eager]
    home = norms[0].device
    norm: Tensor = torch.linalg.vector_norm(torch.stack([n.to(home) for n in norms]))
    if not norm.requires_grad:
        return math.sqrt(squares + norm.item() * norm.item())
    parts = torch.stack([norm, norm.new_tensor(math.sqrt(squares))])
    total: Tensor = torch.linalg.vector_norm(parts)
    return total


def norm_of(values: Tensor) -> Tensor:
    """The norm of a gradient, in the precision in which kernels compute it."""
    real = double(values.device)
    dtype = real.to_complex() if values.is_complex() else real
    norm: Tensor = torch.linalg.vector_norm(values, dtype=dtype)
    return norm


def _values(param: Tensor) -> Tensor:
    """The numbers of a gradient."""
    grad = param.grad
    assert grad is not None
    if not grad.is_sparse:
        return grad
    if grad.dtype in _LOW:
        grad = grad.float()  # before rows that occur twice are summed
    return grad.coalesce().values()


def _at_most_one(x: Factor) -> Factor:
    """The number itself if it is none: what was not finite is not hidden."""
    if isinstance(x, Tensor):
        return x.clamp(max=1.0)
    return 1.0 if x > 1.0 else x


def _nonfinite(optimizer: Optimizer) -> Iterator[str]:
    """The parameters whose gradients are not finite."""
    for name, param in named(optimizer.param_groups):
        if param.grad is not None:
            finite = torch.isfinite(_values(param)).all()
            if hasattr(finite, "full_tensor"):  # else it is of this process's part
                finite = finite.full_tensor()
            if not finite:
                yield f"parameter {name}"


def _refuse(owner: str, bad: list[str]) -> None:
    more = f" and {len(bad) - _MANY} more" if len(bad) > _MANY else ""
    raise RuntimeError(
        f"{owner}: the gradient of {', '.join(bad[:_MANY])}{more} is not finite; "
        "nothing was changed. To leave such steps out instead, build the optimizer "
        "with nonfinite='skip'."
    )
