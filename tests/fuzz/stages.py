"""What polyak's stages do, by torch's functions around torch's step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from tests.contract.harness import params_of
from tests.fuzz.scenario import Arguments


def step_with(
    optimizer: torch.optim.Optimizer,
    stages: Arguments,
    closure: Callable[[], Any] | None,
) -> None:
    """A step of torch's, and what stages say besides."""
    if not stages:
        optimizer.step(closure)
        return
    if closure is not None:
        closure()
    params = [param for param in params_of(optimizer) if param.grad is not None]
    given = [param.grad for param in params]
    skipped = stages.get("nonfinite") == "skip"
    if not skipped or all(grad.isfinite().all() for grad in given):
        _clip(params, stages)
        before = [param.detach().clone() for param in params]
        optimizer.step()
        if "ema_decay" in stages:
            for param, old in zip(params, before, strict=True):
                average = optimizer.state[param].setdefault("param_ema", old)
                average.lerp_(param.detach(), 1 - stages["ema_decay"])
    for param, grad in zip(params, given, strict=True):
        param.grad = None if stages.get("clear_grads") else grad


def _clip(params: list[Tensor], stages: Arguments) -> None:
    """By a norm in double precision and pairwise sums: polyak's, but not torch's."""
    if not stages.keys() & {"clip_grad_norm", "clip_grad_value"}:
        return
    for param in params:
        param.grad = param.grad.clone(memory_format=torch.contiguous_format)
    if "clip_grad_norm" in stages:
        squares = [_double(param.grad).abs().square().sum() for param in params]
        norm = sum(squares, torch.zeros((), dtype=torch.float64)).sqrt()
        clip_grads_with_norm_(params, stages["clip_grad_norm"], norm, foreach=False)
    if "clip_grad_value" in stages:
        limit = stages["clip_grad_value"]
        for param in params:
            _parts(param.grad).clamp_(-limit, limit)


def _parts(values: Tensor) -> Tensor:
    return torch.view_as_real(values) if values.is_complex() else values


def _double(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float64))
