"""The rows of scalars of a bucket: what its kernel takes besides tensors.

A row is made of the hyperparameters of a group and of the numbers in the state of its
parameters. Native code evaluates all rows at once (:mod:`.evaluation`); Python does
where that cannot, and where leaves want the scalars.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..schema import Schema
from .evaluation import EXACT, may_be_ints
from .reading import Reading
from .scalars import number_slots
from .survey import Numbers
from .table import Table

__all__ = ["Row", "Rows"]

_KINDS = {torch.float64: ctypes.c_double, torch.float32: ctypes.c_float}


@dataclass(eq=False)
class Row:
    """The hyperparameters of a row, and the scalars that Python has made of them."""

    hyperparameters: Numbers
    scalars: Numbers = ()


class Rows:
    """The rows of scalars in a table.

    Args:
        table: what they are in; their arrays are made here.
        reading: the rule's graph and scalar program.
        schema: the rule.
        dtypes: of the numbers that a parameter's state has, the step counter last.
        most: how many rows there will be at first.
        real: the type of the scalars.
    """

    _evaluate: Callable[[int], int] | None = None
    _evaluator: int | None = None

    def __init__(
        self,
        table: Table,
        reading: Reading,
        schema: Schema,
        dtypes: Sequence[torch.dtype],
        most: int,
        real: np.dtype[Any],
    ) -> None:
        self._table, self._reading, self._schema = table, reading, schema
        self._kinds = tuple(_KINDS[dtype] for dtype in dtypes)
        self._rows: list[Row] = []
        self._is_plain = False  # no arithmetic on ints alone, without limits in Python
        self._prepared_for: Numbers | None = None  # where no number of the state counts
        self._real = real
        graph = reading.graph
        slots, injected = len(number_slots(graph)), len(schema.injected)
        before = slots + schema.wants_step + injected
        inputs = list(graph.hyperparameters.values())
        hyperparameters = inputs[before:]
        self._may_be_int = may_be_ints(graph, inputs[:before], hyperparameters)
        self._sizes = (
            len(dtypes),
            injected,
            len(hyperparameters),
            len(graph.arguments()),
        )
        # Of which columns of the arrays the inputs of the program are.
        counters = [slots] * schema.wants_step
        self._columns = range(slots), counters, range(injected), range(self._sizes[2])
        table.set(arguments=self._sizes[3])
        self._make_room(most)

    def _make_room(self, most: int) -> None:
        """Have arrays for so many rows."""
        table, (numbers, injected, given, arguments) = self._table, self._sizes
        self._most = most
        arrays = [
            table.array("expected", np.zeros((most, numbers))),
            table.array("updated", np.zeros((most, numbers))),
            table.array("injected", np.zeros((1, injected))),
            table.array("given", np.zeros((most, given))),
            table.array("values", np.zeros((most, arguments), self._real)),
        ]
        # Where each input of the program is, and how far from there that of a next row.
        inputs = [
            (array.ctypes.data + 8 * column, array.shape[1] if len(array) > 1 else 0)
            for array, own in zip(arrays, self._columns, strict=False)
            for column in own
        ]
        table.array("inputs", np.array(inputs, np.int64).reshape(-1, 2).T)
        # ctypes writes a number in a tenth of numpy's time, and makes infinite what
        # float32 cannot hold, without a warning.
        self._expected, self._updated, (self._injected,), self._given, self._values = (
            list(np.ctypeslib.as_ctypes(array)) for array in arrays
        )
        self._ends = arrays[0].ctypes.data, arrays[1].ctypes.data

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def evaluate_with(self, address: int) -> None:
        """Have native code evaluate them.

        Args:
            address: of a function that is given the table's, and answers 0, or 1 where
                Python must do it.
        """
        prototype = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
        self._evaluator, self._evaluate = address, prototype(address)

    def evaluator(self) -> int | None:
        """The address of that; or 0 where Python has evaluated all for good; or None.

        It is for steps that inject nothing.
        """
        if self._is_plain:
            return self._evaluator
        return 0 if self._prepared_for == () else None

    def assign(self, made_of: Sequence[tuple[Numbers, Numbers]]) -> None:
        """Use a row for each of these hyperparameters and numbers of the state."""
        if len(made_of) > self._most:
            self._make_room(2 * len(made_of))
        if len(made_of) != len(self._rows):
            self._table.set(rows=len(made_of))
        self._rows = [Row(hyperparameters) for hyperparameters, _ in made_of]
        self._prepared_for = None
        for index, (_, state) in enumerate(made_of):
            self._expected[index][:] = state
        able = self._evaluate is not None
        self._is_plain = able and all(map(self._are_floats, self._rows))
        if self._is_plain:
            for index, row in enumerate(self._rows):
                self._given[index][:] = row.hyperparameters

    def reassign(self, hyperparameters: Mapping[int, Numbers]) -> None:
        """Give rows others, in which floats have taken the place of floats."""
        self._prepared_for = None
        for index, numbers in hyperparameters.items():
            self._rows[index].hyperparameters = numbers
            if self._is_plain:
                self._given[index][:] = numbers

    def _are_floats(self, row: Row) -> bool:
        """Whether the hyperparameters are floats, or ints that may stand for floats."""
        if {*map(type, row.hyperparameters)} == {float}:
            return True
        given = zip(self._may_be_int, row.hyperparameters, strict=True)
        return all(
            type(value) is float
            or (may_be_int and type(value) is int and abs(value) < EXACT)
            for may_be_int, value in given
        )

    def state(self, row: int) -> Numbers:
        """The numbers of the state as they are now, of the parameters of a row."""
        return tuple(self._expected[row])

    def prepare(self, injected: Numbers) -> bool:
        """Evaluate them; False if the rule would branch otherwise.

        Args:
            injected: the numbers of the step itself.
        """
        if injected == self._prepared_for:
            return True
        if not (self._evaluated(injected) or self._evaluate_in_python(injected)):
            return False
        if not self._kinds:
            self._prepared_for = injected
        return True

    def _evaluated(self, injected: Numbers) -> bool:
        if self._evaluate is None or not self._is_plain:
            return False
        if injected:
            self._injected[:] = injected
        return not self._evaluate(self._table.address)

    def _evaluate_in_python(self, injected: Numbers) -> bool:
        for index, row in enumerate(self._rows):
            state = self.state(index)
            evaluated = self._reading.program.evaluate(
                *self._schema.inputs(row.hyperparameters, state, injected)
            )
            if evaluated is None:
                return False
            row.scalars, new = evaluated
            if self._schema.counts_steps:
                new = (*new, state[-1] + 1)
            self._values[index][:] = row.scalars
            self._updated[index][:] = [  # as their tensors will hold them
                kind(x).value for kind, x in zip(self._kinds, new, strict=True)
            ]
        return True

    def advance(self) -> None:
        """The numbers of the state are what they became."""
        if self._kinds:
            size = 8 * len(self._kinds) * len(self._rows)
            ctypes.memmove(*self._ends, size)
