"""Buckets whose scalars stay on the device: ``capturable`` steps, and unscaled ones.

Nothing that such a step needs is known to the host. A first small kernel computes each
tensor's row of scalars from the step counter, the hyperparameters and what the step
found out about its gradients (:mod:`.program`); the second is the rule's. Numbers that
the host does know, such as a learning rate that is a float, lie in the table, and are
sent when they change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..around import Scalars
from ..reading import Reading
from ..survey import Member, Numbers
from .bucket import TritonBucket
from .modules import function
from .program import branches_hold, values_of
from .source import Stored, TritonKernel
from .staying import OnDevice

__all__ = ["LiveBucket"]

_ROWS = 128  # of scalars, that a program computes


class LiveBucket(TritonBucket):
    """A bucket with a program of scalars on the device."""

    def __init__(
        self,
        reading: Reading,
        kernel: TritonKernel,
        formats: Mapping[str, Stored],
        members: Sequence[Member],
    ) -> None:
        schema = members[0].schema
        held = schema.numbers(members[0].present)
        assert kernel.program is not None, "a live reading has a program"
        self.program = kernel.program
        self._held = held
        groups = dict.fromkeys(member.group for member in members)
        self._place_of = {group: place for place, group in enumerate(groups)}
        inputs = [n for n in self.program.inputs if n not in held]
        self._injected_names = inputs[: len(schema.injected)]
        self._given = inputs[len(schema.injected) :]
        super().__init__(reading, kernel, formats, members)
        self.scalars_stay = True
        self._numbers_held: dict[str, list[Tensor]] = {
            name: [member.state[name] for member in self.members] for name in held
        }
        self._all_numbers = [t for held in self._numbers_held.values() for t in held]
        # What the step finds out about its gradients, where the program looks for it.
        self._found = torch.ones(
            len(schema.injected), dtype=torch.float64, device=self.device
        )
        self._hyperparameters: list[Numbers] = []
        self._watched: list[tuple[Tensor, int]] = []

    def _held_numbers(self) -> tuple[str, ...]:
        return ()

    def _rows_of_scalars(self) -> int:
        return len(self.members)

    def _input_words(self) -> int:
        columns = len(self.program.inputs) * len(self.members)
        return columns + len(self._place_of) * len(self._given)

    # Where the inputs are

    def assign(self, hyperparameters: Sequence[Numbers]) -> None:
        """Take the hyperparameters, by index of the group."""
        super().assign(hyperparameters)
        self._hyperparameters = list(hyperparameters)
        self._place()

    def reassign(self, hyperparameters: Sequence[Numbers], changed: list[int]) -> None:
        """Do the same: each group has its own here."""
        self.assign(hyperparameters)

    def _place(self) -> None:
        """Tell the program where each of its inputs is."""
        tensors, numbers = [*self._all_numbers], list[float]()
        columns = len(self.program.inputs) * len(self.members)
        home = self.words.words.data_ptr() + 8 * (self.words.inputs_at + columns)
        places: dict[str, list[int]] = {
            name: [*map(_address, held)] for name, held in self._numbers_held.items()
        }
        for index, name in enumerate(self._injected_names):
            places[name] = [self._found.data_ptr() + 8 * index] * len(self.members)
        for index, name in enumerate(self._given):
            at = []
            for group in self._place_of:
                value = self._hyperparameters[group][index]
                if isinstance(value, OnDevice):
                    tensors.append(value.tensor)
                    at.append(_address(value.tensor))
                else:
                    at.append(home + 8 * len(numbers))
                numbers.append(float(value))
            places[name] = [at[self._place_of[m.group]] for m in self.members]
        table = [places[name] for name in self.program.inputs]
        words = [np.array(table, np.int64).ravel(), np.array(numbers).view(np.int64)]
        self.words.inputs(np.concatenate(words))
        self._watched = [(tensor, _address(tensor)) for tensor in tensors]

    def held(self) -> list[Any]:
        """The objects of the state that it refers to, each as often as it does."""
        listed = (t for held in self._numbers_held.values() for t in held)
        watched = (tensor for tensor, _ in self._watched)
        return [*super().held(), *self._all_numbers, *listed, *watched]

    # One step

    def holds(self, is_sole: bool = False) -> bool:
        """Whether the tables are true of the tensors as they are now."""
        return super().holds(is_sole) and all(
            _address(tensor) == address for tensor, address in self._watched
        )

    def prepare(self, injected: Sequence[Any]) -> bool:
        """Take what the step found out; False if the rule would branch otherwise."""
        for index, value in enumerate(injected):
            if isinstance(value, Tensor):
                self._found[index].copy_(value)
            elif self._injected[index] != value:
                self._found[index].fill_(value)
        self._injected = tuple(
            float("nan") if isinstance(value, Tensor) else value for value in injected
        )
        return self._branches_hold()

    def _branches_hold(self) -> bool:
        graph = self.reading.graph
        return all(branches_hold(graph, values) for values in self._scalars())

    def _scalars(self) -> list[Scalars]:
        """The scalars of each row, as far as the host knows them."""
        graph = self.reading.graph
        return [values_of(graph, self._known(r.hyperparameters)) for r in self.rows]

    def _known(self, numbers: Numbers) -> dict[str, float]:
        given = zip(self._given, numbers, strict=True)
        return {name: n for name, n in given if not isinstance(n, OnDevice)}

    def _note(self) -> None:
        super()._note()
        torch.autograd.graph.increment_version(self._all_numbers)

    def _row_of_each(self) -> npt.NDArray[np.int64]:
        return np.arange(len(self.members))

    def _note_scalars(self) -> None:
        """They are on the device."""

    def _start(self) -> None:
        if self._around is None:
            self._start_scalars()
            super()._start()
            return
        kept = {name: torch.stack(held) for name, held in self._numbers_held.items()}
        self._start_scalars()
        try:
            super()._start()
        except BaseException:  # of a leaf: parameters that wait for it keep theirs
            rest = slice(self._around.done, None)
            for name, held in self._numbers_held.items():
                if held[rest]:
                    torch._foreach_copy_(held[rest], kept[name][rest].unbind())
            raise

    def _start_scalars(self) -> None:
        words = self.words
        scalars = function(self.program.source, "scalars")
        scalars[(-(-words.tensors // _ROWS),)](
            words.words,
            self.skip,
            words.tensors,
            words.inputs_at,
            BLOCK=_ROWS,
            num_warps=_ROWS // 32,
            enable_fp_fusion=False,
        )

    def refresh(self, hyperparameters: Sequence[Numbers]) -> bool:
        """Send changed hyperparameters; False if the rule would branch otherwise."""
        self.assign(hyperparameters)
        if not self._branches_hold():
            return False
        self._check_leaf_numbers()
        self.words.upload()
        return True


def _address(tensor: Tensor) -> int:
    """Where a number is; bit 0 says that it is a float32."""
    return tensor.data_ptr() | (tensor.dtype is torch.float32)
