"""A bucket on a GPU: the parameters that one launch of one Triton kernel serves.

What the host does for it, it does as for the CPU: native code looks at the tensors,
notes where the gradients are and advances the numbers of the state, and the scalars are
computed in float64. Then what changed is sent to the table on the device, and the
kernel is launched behind it. Nobody waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..around import Wave, waves
from ..bucket import Bucket, sizes_of
from ..reading import Reading
from ..survey import Member, Numbers
from ..table import Table
from ..walk import walk
from .chunks import Chunks
from .devices import capturing, current
from .modules import function
from .source import Stored, TritonKernel
from .table import DeviceTable
from .units import Units

__all__ = ["TritonBucket"]

# Bytes of the parameters that go through their leaves together. Their launches keep the
# device busy for longer than the host takes to make the next ones: more at a time would
# take more memory and gain nothing.
TOGETHER = 2**26


class TritonBucket(Bucket):
    """A Triton kernel, and the table in device memory that it works off.

    Attributes:
        device: where the tensors are.
        skip: a number on the device: unless it is 0, the next step changes nothing.
        captured: memory of the host that CUDA graphs read.
    """

    kernel: TritonKernel  # type: ignore[assignment]

    def __init__(
        self,
        reading: Reading,
        kernel: TritonKernel,
        formats: Mapping[str, Stored],
        members: Sequence[Member],
    ) -> None:
        self.device = members[0].param.device
        if capturing(self.device):
            raise RuntimeError(
                f"a step of {members[0].schema.owner} is captured in a CUDA graph "
                "before it has been done: do some steps first, on a side stream, as "
                "torch.cuda.graph asks for"
            )
        super().__init__(reading, kernel, formats, members)  # type: ignore[arg-type]
        self.skip: Tensor | None = None
        self.captured: list[Tensor] = []
        params = [member.param for member in self.members]
        sizes = sizes_of(params, kernel.passes.has_rows)
        around = self._around
        places = None if around is None else _places(sizes[0], around.waves)
        self.work: Chunks | Units = (
            Chunks(sizes[0], formats, places)
            if kernel.passes.is_single
            else Units(kernel, sizes, self.device)
        )
        self.scalars_stay = not (self.number_names or self.schema.injected)
        self._injected: Numbers = (1.0,) * len(self.schema.injected)
        self._baked: list[Numbers] = []  # what leaves took in a captured step
        arrays = self.table.arrays
        self.words = DeviceTable(
            sizes[0],
            arrays["pointers"][:-1],
            self._rows_of_scalars() * arrays["values"][0].nbytes,
            self.work.words,
            self._input_words(),
            self.device,
        )
        self.words.beside += self.work.beside

    def _entry(self) -> int:
        return 0  # native code runs no kernel

    def _waves(self) -> list[Wave]:
        """Which parameters go through the leaves together: as many as serves."""
        itemsize = self.members[0].param.element_size()
        return waves(self._stacks(TOGETHER), TOGETHER // itemsize)

    def _lay_out(self, table: Table, sizes: Any, chunks: Any) -> int:
        return 0  # what the programs share is on the device

    def _rows_of_scalars(self) -> int:
        return len(self.table.arrays["values"])

    def _input_words(self) -> int:
        return 0

    def norms(self, order: float) -> Tensor:
        """The norm of each gradient that has numbers, in a vector on the device."""
        grads = [member.param.grad for member in self.members]
        given = [grad for grad in grads if grad is not None and grad.numel()]
        if not given:
            return torch.zeros(1, dtype=torch.float64, device=self.device)
        real = [torch.view_as_real(g) if g.is_complex() else g for g in given]
        return torch.stack(torch._foreach_norm(real, order, dtype=torch.float64))

    def squares(self) -> float:
        """The sum of the squared gradients; it waits for the device."""
        return float(self.norms(2).square().sum().item())

    def prepare(self, injected: Numbers) -> bool:
        """Evaluate the rows of scalars; False if the rule would branch otherwise."""
        if self.number_names and capturing(self.device):
            raise RuntimeError(
                f"a CUDA graph that captures a step of {self.schema.owner} would "
                "repeat this very step: build the optimizer with capturable=True, "
                "which keeps the step counter on the device"
            )
        self._injected = injected
        return super().prepare(injected)

    def launch(self) -> None:
        """Send what changed, launch the kernel, and advance the members' numbers."""
        self._note()
        try:
            with current(self.device):
                if capturing(self.device):
                    self.captured.append(self.words.capture())
                    self._baked = self._leaf_numbers()
                else:
                    self.words.upload(again=bool(self.captured))
                self._start()
        finally:
            self.skip = None
        if self._around is None:
            walk().advance(self.table.address, 0, len(self.members))
        self.rows.advance()

    def _note(self) -> None:
        """Write down where things are, and the scalars."""
        arrays = self.table.arrays
        self.words.gradients(arrays["pointers"][-1])
        self.words.rows(self._row_of_each())
        self._note_scalars()

    def _row_of_each(self) -> npt.NDArray[np.int64]:
        """The row of scalars that serves each tensor."""
        return self.table.arrays["row"]

    def _note_scalars(self) -> None:
        self.words.values(self.table.arrays["values"])

    def _start(self) -> None:
        if self._around is None:
            if self.work.programs:
                kernel = function(self.kernel.source, self.kernel.name)
                self.work.launch(kernel, self.words, self.skip)
        else:
            skips = self.skip is not None
            self._around.run(self._scalars(), self._run_region, blank=skips)

    def _run_region(
        self, region: int, wave: Wave, memory: Mapping[str, Tensor]
    ) -> None:
        """Launch the kernel of a region on a wave."""
        assert isinstance(self.work, Chunks), "a region makes one pass"
        kernel = (*self.kernel.before, self.kernel)[region]
        self.work.launch(
            function(kernel.source, kernel.name),
            self.words,
            self.skip,
            rooms=[memory[room] for room in kernel.rooms],
            columns=(wave.first, wave.last),
        )

    def refresh(self, hyperparameters: Sequence[Numbers]) -> bool:
        """Send changed hyperparameters to the device, for graphs that are replayed.

        False if the rule would branch otherwise.
        """
        self.assign(hyperparameters)
        if not super().prepare(self._injected):
            return False
        self._check_leaf_numbers()
        self._note_scalars()
        with current(self.device):
            self.words.upload()
        return True

    def _leaf_numbers(self) -> list[Numbers]:
        """The numbers that leaves take, by member."""
        nodes = self.reading.graph.given_to_leaves
        rows = [tuple(row[node] for node in nodes) for row in self._scalars()]
        return [rows[row] for row in self.table.arrays["row"]]

    def _check_leaf_numbers(self) -> None:
        if self.captured and self._baked != self._leaf_numbers():
            raise RuntimeError(
                f"{self.schema.owner}: a number that a leaf takes was changed, and a "
                "CUDA graph repeats the leaf with the old one. Do a step outside of "
                "the graph, and capture it again."
            )


def _places(lengths: npt.NDArray[np.int64], waves: Sequence[Wave]) -> npt.NDArray[Any]:
    """Which number of its wave is the first one of each parameter."""
    places = np.cumsum(lengths) - lengths
    for wave in reversed(waves):
        places[wave.first : wave.last] -= places[wave.first]
    return places
