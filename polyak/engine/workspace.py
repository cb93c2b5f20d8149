"""What a kernel of several passes needs beside the tensors: units of work, and memory.

The memory is for sums, and for what is made of them between passes: some numbers a row
and a column. It is kept from step to step. Of a large matrix that is next to nothing.
Of many small ones, such as the filters of a convolution, it would be as much as the
parameter; their kernels keep sums over the whole tensor alone (:mod:`.phases`).

Where columns are summed up, a chunk has several rows, for it has its own part of each
sum: were the rows of a (4, 10_000_000) matrix shared out, the parts would take as much
as the matrix. So one thread does all of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .kernel import Kernel
from .table import Table

__all__ = ["lay_out"]


def lay_out(
    table: Table, kernel: Kernel, sizes: npt.NDArray[Any], chunks: npt.NDArray[Any]
) -> int:
    """Fill in what the table of such a kernel has more; the number of units.

    Args:
        table: has all else.
        kernel: what it is for.
        sizes: numbers, rows and columns of each tensor.
        chunks: the tensor, the first number and the count of each.
    """
    tensors, passes = sizes.shape[1], kernel.passes
    pieces = np.bincount(chunks[0], minlength=tensors)
    first_chunk = np.cumsum(pieces) - pieces
    size = np.maximum(1, sizes[1] * sizes[2])
    kept = [
        passes.memory(matrices, rows, columns)
        for matrices, rows, columns in zip(*(sizes[0] // size, *sizes[1:]), strict=True)
    ]
    of, first, count = chunks
    touched = (first + count - 1) // size[of] - first // size[of] + 1
    parts = [
        passes.memory_of_parts(matrices, columns)
        for matrices, columns in zip(touched, sizes[2][of], strict=True)
    ]
    memory = table.array("memory", np.zeros(sum(kept) + sum(parts), kernel.real))
    ends = memory.ctypes.data + memory.itemsize * np.cumsum([*kept, *parts])
    starts = ends - memory.itemsize * np.array([*kept, *parts], np.int64)
    units = _units(pieces, first_chunk, len(passes.passes))
    table.array("passes", units)
    table.array("extents", sizes)
    table.array("chunks_of", np.stack([first_chunk, pieces]))
    table.array("kept_at", starts[:tensors])
    table.array("parts_at", starts[tensors:])
    table.array("left", pieces)
    table.array("done", np.zeros(tensors, np.int64))
    return int(units.shape[1])


def _units(
    pieces: npt.NDArray[Any], first_chunk: npt.NDArray[Any], passes: int
) -> npt.NDArray[Any]:
    """Chunks and the pass over each, tensor by tensor: it may be in a cache still."""
    units = []
    for first, count in zip(first_chunk.tolist(), pieces.tolist(), strict=True):
        if count == 1:
            units.append((first, -1))
            continue
        chunks = range(first, first + count)
        units += [(chunk, index) for index in range(passes) for chunk in chunks]
    return np.array(units, np.int64).reshape(-1, 2).T.copy()
