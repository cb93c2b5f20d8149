"""What a step finds out about its gradients, where the answer stays on the device.

The same as :func:`polyak.engine.inspection.inspect_gradients`, without waiting: whether
the step is to be left out is a number that the kernels read, and so is the factor of
the gradients. The host does not learn that a step was left out: the device counts it.
A step with which state begins is not left to the device: it would be kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ...optimizer import Optimizer
    from ..plan import Plan
    from .bucket import TritonBucket

__all__ = ["found_on_device"]


def found_on_device(optimizer: Optimizer, plan: Plan) -> tuple[Any, ...]:
    """The values that the plan wants injected; its buckets are told whether to skip.

    Args:
        optimizer: whose gradients.
        plan: all of its buckets are on devices.
    """
    given = vars(optimizer)
    buckets = cast("list[TritonBucket]", plan.buckets)
    home = buckets[0].device
    reasons = [flag for flag in (given.get("found_inf"),) if flag is not None]
    factor: Any = 1.0
    if given.get("grad_scale") is not None:
        factor = 1.0 / torch.as_tensor(given["grad_scale"]).to(home, torch.float64)
    if optimizer.nonfinite == "skip":
        reasons.append(~_norm(buckets, float("inf"), home).isfinite())
    limit = optimizer.clip_grad_norm
    if limit is not None:
        norm = _norm(buckets, 2.0, home) * factor
        factor = factor * torch.clamp(limit / (norm + 1e-6), max=1.0)
    if reasons:
        skip = _any(reasons, home)
        assert optimizer._device_skips is not None, "the plan has made it"
        optimizer._device_skips.add(skip)
        for bucket in buckets:
            bucket.skip = skip.to(bucket.device)
    values = {"grad_factor": factor, "clip_grad_value": optimizer.clip_grad_value}
    return tuple(values[name] for name in plan.injected)


def _norm(buckets: Sequence[TritonBucket], order: float, home: torch.device) -> Tensor:
    """The norm of all gradients as one vector, in float64."""
    parts = [bucket.norms(order).to(home) for bucket in buckets]
    norm: Tensor = torch.linalg.vector_norm(torch.cat(parts), order)
    return norm


def _any(reasons: Sequence[Tensor], device: torch.device) -> Tensor:
    flags = [
        torch.as_tensor(flag).to(device, torch.float32).reshape(()) for flag in reasons
    ]
    return torch.stack(flags).amax() if len(flags) > 1 else flags[0]
