"""Tiles: what a program of a kernel with sums has in hand at a time.

A tensor is so many matrices of rows and columns. No one shape of a tile suits the
filters of a convolution, an embedding, and a vector that is one long row: there are a
few, all of as many numbers, and a tensor gets the one with which it has the fewest. A
kernel is compiled for the shapes that its bucket has.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

__all__ = ["Tile", "Tiling", "tiling"]

MATRICES, ROWS, COLUMNS = range(3)

# A chunk has so many tiles, and more where the tensor has many.
LEAST, MOST = 8, 64
_CHUNKS = 512

_WIDE = 128  # columns, which one warp has: their sum needs no other


class Tile(NamedTuple):
    """A tile, as a kernel is compiled for it.

    Attributes:
        align: what columns are multiples of, and addresses, in bytes; 1 if nothing.
        along: the direction in which a chunk has several.
        matrices, rows, columns: how many it has.
    """

    align: int
    along: int
    matrices: int
    rows: int
    columns: int


class Tiling(NamedTuple):
    """How a tensor is cut into chunks.

    Attributes:
        tile: what chunks are made of.
        spans: matrices, rows and columns of a chunk.
        pieces: how many chunks there are in each direction.
    """

    tile: Tile
    spans: tuple[int, int, int]
    pieces: tuple[int, int, int]


@functools.lru_cache(maxsize=4096)
def tiling(
    block: int, matrices: int, rows: int, columns: int, *, has_rows: bool
) -> Tiling:
    """How a tensor of this shape is cut.

    Args:
        block: numbers of a tile.
        matrices: of the tensor.
        rows: of a matrix.
        columns: of a matrix.
        has_rows: whether they are told apart.
    """
    sizes = matrices, rows, columns
    shapes = [(1, 1, block)]
    if has_rows:
        shapes = [(1, block // width, width) for width in (_WIDE, 64, 16, 4)] + shapes
        shapes += [(block // 16, 4, 4), (block // 256, 16, 16)]
        shapes += [(block // 64, 1, 64), (block, 1, 1)]
    fitting = [
        shape
        for shape in shapes
        if (columns <= shape[2] or shape[2] >= _WIDE)
        and (rows <= shape[1] or shape[0] == 1)
    ]
    shape = min(fitting, key=lambda shape: _product(_tiles(sizes, shape)))
    count = _tiles(sizes, shape)
    if rows <= shape[1] and columns <= shape[2] and count[MATRICES] > 1:
        along = MATRICES
    elif rows <= shape[1] and (columns > shape[2] or shape[1] == 1):
        along = COLUMNS
    else:
        along = ROWS
    each = min(max(_product(count) // _CHUNKS, LEAST), MOST)
    pieces = [*count]
    pieces[along] = -(-count[along] // each)
    if along != MATRICES:
        pieces[MATRICES] = matrices if shape[MATRICES] == 1 else 1
    spans = [*shape]
    spans[along] *= -(-count[along] // pieces[along])
    pieces[along] = -(-sizes[along] // spans[along])
    align = 16 if shape[2] >= 64 and columns % 16 == 0 else 1
    tile = Tile(align, along, *shape)
    return Tiling(
        tile, (spans[0], spans[1], spans[2]), (pieces[0], pieces[1], pieces[2])
    )


def _tiles(
    sizes: tuple[int, int, int], shape: tuple[int, int, int]
) -> tuple[int, int, int]:
    counts = [-(-size // each) for size, each in zip(sizes, shape, strict=True)]
    return counts[0], counts[1], counts[2]


def _product(counts: tuple[int, int, int]) -> int:
    return counts[0] * counts[1] * counts[2]
