"""The work of a kernel of one pass: each program has a chunk of a tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .source import Stored
from .table import DeviceTable

__all__ = ["ACCESS", "WARPS", "Chunks", "block_of", "chunk_length", "chunk_map"]

Words = npt.NDArray[np.int64]

WARPS, ACCESS = 4, 16  # bytes, the widest that there is

_PROGRAMS = 1 << 14  # many times what a device runs at once: the last ones are few
_LEAST, _MOST = 1024, 1 << 16


def block_of(formats: Mapping[str, Stored]) -> int:
    """Numbers that a program has in hand at a time.

    A thread has one access to the narrowest tensor.
    """
    narrowest = min(stored.itemsize for stored in formats.values())
    return 32 * WARPS * ACCESS // narrowest


class Chunks:
    """The map of chunks: (tensor, first number) each.

    Where a rule has leaves, each has a place in their memory besides.

    Args:
        lengths: real numbers of each tensor.
        formats: the storage of each role.
        places: which number of the leaves' memory is the first one of each tensor.

    Attributes:
        words: what the table has to hold.
        programs: how many there are.
        beside: other memory on the device: none.
    """

    def __init__(
        self,
        lengths: Words,
        formats: Mapping[str, Stored],
        places: Words | None = None,
    ) -> None:
        at_once = lengths.sum() if places is None else (places + lengths).max(initial=0)
        self._chunk = chunk_length(int(at_once))
        self._block = block_of(formats)
        self.words = chunk_map(lengths, self._chunk)
        ends = np.arange(len(lengths) + 1)
        self._chunk_at = np.searchsorted(self.words[:, 0], ends).tolist()
        if places is not None:
            place = places[self.words[:, 0]] + self.words[:, 1]
            self.words = np.column_stack([self.words, place])
        self.programs, self._record = self.words.shape
        self.beside: list[Tensor] = []

    def launch(
        self,
        kernel: Any,
        table: DeviceTable,
        skip: Tensor | None,
        rooms: Sequence[Tensor] = (),
        columns: tuple[int, int] | None = None,
    ) -> None:
        """Launch the kernel.

        Args:
            kernel: it.
            table: what it works off.
            skip: unless that is 0, it does nothing.
            rooms: the leaves' memory.
            columns: the tensors to do, from the first to before the last, if not all.
        """
        first, last = columns or (0, len(self._chunk_at) - 1)
        first, last = self._chunk_at[first], self._chunk_at[last]
        if last > first:
            kernel[(last - first,)](
                table.words,
                skip,
                *rooms,
                table.tensors,
                table.work_at + self._record * first,
                self._chunk,
                BLOCK=self._block,
                num_warps=WARPS,
                enable_fp_fusion=True,
            )


def chunk_length(numbers: int) -> int:
    """Numbers of a chunk: large where there are many, but enough of chunks."""
    length = _LEAST
    while length < _MOST and numbers > 2 * length * _PROGRAMS:
        length *= 2
    return length


def chunk_map(lengths: Words, chunk: int) -> Words:
    """Records of (tensor, first number), in order."""
    counts = -(-lengths // chunk)
    tensors = np.repeat(np.arange(len(lengths)), counts)
    firsts = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([tensors, firsts * chunk], axis=1).astype(np.int64)
