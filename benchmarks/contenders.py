"""Who is measured: polyak's optimizers, and torch's implementations of the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import nn

import polyak
from polyak.optimizers import all_optimizers

__all__ = ["SWITCHES", "Contender", "contenders", "torch_implementations"]

Make = Callable[..., Any]

# Arguments, besides none, with which an optimizer is measured.
VARIANTS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "SGD": ({}, {"momentum": 0.9}),
}
SWITCHES = {
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


@dataclass(frozen=True)
class Contender:
    """An optimizer with its arguments."""

    optimizer: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As one would write it."""
        values = ", ".join(f"{key}={value}" for key, value in self.arguments.items())
        return f"{self.optimizer}({values})" if values else self.optimizer

    def polyak(self, params: Any) -> torch.optim.Optimizer:
        """polyak's."""
        return all_optimizers()[self.optimizer](params, **self.arguments)

    def torch(self) -> dict[str, Make]:
        """torch's, one for each implementation it has; none if it has no such thing."""
        implementations = torch_implementations(self.optimizer)
        return {name: self._maker(more) for name, more in implementations.items()}

    def _maker(self, more: Mapping[str, Any]) -> Make:
        kind = getattr(torch.optim, self.optimizer)
        return lambda params: kind(params, **self.arguments, **more)


def contenders(names: tuple[str, ...] = ()) -> list[Contender]:
    """Every optimizer of polyak whose rule is one dense kernel, or those named.

    Raises:
        ValueError: a name that is none of these.
    """
    known = [name for name in all_optimizers() if _is_elementwise(name)]
    by_name = {name.lower(): name for name in known}
    for name in names:
        if name.lower() not in by_name:
            raise ValueError(f"there is no {name!r} among {', '.join(known)}")
    chosen = [by_name[name.lower()] for name in names] or known
    return [
        Contender(name, arguments)
        for name in chosen
        for arguments in VARIANTS.get(name, ({},))
    ]


@cache
def torch_implementations(optimizer: str) -> dict[str, dict[str, Any]]:
    """The arguments that choose each implementation that torch has on the CPU."""
    kind = getattr(torch.optim, optimizer, None)
    if kind is None:
        return {}
    taken = inspect.signature(kind).parameters
    offered = {
        name: switch for name, switch in SWITCHES.items() if set(switch) <= set(taken)
    }
    return {
        name: switch
        for name, switch in (offered or {"torch": {}}).items()
        if _steps(lambda params, more=switch: kind(params, **more), 8, 8) is not None
    }


def _is_elementwise(optimizer: str) -> bool:
    """Whether polyak runs all of a step on a dense vector in a kernel."""
    kind = all_optimizers()[optimizer]
    if not hasattr(kind, "rule"):
        return False
    stepped = _steps(kind, 8)
    if stepped is None:
        return False
    told = polyak.explain(stepped)
    fused = all(entry.engine == "cpu" for entry in told.served)
    return fused and all(kernel.passes.is_single for kernel in told.kernels)


def _steps(make: Make, *shape: int) -> Any:
    """An optimizer that did a step on a tensor, or None if it refused."""
    param = nn.Parameter(torch.ones(shape))
    param.grad = torch.ones(shape)
    try:
        optimizer = make([param])
        optimizer.step()
    except (RuntimeError, ValueError):
        return None
    return optimizer
