"""What a fuzzed run is: a value that prints as the code that makes it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Spec:
    """A parameter: its numbers come from the scenario's seed."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = "contiguous"


@dataclass(frozen=True)
class Group:
    """Parameters, and the hyperparameters that are theirs."""

    specs: tuple[Spec, ...]
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A step on new gradients.

    Args:
        seed: of the gradients.
        layout: how they lie in memory; "like" is as their parameters do.
        scale: their magnitude.
        missing: the parameters without gradient, as bits.
        bad: a number that is no number, put into the first gradient.
    """

    seed: int
    layout: str = "like"
    scale: float = 1.0
    missing: int = 0
    bad: float | None = None


@dataclass(frozen=True)
class Change:
    """A hyperparameter of a group is set; ``fill``: in place, if it is a tensor."""

    group: int
    name: str
    value: Any
    fill: bool = False


@dataclass(frozen=True)
class Reload:
    """The optimizer is replaced by a new one that loads its checkpoint.

    Args:
        through: "polyak" itself, a "file", or "torch" and back.
    """

    through: str


@dataclass(frozen=True)
class Copy:
    """The optimizer is replaced by its copy, by "deepcopy" or "pickle"."""

    way: str


@dataclass(frozen=True)
class Add:
    """A group is added."""

    group: Group


@dataclass(frozen=True)
class Move:
    """The parameters' numbers move to other memory, as frameworks do."""


Event = Step | Change | Reload | Copy | Add | Move


@dataclass(frozen=True)
class Scenario:
    """An optimizer, what it updates, and what happens to it."""

    name: str
    groups: tuple[Group, ...]
    events: tuple[Event, ...]
    arguments: Arguments = field(default_factory=dict)
    seed: int = 0

    @property
    def specs(self) -> list[Spec]:
        """All parameters, those of groups that are added too."""
        added = [event.group for event in self.events if isinstance(event, Add)]
        return [spec for group in (*self.groups, *added) for spec in group.specs]

    @property
    def argument_sets(self) -> list[dict[str, Any]]:
        """What each group begins with."""
        added = [event.group for event in self.events if isinstance(event, Add)]
        return [{**self.arguments, **g.arguments} for g in (*self.groups, *added)]
