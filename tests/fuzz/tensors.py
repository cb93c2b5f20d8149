"""Tensors of any layout, with numbers that a seed decides."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.contract.case import randn
from tests.contract.harness import sparse_gradient
from tests.fuzz.scenario import Spec

# Those that a parameter may have, and those that only a gradient may.
LAYOUTS = ("contiguous", "transposed", "channels_last", "sliced", "offset")
GRADIENT_LAYOUTS = ("like", *LAYOUTS, "expanded", "rows", "conj", "neg")
# Memory has gaps: no kernel serves it, and `fused=True` is refused.
GAPS = ("sliced",)


def lay(values: Tensor, layout: str) -> Tensor:
    """The same numbers in another layout, but for those that repeat the first ones."""
    match layout:
        case "transposed" if values.dim():
            dims = range(values.dim())[::-1]
            return values.permute(*dims).contiguous().permute(*dims)
        case "channels_last" if values.dim() == 4:
            return values.contiguous(memory_format=torch.channels_last)
        case "sliced" if values.dim():
            *outer, last = values.shape
            return values.new_zeros(*outer, 2 * last + 1)[..., 1::2].copy_(values)
        case "offset" | "sliced":
            flat = values.new_zeros(values.numel() + 1)
            return flat[1:].view(values.shape).copy_(values)
        case "expanded" if values.numel():
            return values.flatten()[0].expand(values.shape)
        case "rows" if values.dim() and values.numel():
            return values[:1].expand(values.shape)
        case "conj" if values.is_complex():
            return values.conj().resolve_conj().conj()
        case "neg" if not values.is_complex():
            return torch._neg_view(-values)
        case _:
            return values.contiguous()


def parameter(spec: Spec, rng: torch.Generator, dtype: torch.dtype | None) -> Tensor:
    """A parameter's numbers, rounded to its own dtype, held in another if asked."""
    values = randn(spec.shape, getattr(torch, spec.dtype), rng)
    return lay(values.to(dtype or values.dtype), spec.layout)


def gradient(
    param: Tensor,
    spec: Spec,
    rng: torch.Generator,
    layout: str,
    scale: float,
    bad: float | None = None,
) -> Tensor:
    """A gradient: the same numbers for a parameter held in any dtype."""
    values = randn(spec.shape, getattr(torch, spec.dtype), rng) * scale
    if layout == "sparse":
        return (sparse_gradient(values, rng) * scale).to(param.dtype)
    if bad is not None and values.numel():
        values.view(-1)[-1] = bad
    values = values.to(param.dtype)
    if layout == "like":
        return torch.empty_like(param, requires_grad=False).copy_(values)
    return lay(values, layout)
