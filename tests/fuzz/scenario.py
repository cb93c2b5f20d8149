"""What a fuzzed run is: a value that prints as the code that makes it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
        kept: they are written into the gradients of the last step, where these are.
        closure: the step calls a closure, which gives them.
        again: as many more steps follow, each on new gradients.
    """

    seed: int
    layout: str = "like"
    scale: float = 1.0
    missing: int = 0
    bad: float | None = None
    kept: bool = False
    closure: bool = False
    again: int = 0


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
class Drop:
    """The last group goes, and its state, unless it is the only one."""


@dataclass(frozen=True)
class Swap:
    """The parameters of a group become other objects, as frameworks make them.

    Args:
        group: which.
        with_state: the state becomes theirs; else it begins anew.
    """

    group: int
    with_state: bool


@dataclass(frozen=True)
class Move:
    """The "params" or the "state" move to other memory, as frameworks do."""

    what: str


@dataclass(frozen=True)
class Freeze:
    """These parameters, as bits, require no gradient from now on; the others do."""

    params: int


@dataclass(frozen=True)
class Reset:
    """The state of all parameters is dropped."""


Event = Step | Change | Reload | Copy | Add | Drop | Swap | Move | Freeze | Reset


@dataclass(frozen=True)
class Scenario:
    """An optimizer, what it updates, and what happens to it.

    Args:
        name: the optimizer.
        groups: what it updates.
        events: what happens.
        arguments: its own, which torch's takes as well.
        stages: what polyak's does besides; torch's has it done by separate calls.
        seed: of the parameters.
        threads: of torch.
    """

    name: str
    groups: tuple[Group, ...]
    events: tuple[Event, ...]
    arguments: Arguments = field(default_factory=dict)
    stages: Arguments = field(default_factory=dict)
    seed: int = 0
    threads: int = 1

    @property
    def all_groups(self) -> list[Group]:
        """Those that are added, too."""
        added = [event.group for event in self.events if isinstance(event, Add)]
        return [*self.groups, *added]

    @property
    def happenings(self) -> list[Event]:
        """The events, each step by itself."""
        found: list[Event] = []
        for event in self.events:
            more = event.again if isinstance(event, Step) else 0
            found.append(event)
            found += (replace(event, seed=event.seed + n + 1) for n in range(more))
        return found

    @property
    def specs(self) -> list[Spec]:
        """All parameters."""
        return [spec for group in self.all_groups for spec in group.specs]

    @property
    def argument_sets(self) -> list[dict[str, Any]]:
        """What each group begins with."""
        return [{**self.arguments, **group.arguments} for group in self.all_groups]
