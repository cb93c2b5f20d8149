"""Whether anybody but an optimizer can have changed its state.

A step must know that the state is what it was after the last one. To look at it costs
more than a small step: each slot is a Python object, torch's record of it, a storage
and a counter of versions, all apart in memory. But state to which nobody else has a
reference can only be reached through ``optimizer.state``. So a step need not look,

- once nobody else had a reference to the dictionaries, the tensors and their storages,
- for as long as nobody reads ``optimizer.state``.

Only the numbers that others may share by memory, the step counters, are compared still.
Versions of tensors that nobody holds are nobody's concern: they do not advance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from sys import getrefcount
from typing import Any
from weakref import getweakrefcount

import torch
from torch import Tensor
from torch._C import _storage_Use_Count

__all__ = ["Custody"]

MOST_PATIENCE = 63


class Custody:
    """The state, and the plan that alone holds it; wrappers share it.

    Attributes:
        state: the dictionary, without notice that it was read.
        keeper: the plan that need not look at the state, if there is one.
    """

    __slots__ = ("_patience", "_quiet", "keeper", "state")

    def __init__(self, state: Any) -> None:
        self.state = state
        self.keeper: Any = None
        self._quiet = 0  # looks since somebody read the state
        self._patience = 0  # of these, before references are counted

    def show(self) -> Any:
        """The state, for somebody who may change it."""
        if self.keeper is not None:
            self._wait_longer()
        self.keeper = None
        self._quiet = 0
        return self.state

    def before_look(self, plan: Any, held: Callable[[], Iterable[Any]]) -> None:
        """Decide whether the look that follows is the last one that is needed.

        Counting references takes longer than looking: after each time that it was of no
        use, twice as many looks must pass.

        Args:
            plan: who looks.
            held: gives the objects that the plan refers to, each as often as it does.
        """
        self.keeper = None
        self._quiet += 1
        if self._quiet <= self._patience:
            return
        self.keeper = plan  # first: who reads the state meanwhile takes it back
        if not self._is_sole(Counter(map(id, held()))):
            self.keeper = None
            self._quiet = 0
            self._wait_longer()

    def _wait_longer(self) -> None:
        self._patience = min(2 * self._patience + 1, MOST_PATIENCE)

    def _is_sole(self, held: Counter[int]) -> bool:
        """Whether nobody has a reference to the state, but for so many by id."""
        own = 2  # of a container and of a call
        state = self.state
        if getrefcount(self.state) != own + 1 + held[id(state)]:
            return False
        for key in state:
            if type(state[key]) is not dict:
                return False
            if getrefcount(state[key]) != own + held[id(state[key])]:
                return False
            if not all(_is_free(state[key], name, held) for name in state[key]):
                return False
        return True


def _is_free(values: dict[Any, Any], name: Any, held: Counter[int]) -> bool:
    value = values[name]
    if not isinstance(value, Tensor):
        return True  # the plan asks no more than whether it is the same object
    if type(value) is not Tensor:
        return False
    ours = held[id(value)]
    del value
    references, *others = _references(values, name)
    expected, *none_other = _no_other()
    return references == expected + ours and others == none_other


def _references(values: dict[Any, Any], name: Any) -> list[int]:
    """Of a tensor, of torch's record of it, of its storage, and weak ones."""
    tensor = values[name]
    storage = tensor.untyped_storage()
    return [
        getrefcount(tensor),
        tensor._use_count(),
        getrefcount(storage),
        _storage_Use_Count(storage._cdata),
        getweakrefcount(tensor),
    ]


@cache
def _no_other() -> list[int]:
    """These counts of a tensor that a dictionary alone holds."""
    return _references({"": torch.zeros(1, device="cpu")}, "")
