"""What the programs of one launch do together, where a kernel makes several passes.

Programs draw tickets; a ticket is a unit of work, a pass over a chunk. A pass waits
until the one before it has ended, and that one's units have lower tickets: whoever
waits, waits for programs that run already, and of these the one with the lowest ticket
does not wait. No more is asked of the device than that a program which has begun goes
on.

A program's stores come before the barrier, and the barrier before the atomic operation
that releases them; loads follow an acquiring one and its barrier. What another program
wrote is loaded past the cache of one's own processor (``.cg``).

The counters are 0 between launches: whoever needs one last puts it back. A graph that
is replayed so finds what it found before.

Triton's interpreter runs one program after another, in order: there, whoever had to
wait would wait for ever.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "add_up",
    "added",
    "arrived",
    "chunk_of",
    "drawn",
    "matrices_of",
    "released",
    "spot",
    "steps_of",
    "tile_at",
    "wait",
]


@triton.jit
def drawn(counters):
    """A ticket: how many programs have drawn one before."""
    ticket = tl.atomic_add(counters, 1, sem="relaxed")
    if ticket == tl.num_programs(0) - 1:
        tl.store(counters, 0)
    return ticket.to(tl.int64)


if triton.knobs.runtime.interpret:

    def wait(done, index):
        """Fail where the pass before has not ended."""
        if tl.load(done) < index:
            raise RuntimeError(f"pass {index} begins before the one before has ended")

else:

    @triton.jit
    def wait(done, index):
        """Wait until so many passes have ended; see what was written in them."""
        while tl.load(done, volatile=True) < index:
            pass
        while tl.atomic_add(done, 0, sem="acquire") < index:
            pass


@triton.jit
def arrived(left, pieces):
    """Whether all other chunks are through; what they have written is seen then."""
    tl.debug_barrier()
    is_last = pieces == 1
    if pieces > 1:
        is_last = tl.atomic_add(left, 1, sem="acq_rel") == pieces - 1
        if is_last:
            tl.store(left, 0)
    return is_last


@triton.jit
def released(done, ended, pieces):
    """So many passes have ended, with their interludes; 0 after the last."""
    tl.debug_barrier()
    if pieces > 1:
        tl.atomic_xchg(done, ended, sem="release")


# What the table has of a tensor's shape is in `frame.SHAPES`; what it has of a unit,
# after the tensor and the passes, is which piece of the matrices, rows and columns.


@triton.jit
def chunk_of(shape, unit, tensors):
    """A chunk: first and last matrix, row and column, and where its parts are."""
    matrices = tl.load(shape)
    rows = tl.load(shape + tensors)
    columns = tl.load(shape + 2 * tensors)
    matrix_piece = tl.load(unit + 3)
    row_piece = tl.load(unit + 4)
    column_piece = tl.load(unit + 5)
    first_matrix = matrix_piece * tl.load(shape + 3 * tensors)
    first_row = row_piece * tl.load(shape + 4 * tensors)
    first_column = column_piece * tl.load(shape + 5 * tensors)
    last_matrix = tl.minimum(first_matrix + tl.load(shape + 3 * tensors), matrices)
    last_row = tl.minimum(first_row + tl.load(shape + 4 * tensors), rows)
    last_column = tl.minimum(first_column + tl.load(shape + 5 * tensors), columns)
    piece = matrix_piece * tl.load(shape + 6 * tensors) + row_piece
    piece = piece * tl.load(shape + 7 * tensors) + column_piece
    return (
        (first_matrix, last_matrix, first_row, last_row, first_column, last_column),
        column_piece * matrices * rows,
        row_piece * matrices * columns,
        piece,
    )


@triton.jit
def matrices_of(shape, unit, tensors):
    """The first and the last matrix of a chunk of whole ones, or of the tensor."""
    last = tl.load(shape)
    first = last * 0
    if (tl.load(shape + 6 * tensors) == 1) & (tl.load(shape + 7 * tensors) == 1):
        span = tl.load(shape + 3 * tensors)
        first = tl.load(unit + 3) * span
        last = tl.minimum(first + span, last)
    return first, last


# A tile, as constants: what rows and addresses are multiples of, along what a chunk has
# several (0: matrices, 1: rows, 2: columns), and its matrices, rows and columns.


@triton.jit
def steps_of(box, TILE: tl.constexpr):
    """How many tiles a chunk has: first and last matrix, row, column."""
    if TILE[1] == 0:
        steps = tl.cdiv(box[1] - box[0], TILE[2])
    elif TILE[1] == 1:
        steps = tl.cdiv(box[3] - box[2], TILE[3])
    else:
        steps = tl.cdiv(box[5] - box[4], TILE[4])
    return steps


@triton.jit
def tile_at(step, rows, columns, box, TILE: tl.constexpr):
    """The indices of a tile's numbers, rows, columns and matrices, and their masks."""
    first_matrix, last_matrix, first_row, last_row, first_column, last_column = box
    columns = columns // TILE[0] * TILE[0]
    first_column = first_column // TILE[0] * TILE[0]
    last_column = last_column // TILE[0] * TILE[0]
    if TILE[1] == 0:
        first_matrix += step * TILE[2]
    elif TILE[1] == 1:
        first_row += step * TILE[3]
    else:
        first_column += step * TILE[4]
    matrix = first_matrix + tl.arange(0, TILE[2])[:, None, None]
    row = first_row + tl.arange(0, TILE[3])[None, :, None]
    column = first_column + tl.arange(0, TILE[4])[None, None, :]
    keep_matrix = matrix < last_matrix
    keep_row = keep_matrix & (row < last_row)
    keep_column = keep_matrix & (column < last_column)
    row = matrix * rows + row
    number = row * columns + column
    column = matrix * columns + column
    keep = keep_row & keep_column
    return number, row, column, matrix, keep, keep_row, keep_column, keep_matrix


@triton.jit
def spot(base, number, TILE: tl.constexpr):
    """The addresses of a tile's numbers: in accesses of 16 bytes, if they may be."""
    return tl.multiple_of(base + number, (1, 1, TILE[0]))


@triton.jit
def added(total, x, keep, goes_on: tl.constexpr):
    """A sum with one term more, or a sum that begins."""
    x = tl.where(keep, x, 0.0)
    if goes_on:
        x = total + x
    return x


@triton.jit
def add_up(
    source, result, first, last, stride, terms, step, divisor,
    REAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums of ``terms`` numbers each, ``step`` apart, over ``divisor``.

    The n-th begins at ``source + n * stride``, for all n from ``first`` to ``last``.
    """
    if last - first < 32:
        _add_up(
            source, result, first, last, stride, terms, step, divisor,
            REAL, BLOCK // 8, 4,
        )  # fmt: skip
    else:
        _add_up(
            source, result, first, last, stride, terms, step, divisor,
            REAL, 4, BLOCK // 8,
        )  # fmt: skip
    tl.debug_barrier()


@triton.jit
def _add_up(
    source, result, first, last, stride, terms, step, divisor,
    REAL: tl.constexpr, TERMS: tl.constexpr, RESULTS: tl.constexpr,
):  # fmt: skip
    for start in range(first, last, RESULTS):
        place = start + tl.arange(0, RESULTS)
        total = tl.zeros((TERMS, RESULTS), REAL)
        for begin in range(0, terms, TERMS):
            term = begin + tl.arange(0, TERMS)
            at = source + (place * stride)[None, :] + (term * step)[:, None]
            keep = (place < last)[None, :] & (term < terms)[:, None]
            x = tl.load(at, mask=keep, other=0.0, cache_modifier=".cg")
            total += x.to(REAL)
        found = tl.sum(total, 0)
        if tl.float32 == REAL:
            found = tl.div_rn(found, tl.zeros_like(found) + divisor)
        else:
            found = found / divisor
        tl.store(result + place, found, mask=place < last)
