"""The work of a kernel with sums: units, in the order of the tickets, and memory.

A unit is a pass over a chunk, or all passes over a tensor that is one chunk. The passes
over a tensor do not follow each other at once: what lies between them gives the
interlude its time, while the tensor's numbers may still be in the cache.

Memory for sums, and for what is made of them between passes, is on the device and kept
from step to step: of a large matrix some numbers a row and a column, and as many for
each strip of its chunks; a sixtieth of the matrix, or less.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from ...extent import Extent
from ..passes import extent_of
from .chunks import ACCESS
from .frame import SHAPES, summed
from .source import TritonKernel
from .table import DeviceTable
from .tiles import tiling

__all__ = ["WARPS", "Units", "block_of"]

Words = npt.NDArray[np.int64]

WARPS = 8  # one program does an interlude
LAG = 1 << 22  # numbers between two passes over one tensor, at least, where there are


def block_of(real: np.dtype[Any]) -> int:
    """Numbers that a program has in hand at a time.

    A thread has one access to what is computed in; with two, of half precision, sums of
    rows and columns would not fit its registers.
    """
    return 32 * WARPS * ACCESS // real.itemsize


class Units:
    """The units of a bucket, and the memory that its programs share.

    Args:
        kernel: what they run.
        sizes: numbers, rows and columns of each tensor.
        device: where the memory is to be.

    Attributes:
        words: what the table has to hold.
        programs: how many there are.
        beside: the memory on the device.
    """

    def __init__(
        self, kernel: TritonKernel, sizes: Words, device: torch.device
    ) -> None:
        self._block, passes = block_of(kernel.real), kernel.passes
        lengths, rows, columns = sizes
        matrices = lengths // np.maximum(1, rows * columns)
        cuts = [
            tiling(self._block, *shape, has_rows=passes.has_rows)
            for shape in zip(
                *(np.maximum(1, x).tolist() for x in (matrices, rows, columns)),
                strict=True,
            )
        ]
        spans, pieces = (np.array([cut[i] for cut in cuts], np.int64).T for i in (1, 2))
        pieces = pieces * (lengths > 0)
        tiles = [(cut.tile, cut.tile._replace(align=1)) for cut in cuts]
        self.tiles = tuple(sorted({tile for pair in tiles for tile in pair}))
        number = {tile: index for index, tile in enumerate(self.tiles)}
        chosen = np.array([[number[tile] for tile in pair] for pair in tiles]).T
        shapes = {
            **dict(zip(SHAPES[:3], (matrices, rows, columns), strict=True)),
            **dict(zip(SHAPES[3:6], spans, strict=True)),
            "row_pieces": pieces[1],
            "column_pieces": pieces[2],
            "pieces": pieces.prod(0),
            **dict(zip(SHAPES[9:], chosen, strict=True)),
        }
        places, total = _places(kernel, shapes)
        columns_of = np.stack([*(shapes[name] for name in SHAPES), *places])
        units = _units(lengths, pieces, len(passes.passes))
        self._units_at = columns_of.size
        self.words = np.concatenate([columns_of.ravel(), units.ravel()])
        self.programs = len(units)
        real = getattr(torch, kernel.real.name)
        self._memory = torch.empty(max(1, total), dtype=real, device=device)
        # The next ticket; of each tensor the chunks that are through, and the passes.
        self._counters = torch.zeros(
            1 + 2 * len(lengths), dtype=torch.int32, device=device
        )
        self.beside = [self._memory, self._counters]

    def launch(self, kernel: Any, table: DeviceTable, skip: Tensor | None) -> None:
        """Launch the kernel."""
        kernel[(self.programs,)](
            table.words,
            skip,
            self._counters,
            self._memory,
            table.tensors,
            table.work_at,
            table.work_at + self._units_at,
            BLOCK=self._block,
            TILES=self.tiles,
            num_warps=WARPS,
            enable_fp_fusion=True,
        )


def _places(
    kernel: TritonKernel, shapes: Mapping[str, Words]
) -> tuple[list[Words], int]:
    """Where the buffers and the parts of each tensor are, and how long all are."""
    passes = kernel.passes
    of_extent = {
        Extent.ROW: shapes["matrices"] * shapes["rows"],
        Extent.COLUMN: shapes["matrices"] * shapes["columns"],
        Extent.MATRIX: shapes["matrices"],
        Extent.WHOLE: np.ones_like(shapes["matrices"]),
    }
    strips = {
        Extent.ROW: shapes["column_pieces"],
        Extent.COLUMN: shapes["row_pieces"],
        Extent.WHOLE: shapes["pieces"],
    }
    owners = [nodes[0] for nodes in passes.buffers]
    sizes = [of_extent[extent_of(node)] for node in owners]
    sums = summed(passes)
    for node in sums:
        extent = extent_of(node)
        size = strips[extent] * of_extent[extent]
        # The sum of a row that one chunk has is known, and goes where it is kept.
        sizes.append(np.where(_in_place(node, shapes), 0, size))
    ends = np.cumsum(np.stack(sizes).T.ravel())
    starts = (ends - np.stack(sizes).T.ravel()).reshape(-1, len(sizes)).T
    places = [*starts]
    for index, node in enumerate(sums, len(owners)):
        kept = places[passes.buffer(node)]
        places[index] = np.where(_in_place(node, shapes), kept, places[index])
    return places, int(ends[-1])


def _in_place(node: fx.Node, shapes: Mapping[str, Words]) -> npt.NDArray[np.bool_]:
    is_row = extent_of(node) is Extent.ROW
    return (shapes["column_pieces"] <= 1) & is_row


def _units(lengths: Words, pieces: Words, passes: int) -> Words:
    """Records of (tensor, first pass, past the last, and which piece), in order."""
    counts = pieces.prod(0)
    tensors = np.repeat(np.arange(len(lengths)), counts)
    index = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    _, rows, columns = pieces[:, tensors]
    starts = (np.cumsum(lengths) - lengths)[tensors]
    matrix, rest = np.divmod(index, rows * columns)
    place = np.stack([matrix, *np.divmod(rest, columns)])
    shared = np.flatnonzero(counts[tensors] > 1)
    alone = np.flatnonzero(counts[tensors] == 1)
    records, order = [], []
    for which, first, last in [
        (alone, 0, passes),
        *((shared, index, index + 1) for index in range(passes)),
    ]:
        ends = np.broadcast_to([[first], [last]], (2, len(which)))
        records.append(np.concatenate([tensors[None, which], ends, place[:, which]]))
        order.append(starts[which] + first * LAG)
    turns = np.argsort(np.concatenate(order), kind="stable")
    return np.concatenate(records, axis=1).T[turns].astype(np.int64)
