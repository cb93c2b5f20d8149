"""Schedulers as data, and what they drive.

A scheduler is described as data, so that the same description builds polyak's and
torch's, either within the other, or is evaluated as a formula (``reference.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import lr_scheduler as torchs

import polyak.lr_scheduler as ours
from polyak import schedules

STEPS = 13

# What a plateau scheduler is given, epoch by epoch.
METRICS = [0.9, 0.7, 0.8, 0.7, 0.75, 0.9, 0.6, 0.65, 0.7, 0.8] + [0.7] * STEPS


# Functions of the epoch, which a pickle can name


def harmonic(epoch: int) -> float:
    return 1 / (epoch + 1)


def alternating(epoch: int) -> float:
    return 0.8 if epoch % 2 else 0.95


def steady(epoch: int) -> float:
    return 1.0


class Decay:
    """A callable with state, which belongs into the scheduler's state dict."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, epoch: float) -> float:
        return self.rate**epoch


# Schedulers as users write them: the same code over torch's base class and over ours


class _Shrink:
    """From the rate of the last step: chainable, without a closed form."""

    def get_lr(self) -> list[Any]:
        factor = 0.9 if self.last_epoch > 0 else 1.0
        return [group["lr"] * factor for group in self.optimizer.param_groups]


class _Wave:
    """From the base rates and the epoch."""

    def get_lr(self) -> list[Any]:
        factor = 1.5 + math.sin(self.last_epoch)
        return [base * factor for base in self.base_lrs]


class _Halve:
    """Both: a chainable form, and the closed one that torch asks for."""

    def __init__(self, optimizer: Any, every: int, last_epoch: int = -1) -> None:
        self.every = every
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        now = self.last_epoch > 0 and self.last_epoch % self.every == 0
        factor = 0.5 if now else 1.0
        return [group["lr"] * factor for group in self.optimizer.param_groups]

    def _get_closed_form_lr(self) -> list[Any]:
        factor = 0.5 ** (self.last_epoch // self.every)
        return [base * factor for base in self.base_lrs]


class OurShrink(_Shrink, ours.LRScheduler): ...


class OurWave(_Wave, ours.LRScheduler): ...


class OurHalve(_Halve, ours.LRScheduler): ...


class TorchsShrink(_Shrink, torchs.LRScheduler): ...


class TorchsWave(_Wave, torchs.LRScheduler): ...


class TorchsHalve(_Halve, torchs.LRScheduler): ...


Library = Mapping[str, type[torchs.LRScheduler]]


def classes_of(module: Any) -> dict[str, type[torchs.LRScheduler]]:
    """The public scheduler classes of a module that can be used as they are."""
    return {
        name: kind
        for name, kind in vars(module).items()
        if isinstance(kind, type)
        and issubclass(kind, torchs.LRScheduler)
        and not name.endswith("LRScheduler")
    }


USERS = {"Shrink", "Wave", "Halve"}
OURS: Library = classes_of(ours) | {
    "Shrink": OurShrink,
    "Wave": OurWave,
    "Halve": OurHalve,
}
TORCHS: Library = classes_of(torchs) | {
    "Shrink": TorchsShrink,
    "Wave": TorchsWave,
    "Halve": TorchsHalve,
}

# Classes whose rate is set from the base at every step, in torch as well: what changed
# the rate in between is overwritten, and the values are torch's bit for bit.
FROM_THE_BASE = {
    "LambdaLR",
    "CyclicLR",
    "CosineAnnealingWarmRestarts",
    "OneCycleLR",
    "Wave",
    "Scheduler",
}
# Classes whose rate depends on more than the base and the epoch.
HISTORIC = {"ReduceLROnPlateau", "Shrink"}
COMPOSITES = {"SequentialLR", "ChainedScheduler"}


@dataclass(frozen=True)
class Node:
    """One scheduler: its class, its arguments and the schedulers in it."""

    name: str
    children: tuple[Node, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def build(
        self,
        optimizer: torch.optim.Optimizer,
        library: Library = OURS,
        inner: Library | None = None,
        **more: Any,
    ) -> Any:
        """The scheduler.

        Args:
            optimizer: what it drives.
            library: where its class is from.
            inner: where its children's classes are from, if from elsewhere.
            more: further arguments; ``last_epoch`` reaches the children of a chain.
        """
        arguments = deepcopy(dict(self.arguments))
        children = self.children
        if self.name == "Scheduler":
            parsed = {key: schedules.parse(text) for key, text in arguments.items()}
            return library[self.name](optimizer, **parsed, **more)
        if self.name == "ChainedScheduler":
            built = [c.build(optimizer, inner or library, **more) for c in children]
            return library[self.name](built, optimizer)
        if self.name == "SequentialLR":
            built = [child.build(optimizer, inner or library) for child in children]
            arguments = {"schedulers": built, **arguments}
        return library[self.name](optimizer, **arguments, **more)

    def walk(self) -> Iterator[Node]:
        """This scheduler and all in it."""
        yield self
        for child in self.children:
            yield from child.walk()

    @property
    def names(self) -> set[str]:
        """The classes it is made of, without those that only combine others."""
        return {node.name for node in self.walk()} - COMPOSITES


def node(name: str, *children: Node, **arguments: Any) -> Node:
    """A scheduler of this class."""
    return Node(name, children, arguments)


def sequence(milestones: list[int], *children: Node) -> Node:
    """One scheduler after another."""
    return node("SequentialLR", *children, milestones=milestones)


def chain(*children: Node) -> Node:
    """Several schedulers at once."""
    return node("ChainedScheduler", *children)


# What is driven: the arguments of the optimizer's groups
RATES = (0.1, 0.02, 0.5)


def parameter() -> torch.nn.Parameter:
    """Small. Schedulers do not see gradients, and steps are faster without."""
    return torch.nn.Parameter(torch.ones(2))


def sgd(groups: int = 1, library: Any = torch.optim, **more: Any) -> Any:
    """SGD with momentum, each group with a rate of its own."""
    made = [{"params": [parameter()], "lr": lr} for lr in RATES[:groups]]
    return library.SGD(made, **{"momentum": 0.9, "foreach": False, **more})


def adam(library: Any = torch.optim) -> Any:
    """Adam, whose momentum is in ``betas``."""
    return library.Adam([parameter()], lr=RATES[0], foreach=False)


def tensor(library: Any = torch.optim) -> Any:
    """A learning rate in a tensor."""
    optimizer = sgd(library=library)
    optimizer.param_groups[0]["lr"] = torch.tensor(RATES[0])
    return optimizer


def three(library: Any = torch.optim) -> Any:
    """Three groups with different rates."""
    return sgd(3, library)


SETUPS = {"sgd": sgd, "adam": adam, "tensor": tensor, "groups": three}
PER_GROUP = ("groups",)
