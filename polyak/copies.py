"""Copies and pickles of an optimizer."""

from __future__ import annotations

import pickle
import warnings
from copy import deepcopy
from typing import Any, Self

from .counts import Counts
from .hooks import HOOK_KINDS, Hooks

__all__ = ["Copies"]


class Copies(Counts, Hooks):
    """What :mod:`copy` and :mod:`pickle` ask; a base of :class:`~polyak.Optimizer`.

    Whatever an optimizer has goes along, its hooks too, but for what belongs to this
    very object or to the moment.
    """

    state: Any

    def __getstate__(self) -> dict[str, Any]:
        # A scheduler's wrapper around `step` belongs to this object, not to a copy.
        own = {"_plan", "_stepping", "_swapped", "_counts", "_device_skips", "step"}
        own.add("_custody")
        kept = {key: value for key, value in self.__dict__.items() if key not in own}
        counts = {"_done": self.steps, "_skipped": self.skipped_steps}
        return kept | counts | {"state": self.state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "state" in state:
            self.state = self.__dict__.pop("state")
        for kind in HOOK_KINDS:
            if kind not in self.__dict__:
                self._clear_hooks()
                break

    def __copy__(self) -> Self:
        copy = type(self).__new__(type(self))
        copy.__setstate__(self.__getstate__())
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        copy.__setstate__(deepcopy(self.__getstate__(), memo))
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        state = self.__getstate__()
        for kind in HOOK_KINDS:
            state[kind] = _picklable(state[kind], kind)
        return _new, (type(self),), state


def _new(cls: type[Copies]) -> Copies:
    return cls.__new__(cls)


def _picklable(hooks: Any, kind: str) -> Any:
    kept = type(hooks)()
    for key, hook in hooks.items():
        try:
            pickle.dumps(hook)
        except (pickle.PicklingError, AttributeError, TypeError):
            warnings.warn(
                f"the pickle leaves out {hook!r} of {kind}: functions defined inside "
                "functions cannot be pickled. Register it again after loading.",
                stacklevel=4,
            )
        else:
            kept[key] = hook
    return kept
