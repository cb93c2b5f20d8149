"""Whether the Python objects that a plan was made from are the same objects still.

They are the groups with what is in them, the lists of parameters, and the state with
what is in it. From Python a look at one of them costs 0.03 microseconds or more, and
there are ten and more for each parameter; tensors cannot be compared with ``==``, which
would compare their numbers. Native code walks the same dictionaries and lists, and
compares addresses (:mod:`.look`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from operator import is_not
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from . import python_abi
from .ahead import AHEAD
from .look import HEAD, OTHERS_HOLD, UNKNOWN, library, look

if TYPE_CHECKING:
    from ..optimizer import Optimizer

__all__ = ["OTHER", "OTHER_VALUES", "SAME", "Change", "Watch"]

SAME = 0
OTHER_VALUES = 1  # in the groups, something else than the parameters
OTHER = 2
_ENTRY = 3  # words of an entry of a dictionary
_MOST_LINES = 8  # the processor itself reads ahead in what is longer


# A group's index, and of each value that is another: its name, its place among the
# group's, what it was and what it is.
Change = tuple[int, list[tuple[str, int, Any, Any]]]


class Watch:
    """What an optimizer is made of, at the moment when the watch is made.

    Args:
        optimizer: what is watched.
        held: objects of the state to which the plan refers, each as often as it does.

    Attributes:
        groups: the list of groups.
        found_sole: the last look at all of it found no other reference to the state.
    """

    def __init__(self, optimizer: Optimizer, held: Iterable[Any] = ()) -> None:
        self.found_sole = False
        self._held = Counter(map(id, held))
        self._record(optimizer)

    def _record(self, optimizer: Optimizer) -> None:
        self._opaque = _is_opaque(optimizer)
        self._countable = python_abi.counts_references()
        self.groups, self._state = optimizer.param_groups, optimizer.state
        # The objects are kept: another at the same address would pass for them.
        self._objects: list[Any] = []
        self._names = [tuple(group) for group in optimizer.param_groups]
        self._values = [[*group.values()] for group in optimizer.param_groups]
        self._version_at: list[int] = []
        self._params = [group["params"] for group in optimizer.param_groups]
        self._order: list[int] = []  # what is looked into, in turn, to read ahead
        stream = [*python_abi.addresses(), python_abi.version_offset()]
        stream += [id(self.groups), id(self._state), self._references(self._state)]
        stream += [0, len(self.groups)]
        self._add_groups(stream, optimizer)
        stream[HEAD.index("state_at")] = len(stream)
        self._add_state(stream, optimizer)
        last = [id(self.groups), 0, 0] * AHEAD
        self._ahead = np.array([*self._order, *last], np.int64)
        self._expected = np.array(stream, np.int64)
        self._addresses = self._expected.ctypes.data, self._ahead.ctypes.data

    def native(self) -> tuple[int, int, int]:
        """The function that looks, and what it is given before ``only_groups``."""
        return library()["look"], *self._addresses

    def look(self, optimizer: Optimizer, only_groups: bool = False) -> int:
        """``SAME``, ``OTHER_VALUES`` or ``OTHER``; of the groups alone, if so asked."""
        # No variable for the state: it would be a reference more.
        same = optimizer._custody.state is self._state
        if self._opaque or not same or optimizer.param_groups is not self.groups:
            return OTHER
        seen = look()(*self._addresses, only_groups)
        if not only_groups:
            self.found_sole = self._countable and not seen & OTHERS_HOLD
        return seen & ~OTHERS_HOLD

    def changes(self) -> list[Change] | None:
        """The groups in which values are others; None if more is."""
        if len(self.groups) != len(self._values):
            return None
        found = []
        for place, group in enumerate(self.groups):
            names, known = self._names[place], self._values[place]
            if tuple(group) != names:
                return None
            values = [*group.values()]
            others = [*map(is_not, values, known)]
            if True in others:
                places = [at for at, is_other in enumerate(others) if is_other]
                found.append(
                    (place, [(names[at], at, known[at], values[at]) for at in places])
                )
        return found

    def accept(self, changes: Iterable[Change]) -> None:
        """Expect the values that these groups have now.

        Their versions are none that were noted with other values.
        """
        for place, values in changes:
            known, at = self._values[place], self._version_at[place]
            first = int(self._expected[at + 1]) + 1  # after the number of entries
            for _, entry, _, value in values:
                known[entry] = value
                self._expected[first + _ENTRY * entry + 1] = id(value)

    def renew(self, optimizer: Optimizer) -> bool:
        """Expect the values that the groups have now; False if more is another."""
        groups = optimizer.param_groups
        if any(
            group["params"] is not params
            for group, params in zip(groups, self._params, strict=True)
        ):
            return False
        if [*map(len, groups)] != [*map(len, self._values)]:
            self._record(optimizer)
            return True
        self._names = [tuple(group) for group in groups]
        self._values = [[*group.values()] for group in groups]
        for at, group in zip(self._version_at, groups, strict=True):
            words, first = self._entries(group, counted=False), self._expected[at + 1]
            self._expected[first : first + len(words)] = words
        return True

    def _add_groups(self, stream: list[int], optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            self._add(stream, group, group["params"])
            entries = {} if python_abi.version_offset() else group
            self._order += [*_record(group, len(entries)), *_record(group["params"])]
            stream.append(len(group["params"]))
            self._add(stream, *group["params"])
            self._version_at.append(len(stream))
            stream += [UNKNOWN, 0]
        for at, group in zip(self._version_at, optimizer.param_groups, strict=True):
            stream[at + 1] = len(stream)
            stream += self._entries(group, counted=False)

    def _add_state(self, stream: list[int], optimizer: Optimizer) -> None:
        stream.append(len(optimizer.state))
        for key, value in optimizer.state.items():
            self._add(stream, key, value)
            stream.append(self._references(value))
            self._countable &= type(value) is dict
            self._order += _record(value if isinstance(value, dict) else self.groups)
            entries = value if isinstance(value, dict) else {}
            self._objects += chain.from_iterable(entries.items())
            stream += self._entries(entries, counted=True)

    def _entries(self, entries: dict[Any, Any], *, counted: bool) -> list[int]:
        """The words of a dictionary's entries, as :mod:`.look` wants them.

        No references, but 0, where they are not to be counted: of what is not looked
        into, and so is as it was while it is the same object.
        """
        words = [len(entries)]
        for key, value in entries.items():
            is_tensor = counted and isinstance(value, Tensor)
            self._countable &= not is_tensor or type(value) is Tensor
            words += [id(key), id(value), self._references(value) if is_tensor else 0]
        return words

    def _references(self, value: Any) -> int:
        """How many there are to an object of the state, if nobody else has one.

        One is of the object that it is in, and one of this watch.
        """
        return 2 + self._held[id(value)]

    def _add(self, stream: list[int], *objects: Any) -> None:
        self._objects.extend(objects)
        stream.extend(map(id, objects))


def _is_opaque(optimizer: Optimizer) -> bool:
    """Whether something holds the objects that native code cannot look into."""
    groups, state = optimizer.param_groups, optimizer.state
    return (
        type(groups) is not list
        or not isinstance(state, dict)
        or any(not isinstance(group, dict) for group in groups)
        or any(type(group["params"]) is not list for group in groups)
        or any(
            isinstance(key, Tensor) and not isinstance(value, dict)
            for key, value in state.items()
        )
    )


def _record(value: Any, count: int | None = None) -> tuple[int, int, int]:
    """An object, where CPython keeps the address of its items, and their cache lines.

    It is used to read ahead only.

    Args:
        value: a list or a dictionary.
        count: how many of its items are looked at; by default all.
    """
    count = len(value) if count is None else count
    offset, in_line = (32, 2) if isinstance(value, dict) else (24, 8)
    return id(value), offset, min(1 + count // in_line, _MOST_LINES) if count else 0
