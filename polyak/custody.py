"""Whether anybody but an optimizer can have changed its state.

A step must know that the state is what the last one left. To look at it costs more than
a small step: each slot is a Python object, torch's record of it, a storage and a
counter of versions, all apart in memory. But state to which nobody else has a reference
can only be reached through ``optimizer.state``. So a step need not look,

- once nobody else had a reference to the dictionaries, the tensors and their storages,
  which a look finds out on its way,
- for as long as nobody reads ``optimizer.state``.

Step counters are compared still, since memory may be shared without a reference. The
versions of tensors that nobody holds are nobody's concern: they do not advance. Who
searches the interpreter's objects for tensors (:func:`gc.get_objects`), and moves them,
is not noticed: read ``optimizer.state`` once afterwards.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Custody"]


class Custody:
    """The state of an optimizer; wrappers of an optimizer share it.

    Attributes:
        state: the dictionary, for those who change nothing.
        keeper: the plan that need not look at the state, if there is one.
        looker: the plan that looks at it, until somebody reads it.
    """

    __slots__ = ("keeper", "looker", "state")

    def __init__(self, state: Any) -> None:
        self.state = state
        self.keeper: Any = None
        self.looker: Any = None

    def show(self) -> Any:
        """The state, for somebody who may change it."""
        self.keeper = self.looker = None
        return self.state
