"""The phases of a kernel over a tensor of many small matrices.

The filters of convolutions are such matrices: so small that some of them fit into the
nearest cache together. Sums of rows, of columns and of matrices are then known as soon
as these have been read, and only sums over the whole tensor divide a step. What lies
between two of those is a *phase*. It makes all its passes over some matrices before
the next ones are read.

Nothing but sums over everything, and what is made of them alone, is kept from one phase
to the next: all else is computed anew, for it is as large as the tensor, or nearly so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import fx

from ..extent import Extent
from .graph import Graph
from .passes import (
    Pass,
    Passes,
    changed,
    extent_of,
    grouped,
    is_constant,
    is_reduction,
    needed,
    scheduled,
)

__all__ = [
    "ANY",
    "LANES",
    "MOST_NUMBERS",
    "TILE",
    "Matrix",
    "Phases",
    "is_total",
    "many",
    "matrix_of",
    "phases",
]

LANES = 8  # matrices that are computed with at once
TILE = 2048  # numbers of a tensor that are copied at a time, where they are copied

# What small matrices are, by measurement: others are faster row by row.
MOST_NUMBERS = 128
MOST_COLUMNS = 31

# Numbers of a matrix whose rows and columns a kernel is made for. Such kernels have no
# loops over them, and compile faster than the one for all others.
MOST_KNOWN = 16

# Rows and columns, as a kernel's code has them: as numbers, if it knows them.
Matrix = tuple[str, str]
ANY: Matrix = ("%rows", "%columns")


@dataclass(frozen=True)
class Phases(Passes):
    """How a kernel goes over a tensor, each pass being a phase.

    Attributes:
        within: the passes over some matrices that a phase consists of.
        matrix: the rows and columns.
    """

    within: list[Passes] = field(default_factory=list)
    matrix: Matrix = ANY

    @property
    def needs_matrices(self) -> bool:
        """They have."""
        return True


def phases(graph: Graph, matrix: Matrix) -> Phases:
    """Say what is computed in which phase, and what between them."""
    outputs = changed(graph)
    nodes = needed(graph, outputs.values())
    rank: dict[fx.Node, int] = {}  # how many phases must have ended
    for node in nodes:
        before = max((rank.get(x, 0) for x in node.all_input_nodes), default=0)
        rank[node] = before + is_total(node)
    last = max(rank.values(), default=0)
    wholes = {
        node: max(rank[node], 1)
        for node in nodes
        if last and extent_of(node) is Extent.WHOLE and not is_constant(node)
    }
    passes, within = [], []
    for index in range(last + 1):
        after = [node for node in wholes if wholes[node] == index + 1]
        totals = [node for node in after if is_total(node)]
        stored = outputs if index == last else {}
        known = [node for node in wholes if wholes[node] <= index]
        passes.append(Pass(totals, list(stored), [], grouped(after)))
        within.append(scheduled(graph, stored, known, totals))
    kept, buffers = list(wholes), [[node] for node in wholes]
    return Phases(passes, kept, buffers, [], True, within, matrix)


def is_total(node: fx.Node) -> bool:
    """Whether a node is a sum or a mean of everything."""
    return is_reduction(node) and extent_of(node) is Extent.WHOLE


def matrix_of(shape: Sequence[int], reals: int = 1) -> Matrix | None:
    """The matrices of a parameter, if it has many small ones.

    Args:
        shape: the parameter's.
        reals: how many a number consists of.
    """
    *before, rows, columns = shape
    columns *= reals
    size = rows * columns
    is_small = 0 < size <= MOST_NUMBERS and columns <= MOST_COLUMNS
    if not is_small or math.prod(before) < LANES:
        return None
    return (str(rows), str(columns)) if size <= MOST_KNOWN else ANY


def many(matrix: Matrix) -> str:
    """The matrices that are taken together, for people."""
    rows, columns = matrix
    return f"{LANES} matrices" + f" of {rows} by {columns}" * (matrix != ANY)
