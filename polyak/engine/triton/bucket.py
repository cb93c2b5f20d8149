"""A bucket on a GPU: the parameters that one launch of one Triton kernel serves.

What the host does for it, it does as for the CPU: native code looks at the tensors,
notes where the gradients are and advances the numbers of the state, and the scalars are
computed in float64. Then what changed is sent to the table on the device, and the
kernel is launched behind it. Nobody waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import jit
from ..bucket import Bucket
from ..reading import Reading
from ..survey import Member, Numbers
from .devices import capturing, current
from .modules import function
from .source import Stored, TritonKernel
from .table import DeviceTable

__all__ = ["WARPS", "TritonBucket", "block_of"]

WARPS = 4
_THREADS, _ACCESS = 32 * WARPS, 16  # bytes, the widest that there is

_NOTHING = "define void @member0(ptr %table) { ret void }"


def block_of(formats: Mapping[str, Stored]) -> int:
    """Numbers that a program has in hand at a time.

    A thread has one access to the narrowest tensor.
    """
    narrowest = min(stored.itemsize for stored in formats.values())
    return _THREADS * _ACCESS // narrowest


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
        self._block = block_of(formats)
        self.scalars_stay = not (self.number_names or self.schema.injected)
        self._injected: Numbers = (1.0,) * len(self.schema.injected)
        arrays = self.table.arrays
        self.words = DeviceTable(
            _lengths(self.members),
            arrays["pointers"][:-1],
            self._rows_of_scalars() * arrays["values"][0].nbytes,
            self._input_words(),
            self.device,
        )

    def _entry(self) -> int:
        return jit.compile_ir(_NOTHING)["member0"]

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
        words = self.words
        if words.chunks:
            kernel = function(self.kernel.source, self.kernel.name)
            kernel[(words.chunks,)](
                words.words,
                self.skip,
                words.tensors,
                words.chunks_at,
                words.chunk,
                BLOCK=self._block,
                num_warps=WARPS,
                enable_fp_fusion=True,
            )

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


def _lengths(members: Sequence[Member]) -> npt.NDArray[np.int64]:
    """The real numbers of each parameter."""
    params = [member.param for member in members]
    return np.array([p.numel() * (1 + p.is_complex()) for p in params], np.int64)
