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

from .. import jit
from ..bucket import Bucket, sizes_of
from ..reading import Reading
from ..survey import Member, Numbers
from ..table import Table
from .chunks import Chunks
from .devices import capturing, current
from .modules import function
from .source import Stored, TritonKernel
from .table import DeviceTable
from .units import Units

__all__ = ["TritonBucket"]

_NOTHING = "define void @member0(ptr %table) { ret void }"


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
        self._traffic = 0  # of native code
        self.skip: Tensor | None = None
        self.captured: list[Tensor] = []
        params = [member.param for member in self.members]
        sizes = sizes_of(params, kernel.passes.has_rows)
        self.work: Chunks | Units = (
            Chunks(sizes[0], formats)
            if kernel.passes.is_single
            else Units(kernel, sizes, self.device)
        )
        self.scalars_stay = not (self.number_names or self.schema.injected)
        self._injected: Numbers = (1.0,) * len(self.schema.injected)
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
        return jit.compile_ir(_NOTHING)["member0"]

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
        """Advance the members' numbers, send what changed, and launch the kernel."""
        super().launch()
        self._note()
        with current(self.device):
            if capturing(self.device):
                self.captured.append(self.words.capture())
            else:
                self.words.upload(again=bool(self.captured))
            self._start()
        self.skip = None

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
        if self.work.programs:
            kernel = function(self.kernel.source, self.kernel.name)
            self.work.launch(kernel, self.words, self.skip)

    def refresh(self, hyperparameters: Sequence[Numbers]) -> bool:
        """Send changed hyperparameters to the device, for graphs that are replayed.

        False if the rule would branch otherwise.
        """
        self.assign(hyperparameters)
        if not super().prepare(self._injected):
            return False
        self._note_scalars()
        with current(self.device):
            self.words.upload()
        return True
