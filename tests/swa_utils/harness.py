"""Networks, how their weights move, and how averages of them are compared."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import swa_utils as torchs

import polyak.swa_utils as ours

both = pytest.mark.parametrize("library", [torchs, ours], ids=["torch", "polyak"])


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Odd(nn.Module):
    """Shapes and layouts at the edges, and weights that are not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.scalar = nn.Parameter(torch.tensor(1.0))
        self.empty = nn.Parameter(torch.ones(0, 3))
        self.across = nn.Parameter(torch.ones(5, 3).t())
        self.frozen = nn.Parameter(torch.ones(7), requires_grad=False)
        self.wide = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.complex = nn.Parameter(torch.ones(3, dtype=torch.complex64))
        self.whole = nn.Parameter(torch.arange(3), requires_grad=False)
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("count", torch.tensor(0))


def linear(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Two parameters."""
    return nn.Linear(3, 4, dtype=dtype)


def normalised() -> nn.Module:
    """With buffers: two of floating point and a count."""
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "float32": linear,
    "float64": lambda: linear(torch.float64),
    "complex64": lambda: linear(torch.complex64),
    "complex128": lambda: linear(torch.complex128),
    "tied": Tied,
    "normalised": normalised,
    "odd": Odd,
}
every_network = pytest.mark.parametrize("label", list(NETWORKS))


def tensors(model: nn.Module) -> list[Tensor]:
    """Parameters, then buffers."""
    return [*model.parameters(), *model.buffers()]


def floating(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def shake(model: nn.Module, seed: int) -> nn.Module:
    """Give a model the weights that this seed stands for, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in tensors(model):
            if floating(tensor):
                kind = torch.complex64 if tensor.is_complex() else torch.float32
                drawn = torch.randn(tensor.shape, generator=generator, dtype=kind)
                tensor.copy_(drawn)
            else:
                tensor.add_(1)
    return model


def run(average: Any, model: nn.Module, seeds: Iterable[int]) -> Any:
    """Move the model and update its average, once for each seed."""
    for seed in seeds:
        average.update_parameters(shake(model, seed))
    return average


def assert_same(actual: nn.Module, expected: nn.Module) -> None:
    """Equal, but for the last bits."""
    for one, other in zip(tensors(actual), tensors(expected), strict=True):
        torch.testing.assert_close(one.detach(), other.detach())


def assert_equal(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Equal, bit for bit."""
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def copies(values: Iterable[Tensor]) -> list[Tensor]:
    return [value.detach().clone() for value in values]


def through_torch(state: Any) -> Any:
    """What ``torch.load`` gives back, which trusts nothing but data."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def weights(*values: float, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """A parameter of this many equal to each value."""
    return [
        nn.Parameter(torch.full((index + 2,), value, dtype=dtype))
        for index, value in enumerate(values)
    ]


def fill(params: Iterable[Tensor], value: float) -> None:
    """Set parameters, in place."""
    with torch.no_grad():
        for param in params:
            param.fill_(value)
