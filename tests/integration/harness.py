"""What the integration tests share: a network, data, and how two runs compare.

A run is a function of a library's name, ``"torch.optim"`` or ``"polyak"``: the same
seeds, the same framework, and only the optimizer's class differs. Frameworks are
imported in the tests, not by the modules: some take seconds.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Linear, Sequential, Tanh
from torch.nn.functional import mse_loss
from torch.utils.data import TensorDataset

TORCH, POLYAK = "torch.optim", "polyak"
INPUTS, OUTPUTS = 6, 3

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": dict(lr=0.1, momentum=0.9, nesterov=True),
    "AdamW": dict(lr=0.01, weight_decay=0.1),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def needs(package: str) -> pytest.MarkDecorator:
    """A mark: skip where a package is not installed."""
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


def timms_schedulers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """``timm.scheduler``; where there is no torchvision, without the rest of timm."""
    if importlib.util.find_spec("torchvision") is None:
        spec = PathFinder.find_spec("timm")
        package = ModuleType("timm")
        package.__path__ = spec.submodule_search_locations
        monkeypatch.setitem(sys.modules, "timm", package)
    return importlib.import_module("timm.scheduler")


def build(library: str, name: str, params: Any, **arguments: Any) -> Any:
    """An optimizer of a library, with the arguments above if it is one of those."""
    kind = getattr(importlib.import_module(library), name)
    return kind(params, **{**OPTIMIZERS.get(name, {}), **arguments})


# What is trained


def network(seed: int = 0, bias: bool = True) -> Sequential:
    """A network of two layers; the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = Linear(INPUTS, 16, bias), Tanh(), Linear(16, OUTPUTS, bias)
        return Sequential(*layers)


def dataset(size: int = 64) -> TensorDataset:
    """Inputs, and targets that are a function of them; always the same."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(size, INPUTS, generator=generator)
    weights = torch.randn(INPUTS, OUTPUTS, generator=generator)
    return TensorDataset(inputs, (inputs @ weights).sin())


def batches(count: int, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    """So many batches, over and over the data."""
    inputs, targets = dataset().tensors
    places = [torch.arange(i * size, (i + 1) * size) % 64 for i in range(count)]
    return [(inputs[place], targets[place]) for place in places]


def loss_of(model: torch.nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """What is trained for."""
    inputs, targets = batch
    return mse_loss(model(inputs), targets)


# What is compared


@dataclass
class Run:
    """What a run leaves: losses and rates by the step, weights and state at its end."""

    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    state: list[dict[str, Any]] = field(default_factory=list)

    def note(self, loss: Any, optimizer: Any) -> None:
        """Note a step that was just done."""
        self.losses.append(torch.as_tensor(loss).item())
        self.rates.append(optimizer.param_groups[0]["lr"])

    def finish(self, model: torch.nn.Module, optimizer: Any) -> Run:
        """Note where the run ended."""
        self.weights = [param.detach().clone() for param in model.parameters()]
        self.state = list(optimizer.state_dict()["state"].values())
        return self


def same(actual: Run, expected: Run, **tolerance: float) -> None:
    """Assert that two runs agree to rounding."""
    seen, due = (
        {**vars(run), "losses": torch.tensor(run.losses)} for run in (actual, expected)
    )
    torch.testing.assert_close(seen, due, **tolerance)


def check(train: Callable[..., Run], *arguments: Any, **keywords: Any) -> Run:
    """Assert that a run on polyak's optimizer is the run on torch's; the former."""
    expected = train(TORCH, *arguments, **keywords)
    actual = train(POLYAK, *arguments, **keywords)
    same(actual, expected)
    learnt = expected.losses[-1] < 0.9 * expected.losses[0]
    assert learnt, "a run that learns nothing compares nothing"
    return actual
