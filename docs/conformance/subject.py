"""What a promise is asked of: one optimizer class, and how it is driven."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

Promise = Callable[["Subject"], None]

# A rate is lowered by this, to see whether it counts.
LOW = 1e-6
# Some optimizers stand still at first, until they know the variance.
WARM_UP = 8


class NotApplicable(Exception):
    """The promise says nothing about this optimizer."""


@dataclass(frozen=True)
class Subject:
    """An optimizer class.

    Args:
        kind: the class.
        keywords: arguments that it needs.
        shapes: of the parameters: a matrix and a vector, or matrices where it takes no
            vectors.
        drive: how it is given gradients: "dense" or "sparse" ones, or by a "closure".
    """

    kind: type[torch.optim.Optimizer]
    keywords: dict[str, Any] = field(default_factory=dict)
    shapes: tuple[tuple[int, ...], ...] = ((4, 3), (5,))
    drive: str = "dense"

    def parameters(self, dtype: torch.dtype = torch.float32) -> list[Parameter]:
        """New parameters, always with the same numbers."""
        rng = torch.Generator().manual_seed(0)
        return [
            Parameter(torch.randn(shape, generator=rng, dtype=torch.double).to(dtype))
            for shape in self.shapes
        ]

    def make(self, params: Any, **keywords: Any) -> torch.optim.Optimizer:
        """A new optimizer, ready to train."""
        optimizer = self.kind(params, **{**self.keywords, **keywords})
        if hasattr(optimizer, "train"):  # as schedule-free optimizers must be told
            optimizer.train()
        return optimizer

    def step(
        self, optimizer: torch.optim.Optimizer, params: Sequence[Tensor], number: int
    ) -> None:
        """Do a step on gradients that its number decides, and random choices too."""
        torch.manual_seed(number)
        if self.drive == "closure":
            optimizer.step(self.closure(optimizer, params, number))
            return
        rng = torch.Generator().manual_seed(100 + number)
        for param in params:
            grad = torch.randn(param.shape, generator=rng).to(param.dtype)
            param.grad = grad.to_sparse(1) if self.drive == "sparse" else grad
        optimizer.step()

    def train(
        self, optimizer: torch.optim.Optimizer, params: Sequence[Tensor], numbers: Any
    ) -> None:
        """Do several steps."""
        for number in numbers:
            self.step(optimizer, params, number)

    def closure(
        self, optimizer: torch.optim.Optimizer, params: Sequence[Tensor], number: int
    ) -> Callable[[], Tensor]:
        """A closure: the distance to a target that the number decides."""

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = sum((p - 1 - number).abs().square().sum() for p in params)
            loss.backward()
            return loss

        return closure

    def takes(self, argument: str) -> bool:
        """Whether the constructor has the argument."""
        return argument in inspect.signature(self.kind).parameters

    def needs(self, drive: str, why: str) -> None:
        """Raise NotApplicable where gradients are given in another way."""
        if self.drive != drive:
            raise NotApplicable(why)

    def without_decay(self) -> Subject:
        """The same without weight decay, where it can be turned off."""
        if not self.takes("weight_decay"):
            return self
        return replace(self, keywords={**self.keywords, "weight_decay": 0.0})


def drivable(kind: type, keywords: dict[str, Any]) -> Subject | None:
    """The class as it can be driven, or None: some steps must work and move."""
    rate = inspect.signature(kind).parameters.get("lr")
    if rate is not None and not isinstance(rate.default, float | int | None):
        keywords = {"lr": 1e-3, **keywords}
    for shapes in (((4, 3), (5,)), ((4, 3), (6, 2))):
        for drive in ("dense", "sparse", "closure"):
            subject = Subject(kind, keywords, shapes, drive)
            try:
                params = subject.parameters()
                before = values(params)
                optimizer = subject.make(params)
                subject.train(optimizer, params, range(WARM_UP))
            except Exception:
                continue
            if not same(params, before) and all(p.isfinite().all() for p in params):
                return subject
    return None


def values(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies."""
    return [tensor.detach().clone() for tensor in tensors]


def same(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether two lists hold the same numbers, bit for bit."""
    return all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))


def close(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether two lists hold the same numbers, but for rounding."""
    return all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-6)
        for a, b in zip(tensors, others, strict=True)
    )


def tensors_in(state: Any, path: str = "") -> dict[str, Tensor]:
    """All tensors with dimensions in the state of a parameter, however deep."""
    if isinstance(state, Tensor):
        return {path: state} if state.dim() else {}
    parts = {}
    if isinstance(state, Mapping):
        parts = dict(state)
    elif isinstance(state, list | tuple):
        parts = dict(enumerate(state))
    found: dict[str, Tensor] = {}
    for key, part in parts.items():
        found |= tensors_in(part, f"{path}.{key}" if path else str(key))
    return found


def movement(tensors: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """The farthest that a number went."""
    return max(
        (a.detach() - b).abs().max().item()
        for a, b in zip(tensors, before, strict=True)
    )


def keeps_no_rate(subject: Subject) -> None:
    """Raise NotApplicable where a rate is not what scales each step, by design."""
    if "Rprop" in subject.kind.__name__:
        raise NotApplicable("the rate is where the step sizes begin, and no more")
    averaging = ("ScheduleFree", "SFAdamW", "MADGRAD", "MSAM", "AccSGD", "Ranger")
    if any(name in subject.kind.__name__ for name in averaging):
        raise NotApplicable("the weights are averages, which move on without a rate")
    if any(name in subject.kind.__name__ for name in ("Prodigy", "DAdapt")):
        raise NotApplicable("the optimizer finds the rate, one for all parameters")
    if subject.make(subject.parameters()).param_groups[0].get("lr") is None:
        raise NotApplicable("there is no rate, or the optimizer finds it")
