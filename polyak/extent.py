"""Along what the tensors of a rule extend, when some dimensions may be summed up.

Rows and columns are the last two dimensions of a parameter; what comes before counts
its matrices. A vector is one row.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

__all__ = ["Extent"]


class Extent(enum.Flag):
    """For what there is a value each: a set of directions.

    An operation on several tensors extends along all that its operands do:

    >>> Extent.ROW | Extent.COLUMN is Extent.NUMBER
    True
    """

    WHOLE = 0
    ROWS = enum.auto()
    COLUMNS = enum.auto()
    MATRICES = enum.auto()
    MATRIX = MATRICES
    ROW = ROWS | MATRICES
    COLUMN = COLUMNS | MATRICES
    NUMBER = ROWS | COLUMNS | MATRICES

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape, for a parameter of ``shape``, with 1 where nothing extends.

        >>> Extent.ROW.shape((2, 3, 4))
        (2, 3, 1)
        """
        if self is Extent.WHOLE:
            return ()
        sizes = list(shape)
        for place, direction in ((-1, Extent.COLUMNS), (-2, Extent.ROWS)):
            if not self & direction and len(sizes) >= -place:
                sizes[place] = 1
        return tuple(sizes)

    def __str__(self) -> str:
        names = {
            Extent.NUMBER: "number",
            Extent.ROW: "row",
            Extent.COLUMN: "column",
            Extent.MATRIX: "matrix",
            Extent.WHOLE: "tensor",
        }
        return names.get(self, "dimension")
