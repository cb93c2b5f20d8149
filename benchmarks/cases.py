"""What steps are measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor, nn

__all__ = ["CASES", "LARGE", "Case", "Tensors", "resnet50"]

Shape = tuple[int, ...]
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
        bandwidth: measure the machine's bandwidth as well, on the first parameter.
    """

    name: str
    title: str
    seconds: float
    unit: str
    shapes: tuple[Shape, ...] = ()
    layers: int = 0
    groups: bool = False
    bandwidth: bool = False


def resnet50() -> tuple[Shape, ...]:
    """The shapes of ResNet-50's parameters (He et al., 2015, as torchvision has it)."""
    shapes: list[Shape] = [*_convolution(3, 64, 7)]
    inputs = 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            shapes += _convolution(inputs, width, 1)
            shapes += _convolution(width, width, 3)
            shapes += _convolution(width, 4 * width, 1)
            if block == 0:
                shapes += _convolution(inputs, 4 * width, 1)
            inputs = 4 * width
    return (*shapes, (1000, inputs), (1000,))


def _convolution(inputs: int, outputs: int, size: int) -> Iterator[Shape]:
    """A convolution and the batch normalisation that follows it."""
    yield (outputs, inputs, size, size)
    yield (outputs,)
    yield (outputs,)


CASES = {
    case.name: case
    for case in (
        Case("small", "200 tensors of 64", 0.5, "µs", ((64,),) * 200),
        Case("medium", "1000 tensors of 1024", 0.8, "µs", ((1024,),) * 1000),
        Case(
            "large", "One tensor of 25 million", 1.5, "ms", ((LARGE,),), bandwidth=True
        ),
        Case("resnet50", "ResNet-50, 161 tensors", 1.2, "ms", resnet50()),
        Case("groups", "1000 groups of 64", 2.5, "µs", ((64,),) * 1000, groups=True),
        Case("backward", "200 layers, gradients made anew", 0.6, "µs", layers=200),
    )
}


class Tensors:
    """The parameters of a case, once for each side, kept from optimizer to optimizer.

    Sides must not share them: the second one would find them in the processor's cache.
    """

    def __init__(self, case: Case) -> None:
        self._make = (
            partial(_network, case.layers)
            if case.layers
            else partial(_plain, case.shapes)
        )
        self._made: list[tuple[list[Tensor], Before | None, list[Tensor]]] = []

    def side(self, index: int) -> tuple[list[Tensor], Before | None]:
        """Parameters with gradients, and what makes the gradients anew, if anything."""
        while len(self._made) <= index:
            params, before = self._make()
            self._made.append((params, before, _starts(params)))
        params, before, starts = self._made[index]
        with torch.no_grad():
            for param, start in zip(params, starts, strict=True):
                param.copy_(start)
        if before is not None:
            before()
        return params, before


def _starts(params: list[Tensor]) -> list[Tensor]:
    """What the parameters are reset to; large ones to one number, to save memory."""
    small = sum(param.numel() for param in params) < 1 << 21
    return [param.detach().clone() if small else torch.tensor(0.1) for param in params]


def _plain(shapes: tuple[Shape, ...]) -> tuple[list[Tensor], None]:
    """Parameters of these shapes with gradients that stay."""
    generator = torch.Generator().manual_seed(0)
    params: list[Tensor] = []
    for shape in shapes:
        param = nn.Parameter(torch.full(shape, 0.1))
        few = torch.randn(min(prod(shape), 1 << 20), generator=generator)
        times = -(-param.numel() // max(1, few.numel()))
        param.grad = few.repeat(times)[: param.numel()].reshape(shape)
        params.append(param)
    return params, None


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
