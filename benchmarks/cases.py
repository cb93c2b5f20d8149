"""What steps are measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CASES", "Case", "LARGE", "Tensors", "resnet50"]

Shape = tuple[int, ...]
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
        Case("groups", "1000 groups of 64", 0.8, "µs", ((64,),) * 1000, groups=True),
        Case("backward", "200 layers, gradients made anew", 0.6, "µs", layers=200),
    )
}


class Tensors:
    """The parameters of a case, once for each side, kept from optimizer to optimizer.

    Sides must not share them: the second one would find them in the processor's cache.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self._made: list[tuple[list[Tensor], Callable[[], object] | None]] = []

    def side(self, index: int) -> tuple[list[Tensor], Callable[[], object] | None]:
        """Parameters with gradients, and what makes the gradients anew, if anything."""
        while len(self._made) <= index:
            self._made.append(_network(self.case) or _plain(self.case))
        params, before = self._made[index]
        with torch.no_grad():
            for param in params:
                param.fill_(0.1)
        if before is not None:
            before()
        return params, before

    def grouped(self, index: int) -> list[dict[str, Any]]:
        """The same parameters, every one in its own group."""
        return [{"params": [param]} for param in self.side(index)[0]]


def _plain(case: Case) -> tuple[list[Tensor], None]:
    generator = torch.Generator().manual_seed(0)
    params = []
    for shape in case.shapes:
        param = nn.Parameter(torch.empty(shape))
        numbers = torch.randn(min(prod(shape), 1 << 20), generator=generator)
        times = -(-param.numel() // max(1, numbers.numel()))
        param.grad = numbers.repeat(times)[: param.numel()].reshape(shape)
        params.append(param)
    return params, None


def _network(case: Case) -> tuple[list[Tensor], Callable[[], object]] | None:
    if not case.layers:
        return None
    width = 16
    layers = [nn.Linear(width, width) for _ in range(case.layers)]
    network = nn.Sequential(*layers)
    inputs = torch.randn(8, width, generator=torch.Generator().manual_seed(0))

    def before() -> None:
        network.zero_grad(set_to_none=True)
        network(inputs).square().mean().backward()

    return list(network.parameters()), before
