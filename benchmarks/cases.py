"""What steps are measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from .shapes import Shape, gpt2_small, resnet50

__all__ = ["CASES", "LARGE", "Case", "Tensors"]

Before = Callable[[], object]
LARGE = 25_000_000


@dataclass(frozen=True)
class Case:
    """Parameters to step on, and how long to measure.

    Args:
        name: what the command line calls it.
        title: what the report calls it.
        seconds: the time for one optimizer with one number of threads.
        unit: of the times in the report.
        shapes: of the parameters, whose gradients stay as they are; or
        layers: the layers of a network, whose backward makes new gradients.
        groups: every parameter in a group of its own.
        missing: this share of the gradients, others in each step.
        dtype: of the parameters.
        optimizers: those that are measured, unless others are asked for.
        bandwidth: measure moving as many bytes as a step must as well.
        plain: measure reading and writing all that a step works on as well.
        least: so many rounds at least.
    """

    name: str
    title: str
    seconds: float
    unit: str
    shapes: tuple[Shape, ...] = ()
    layers: int = 0
    groups: bool = False
    missing: float = 0.0
    dtype: torch.dtype = torch.float32
    optimizers: tuple[str, ...] = ()
    bandwidth: bool = False
    plain: bool = False
    least: int = 5

    @property
    def nbytes(self) -> int:
        """What the parameters take."""
        return self.dtype.itemsize * sum(map(prod, self.shapes))


# What would take long with every optimizer is measured with these.
_some = partial(Case, optimizers=("SGD", "AdamW", "RMSprop"))


def _bfloat16(name: str, title: str, *arguments: Any, **more: Any) -> Case:
    return _some(name, f"{title}, bfloat16", *arguments, dtype=torch.bfloat16, **more)


_SMALL, _MEDIUM, _WIDE = ((64,),) * 200, ((1024,),) * 1000, ((65_536,),) * 100

CASES = {
    case.name: case
    for case in (
        Case("small", "200 tensors of 64", 0.5, "µs", _SMALL),
        Case("tiny", "1000 tensors of 16", 0.5, "µs", ((16,),) * 1000),
        Case("medium", "1000 tensors of 1024", 0.8, "µs", _MEDIUM, bandwidth=True),
        Case("wide", "100 tensors of 65,536", 0.8, "µs", _WIDE, bandwidth=True),
        Case(
            "large", "One tensor of 25 million", 1.5, "ms", ((LARGE,),), bandwidth=True
        ),
        Case("resnet50", "ResNet-50, 161 tensors", 1.2, "ms", resnet50()),
        # torch's steps are so long that few rounds fit into the time.
        Case(
            "groups",
            "1000 groups of 64",
            2.5,
            "µs",
            ((64,),) * 1000,
            groups=True,
            least=20,
        ),
        Case(
            "missing",
            "1000 tensors of 64, a tenth of the gradients missing",
            1.0,
            "µs",
            ((64,),) * 1000,
            missing=0.1,
        ),
        Case("backward", "200 layers, gradients made anew", 0.6, "µs", layers=200),
        _some("many", "5000 tensors of 64", 0.8, "µs", ((64,),) * 5000),
        _some("gpt2", "GPT-2 small, 148 tensors", 2.0, "ms", gpt2_small()),
        _bfloat16("medium-bf16", "1000 tensors of 1024", 0.8, "µs", _MEDIUM),
        _bfloat16("wide-bf16", "100 tensors of 65,536", 0.8, "µs", _WIDE),
        _bfloat16(
            "large-bf16",
            "One tensor of 25 million",
            1.5,
            "ms",
            ((LARGE,),),
            bandwidth=True,
        ),
        _bfloat16("resnet50-bf16", "ResNet-50, 161 tensors", 1.2, "ms", resnet50()),
    )
}


# Parameters, what makes their gradients anew, and what both are at first.
_Made = tuple[list[Tensor], Before | None, list[Tensor], list[Tensor | None]]


class Tensors:
    """The parameters of a case, once for each side, kept from optimizer to optimizer.

    Sides must not share them: the second one would find them in the processor's cache.
    """

    def __init__(self, case: Case) -> None:
        self._make = (
            partial(_network, case.layers)
            if case.layers
            else partial(_plain, case.shapes, case.dtype, case.missing)
        )
        self._is_network = bool(case.layers)
        self._made: list[_Made] = []

    def side(self, index: int) -> tuple[list[Tensor], Before | None]:
        """Parameters with gradients, and what makes the gradients anew, if anything."""
        while len(self._made) <= index:
            params, before = self._make()
            grads = [param.grad for param in params]
            self._made.append((params, before, _starts(params), grads))
        params, before, starts, grads = self._made[index]
        with torch.no_grad():
            for param, start in zip(params, starts, strict=True):
                param.copy_(start)
        # All are there: torch's fused SGD fails where one comes later.
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        if before is not None and self._is_network:
            before()
        return params, before


def _starts(params: list[Tensor]) -> list[Tensor]:
    """What the parameters are reset to; large ones to one number, to save memory."""
    small = sum(param.numel() for param in params) < 1 << 21
    return [param.detach().clone() if small else torch.tensor(0.1) for param in params]


def _plain(
    shapes: tuple[Shape, ...], dtype: torch.dtype, missing: float
) -> tuple[list[Tensor], Before | None]:
    """Parameters of these shapes, with gradients that stay, or are there at times."""
    generator = torch.Generator().manual_seed(0)
    params: list[Tensor] = []
    for shape in shapes:
        param = nn.Parameter(torch.full(shape, 0.1, dtype=dtype))
        few = torch.randn(min(prod(shape), 1 << 20), generator=generator).to(dtype)
        times = -(-param.numel() // max(1, few.numel()))
        param.grad = few.repeat(times)[: param.numel()].reshape(shape)
        params.append(param)
    if not missing:
        return params, None
    grads, chance = [param.grad for param in params], Random(0)

    def before() -> None:
        for param, grad in zip(params, grads, strict=True):
            param.grad = None if chance.random() < missing else grad

    return params, before


class _Layer(nn.Linear):
    """A residual layer: through two hundred of them gradients neither grow nor die."""

    def forward(self, input: Tensor) -> Tensor:
        return input + torch.tanh(super().forward(input))


def _network(layers: int, width: int = 16) -> tuple[list[Tensor], Before]:
    """The parameters of a network, and its backward."""
    network = nn.Sequential(*[_Layer(width, width) for _ in range(layers)])
    inputs = torch.randn(8, width, generator=torch.Generator().manual_seed(0))

    def before() -> None:
        network.zero_grad(set_to_none=True)
        network(inputs).square().mean().backward()

    return list(network.parameters()), before
