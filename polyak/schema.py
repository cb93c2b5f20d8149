"""What a rule's signature says: its slots and the values it wants injected."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, cast

from torch import Tensor

from .slot import Group, Slot

__all__ = ["NUMBER", "Schema", "read_schema", "skeleton"]

INJECTED = ("step", "first")


class _Number:
    """Stands for a number in a skeleton."""

    def __repr__(self) -> str:
        return "NUMBER"


NUMBER = _Number()


class _Reads(Mapping[str, Any]):
    """A group that notes which of its values are read."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return self._group[name]

    def __iter__(self) -> Iterator[str]:
        self.names.update(self._group)
        return iter(self._group)

    def __len__(self) -> int:
        self.names.update(self._group)
        return len(self._group)


@dataclass(frozen=True, eq=False)
class Schema:
    """A rule, and what must be given to it.

    Attributes:
        rule: the function ``(param, grad, *slots, *, hyperparameters)``.
        slots: every slot by name, in the order of the signature.
        hyperparameters: names taken from the parameter group.
        wants_step: the rule has the keyword ``step``.
        wants_first: the rule has the keyword ``first``.
        counts_steps: a step counter is kept in the state.
        optional: hyperparameters that a group may lack, and is given as None.
        injected: numbers of the step itself, the same for all groups.
        stage_slots: the slots that stages have added.
    """

    owner: str
    rule: Callable[..., Any]
    slots: Mapping[str, Slot]
    hyperparameters: tuple[str, ...]
    wants_step: bool
    wants_first: bool
    counts_steps: bool
    optional: frozenset[str] = frozenset()
    injected: tuple[str, ...] = ()
    stage_slots: frozenset[str] = frozenset()

    def values(self, group: Group) -> dict[str, Any]:
        """The hyperparameters of a group, as the rule takes them.

        Raises:
            KeyError: the group lacks one.
        """
        return {
            name: group.get(name) if name in self.optional else group[name]
            for name in self.hyperparameters
        }

    def present(self, group: Group, param: Tensor | None = None) -> tuple[str, ...]:
        """The slots that a parameter of this group has; without one, that any has."""
        slots = self.slots.items()
        return tuple(name for name, slot in slots if slot.wanted(group, param))

    def decisive(self, group: Group) -> frozenset[str]:
        """The values of a group on which it depends which slots there are."""
        reads = _Reads(group)
        self.present(cast("Group", reads))
        return frozenset(reads.names)

    def begins(self, present: Collection[str], missing: Collection[str]) -> bool:
        """Whether a parameter that lacks some state has none of the rule's own yet."""
        own = self.slots.keys() - self.stage_slots
        return bool(missing) and own.isdisjoint(set(present) - set(missing))

    def tensor_slots(self, present: tuple[str, ...]) -> tuple[str, ...]:
        """Those of ``present`` that are tensors like the parameter."""
        return tuple(name for name in present if not self.slots[name].number)

    def numbers(self, present: tuple[str, ...]) -> tuple[str, ...]:
        """State entries that are numbers: the slots that are, then the step counter."""
        slots = tuple(name for name in present if self.slots[name].number)
        return (*slots, "step") if self.counts_steps else slots

    def inputs(
        self,
        hyperparameters: tuple[float, ...],
        state: tuple[float, ...],
        injected: tuple[float, ...] | None = None,
    ) -> tuple[float, ...]:
        """What a scalar program takes: slots, the step to come, and all other numbers.

        Args:
            hyperparameters: the numbers among the group's values.
            state: the values of :meth:`numbers`, before the step.
            injected: the values of :attr:`injected`; without them, ones.
        """
        if injected is None:
            injected = (1.0,) * len(self.injected)
        if not self.counts_steps:
            return (*state, *injected, *hyperparameters)
        if self.wants_step:
            return (*state[:-1], state[-1] + 1, *injected, *hyperparameters)
        return (*state[:-1], *injected, *hyperparameters)


def read_schema(
    owner: str,
    rule: Callable[..., Any],
    slots: Mapping[str, Slot],
    counts_steps: bool | None,
) -> Schema:
    """Check the signature of a rule and read it.

    Raises:
        TypeError: the signature is not that of a rule, or ``slots`` names one that it
            does not have.
    """
    signature = inspect.signature(rule)
    positional, keywords = [], []
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            positional.append(name)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            keywords.append(name)
        else:
            raise TypeError(
                f"{owner}.rule{signature} takes {parameter}: name every slot as a "
                "positional argument and every hyperparameter after the `*`."
            )
    if positional[:2] != ["param", "grad"]:
        raise TypeError(
            f"{owner}.rule{signature} must begin with (param, grad, ...): make it a "
            "@staticmethod with these two arguments first."
        )
    unknown = sorted(set(slots) - set(positional[2:]))
    if unknown:
        raise TypeError(
            f"{owner}.slots declares {', '.join(unknown)}, which "
            f"{owner}.rule{signature} does not take."
        )
    wants_step = "step" in keywords
    if wants_step and counts_steps is False:
        raise TypeError(
            f"{owner}.rule{signature} takes `step`, but counts_steps is False."
        )
    return Schema(
        owner=owner,
        rule=rule,
        slots={name: slots.get(name, Slot()) for name in positional[2:]},
        hyperparameters=tuple(name for name in keywords if name not in INJECTED),
        wants_step=wants_step,
        wants_first="first" in keywords,
        counts_steps=wants_step if counts_steps is None else counts_steps,
    )


def skeleton(
    value: Any, numbers: list[float], read: Callable[[Tensor], float] = Tensor.item
) -> Any:
    """Split a hyperparameter: numbers go to the list, what they sit in is returned.

    Args:
        value: the hyperparameter.
        numbers: gets the numbers.
        read: makes a number of a tensor.

    >>> numbers = []
    >>> skeleton((None, 0.5), numbers), numbers
    ((None, NUMBER), [0.5])
    """
    if type(value) is float:  # as most are
        numbers.append(value)
        return NUMBER
    if isinstance(value, tuple | list):
        return tuple(skeleton(part, numbers, read) for part in value)
    if isinstance(value, Tensor) and value.numel() == 1:
        numbers.append(read(value))
        return NUMBER
    if isinstance(value, Real) and not isinstance(value, bool):
        numbers.append(value if isinstance(value, int | float) else float(value))
        return NUMBER
    if isinstance(value, Hashable) and not isinstance(value, Tensor):
        return value
    raise TypeError(
        f"a rule cannot take {value!r}: hyperparameters are numbers, 1-element "
        "tensors, strings, booleans, None, and tuples of these"
    )
