"""The table in device memory: which tensors, where, and with which scalars.

One vector of 64-bit words. Of each tensor, in columns: its length, the addresses of the
parameter, the slots and the gradient, and its row of scalars; then the rows of scalars
themselves; then what the programs do, such as the map of chunks. Lengths, addresses of
what is updated and the programs' work stay as they are; the rest, which lies between
them, changes from step to step.

What changed is copied from page-locked memory on the current stream, and nobody waits.
Each copy has a block of its own, which torch does not give away again before the copy
is done: a step that the device has not reached yet keeps what it was given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["DeviceTable"]

Words = npt.NDArray[np.int64]

_NEAR = 8192  # words


class DeviceTable:
    """The words on the device, and what the host knows them to be.

    Args:
        lengths: real numbers of each tensor.
        addresses: by role and tensor, without the gradients.
        rows: bytes of the rows of scalars, all together.
        work: what the programs do, in words.
        inputs: words that follow it, for the program of scalars.
        device: where.

    Attributes:
        words: the vector on the device.
        tensors: how many.
        work_at: where the words begin that say what the programs do.
        inputs_at: where the words of the program of scalars begin.
        beside: other memory on the device that launches use.
    """

    def __init__(
        self,
        lengths: Words,
        addresses: Words,
        rows: int,
        work: Words,
        inputs: int,
        device: torch.device,
    ) -> None:
        self.tensors, self.device = len(lengths), device
        self._gradients_at = (1 + len(addresses)) * self.tensors
        self._rows_at = self._gradients_at + self.tensors
        self._values_at = self._rows_at + self.tensors
        self.work_at = self._values_at + -(-rows // 8)
        self.inputs_at = self.work_at + work.size
        self._host = np.zeros(self.inputs_at + inputs, np.int64)
        self._host[: self.tensors] = lengths
        self._host[self.tensors : self._gradients_at] = addresses.ravel()
        self._host[self.work_at : self.inputs_at] = work.ravel()
        self.words = torch.empty(len(self._host), dtype=torch.int64, device=device)
        self.beside: list[Tensor] = []
        self._stale: list[slice] = [slice(0, len(self._host))]
        self._streams = {_stream(device)}
        self._spare: Tensor | None = None

    def gradients(self, addresses: Words) -> None:
        """Where the gradients are now."""
        self._put(self._gradients_at, addresses)

    def rows(self, rows: Words) -> None:
        """Which row of scalars serves each tensor."""
        self._put(self._rows_at, rows)

    def values(self, values: npt.NDArray[np.floating]) -> None:
        """The rows of scalars."""
        words = np.zeros(-(-values.nbytes // 8), np.int64)
        words.view(np.uint8)[: values.nbytes] = values.ravel().view(np.uint8)
        self._put(self._values_at, words)

    def inputs(self, words: Words, at: int = 0) -> None:
        """Words for the program of scalars, from the given one on."""
        self._put(self.inputs_at + at, words)

    def _put(self, at: int, words: Words) -> None:
        part = slice(at, at + len(words))
        if not np.array_equal(self._host[part], words):
            self._host[part] = words
            self._stale.append(part)

    def upload(self, *, again: bool = False) -> None:
        """Send what changed to the device, after all that its stream has to do.

        Args:
            again: what changes from step to step is sent even if it did not change: a
                graph that was replayed may have written it.
        """
        if self._spare is None:  # none can be had while a graph captures
            words = self._host[self._gradients_at : self._values_at]
            self._spare = _page_locked(words, self.device)
        if again:
            self._stale.append(slice(self._gradients_at, self._values_at))
        for part in _joined(self._stale):
            self._copy(part)
        self._stale.clear()
        stream = _stream(self.device)
        if stream not in self._streams and stream is not None:
            for memory in (self.words, *self.beside):
                memory.record_stream(stream)
            self._streams.add(stream)

    def capture(self) -> Tensor:
        """Let a graph send where the gradients are, whenever it is replayed.

        Returns:
            The memory that it will read, to be kept as long as the graph.

        Raises:
            RuntimeError: something else changed too, and is not on the device yet: the
                graph would repeat it for ever.
        """
        moving = slice(self._gradients_at, self._values_at)
        if any(p.start < moving.start or p.stop > moving.stop for p in self._stale):
            raise RuntimeError(
                "a hyperparameter was changed right before a CUDA graph captures the "
                "step: call optimizer.refresh() after the change, before the capture"
            )
        self._stale.clear()
        source, self._spare = self._spare, None
        if source is None:
            raise RuntimeError(
                "two CUDA graphs capture a step with no step between them: do one"
            )
        source.numpy()[:] = self._host[moving]
        self.words[moving].copy_(source, non_blocking=True)
        return source

    def _copy(self, part: slice) -> None:
        source = _page_locked(self._host[part], self.device)
        self.words[part].copy_(source, non_blocking=True)


def _joined(parts: Sequence[slice]) -> list[slice]:
    """The slices in order; those that are near are one: a copy costs its launch."""
    joined: list[slice] = []
    for part in sorted(parts, key=lambda part: part.start):
        if joined and part.start <= joined[-1].stop + _NEAR:
            stop = max(joined[-1].stop, part.stop)
            joined[-1] = slice(joined[-1].start, stop)
        else:
            joined.append(part)
    return joined


def _page_locked(words: Words, device: torch.device) -> Tensor:
    source = torch.empty(
        len(words), dtype=torch.int64, device="cpu", pin_memory=device.type != "cpu"
    )
    source.numpy()[:] = words
    return source


def _stream(device: torch.device) -> torch.Stream | None:
    if device.type == "cpu":
        return None
    return torch.get_device_module(device).current_stream(device)  # type: ignore[no-any-return]
