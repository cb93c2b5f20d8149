"""How checks on a GPU are made, and what they are made on."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import polyak

from .device import Device, Size, tensors

__all__ = [
    "CAPTURABLE",
    "MATRICES",
    "MUON",
    "OPTIMIZERS",
    "SHAPES",
    "SIZES",
    "Outcome",
    "Skipped",
    "called",
    "check",
    "fresh_gradients",
    "in_kernels",
    "outcomes",
    "same",
    "shaped",
    "trained",
    "values",
]

Check = Callable[[Device], str]
CHECKS: dict[str, Check] = {}

# Each optimizer with a kernel, and arguments with which all of it is at work.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": dict(lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "ASGD": dict(lr=0.1, t0=2, weight_decay=0.01),
    "Rprop": {},
    "Adagrad": dict(weight_decay=0.01, lr_decay=0.1),
    "Adadelta": dict(lr=0.5, weight_decay=0.01),
    "RMSprop": dict(momentum=0.9, centered=True),
    "Adam": dict(weight_decay=0.01, amsgrad=True),
    "AdamW": {},
    "Adamax": dict(weight_decay=0.01),
    "NAdam": dict(weight_decay=0.01),
    "RAdam": dict(weight_decay=0.01),
}
# Its leaves take matrices, of which some share a stack.
MUON = dict(lr=0.02, weight_decay=0.01)
MATRICES: list[tuple[int, ...]] = [
    (0, 4),
    (64, 64),
    (64, 64),
    (3, 5),
    (96, 33),
    (64, 64),
    (8, 3, 3, 3),
]
CAPTURABLE = [name for name in OPTIMIZERS if name not in ("SGD", "Adagrad")]
SIZES: list[Size] = [0, 1, 3, 1023, 1024, 4097]
# Matrices large and small, filters, rows of numbers that are no multiples of anything.
SHAPES = [(300, 520), (33, 7), (64, 64, 3, 3), (1, 70_001), (20_011, 3), (65,), (3, 4)]


@dataclass(frozen=True)
class Outcome:
    """How a check went.

    Attributes:
        passed: it holds; None if it could not be made.
        detail: what was seen.
    """

    name: str
    passed: bool | None
    detail: str


class Skipped(Exception):
    """A check that this machine does not allow."""


def outcomes(device: Device) -> Iterator[Outcome]:
    """Make every check, whatever the others do."""
    for name, check in CHECKS.items():
        try:
            yield Outcome(name, True, check(device))
        except Skipped as reason:
            yield Outcome(name, None, str(reason))
        except Exception as error:
            traceback.print_exc()
            yield Outcome(name, False, f"{type(error).__name__}: {error}"[:300])
        if not device.dry:
            torch.cuda.empty_cache()


def check(function: Check) -> Check:
    """Make a check of a function, named by what it says it is."""
    assert function.__doc__ is not None
    CHECKS[function.__doc__.splitlines()[0].rstrip(".")] = function
    return function


def fresh_gradients(params: list[Tensor], step: int) -> None:
    generator = torch.Generator(params[0].device).manual_seed(step)
    for param in params:
        drawn = torch.randn(param.shape, generator=generator, device=param.device)
        param.grad = drawn.to(param.dtype)


def values(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters and their state."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state = [optimizer.state[param] for param in params]
    numbers = [torch.as_tensor(v).cpu() for held in state for v in held.values()]
    return [*(param.detach().cpu() for param in params), *numbers]


def same(one: torch.optim.Optimizer, other: torch.optim.Optimizer, rtol: float) -> None:
    torch.testing.assert_close(
        values(one), values(other), rtol=rtol, atol=rtol, check_dtype=False
    )


def in_kernels(optimizer: Any) -> None:
    plan = optimizer._plan
    assert not plan.eager, plan.eager[0].reason
    engines = {served.engine for served in polyak.explain(optimizer).served}
    assert engines == {"triton"}, engines


def called(optimizer: Any, *, fused: bool) -> Any:
    """The optimizer, with its rule called on tensors if it is not to be fused."""
    for group in optimizer.param_groups:
        group["foreach"] = None if fused else False
    return optimizer


def trained(
    optimizer: Any, steps: int = 5, before: Callable[[int], object] | None = None
) -> Any:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(steps):
        if before is not None:
            before(step)
        fresh_gradients(params, step)
        optimizer.step()
    return optimizer


def shaped(device: Device, dtype: torch.dtype) -> list[Tensor]:
    """Parameters of all shapes: many chunks, and one, in one launch."""
    shapes = SHAPES if not device.dry else [(9, 140), (3, 4), (5,)]
    return tensors(shapes, dtype, device)
