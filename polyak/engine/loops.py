"""The passes of a kernel over the numbers of a tensor."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from ..extent import Extent
from .body import Body, Place, Values, Writer
from .code import Code
from .formats import Format
from .operators import operator_name
from .passes import Pass, extent_of

__all__ = ["at_number", "pass_function"]


def pass_function(body: Body, index: int) -> str:
    """A pass over the numbers ``%first`` to ``%last`` of a tensor."""
    this, code = body.passes.passes[index], Code()
    writer = Writer(body, code)
    sums = _Sums(this, writer)
    if body.passes.has_rows:
        _by_rows(this, sums)
    else:
        begin = _packed(this, body, code) if body.passes.is_single else "%first"
        with code.loop(begin, "%last") as number:
            sums.add(at_number(this, writer, {Extent.NUMBER: number}))
    sums.store_whole()
    counts = ["i64 %first", "i64 %last", "i64 %rows", "i64 %columns"]
    parts = [f"ptr noalias %part{index}" for index, _ in enumerate(body.passes.parts)]
    return code.function(f"{body.prefix}pass{index}", [*counts, *body.given, *parts])


def _packed(this: Pass, body: Body, code: Code) -> str:
    """Compute with several numbers at once where all tensors allow it; what is left."""
    found = {body.formats[role].packed for role in body.roles}
    (packed, *others) = found
    if packed is None or others:
        return "%first"
    lanes = packed.lanes
    vector = Format("", body.formats["grad"].itemsize, packed.load, packed.store)
    whole = replace(body, formats=dict.fromkeys(body.roles, vector))
    writer = Writer(whole, code, lanes)
    count = code.emit("sub i64 %last, %first")
    blocks = code.divide(count, str(lanes))
    with code.loop("0", blocks) as block:
        number = code.add("%first", code.multiply(block, str(lanes)))
        at_number(this, writer, {Extent.NUMBER: number})
    return code.add("%first", code.multiply(blocks, str(lanes)))


def _by_rows(this: Pass, sums: _Sums) -> None:
    """One row after another, of a chunk that begins and ends with a row."""
    writer, code = sums.writer, sums.writer.code
    first, last = (code.divide(number, "%columns") for number in ("%first", "%last"))
    first_matrix = code.divide(first, "%rows")
    past = code.divide(code.emit(f"sub i64 {last}, 1"), "%rows")
    matrices = code.add(code.emit(f"sub i64 {past}, {first_matrix}"), "1")
    sums.clear_columns(code.multiply(matrices, "%columns"))
    with code.loop(first, last) as row:
        matrix = code.divide(row, "%rows")
        of_chunk = code.emit(f"sub i64 {matrix}, {first_matrix}")
        numbers, columns, parts = (
            code.multiply(count, "%columns") for count in (row, matrix, of_chunk)
        )
        sums.begin_row()
        with code.loop("0", "%columns") as column:
            place = {
                Extent.NUMBER: code.add(numbers, column),
                Extent.ROW: row,
                Extent.COLUMN: code.add(columns, column),
                Extent.MATRIX: matrix,
            }
            sums.add(at_number(this, writer, place), code.add(parts, column))
        sums.store_row(row)


def at_number(this: Pass, writer: Writer, place: Place) -> Values:
    """Compute at one number, and store what is to be stored."""
    values = Values(writer, {**place, Extent.WHOLE: "0"})
    # Loads come first, and in one order: the compiler fuses products and sums by the
    # order in which it meets their operands, and so a rule rounds alike in all kernels.
    used = {x for node in (*this.numbers, *this.sums) for x in node.all_input_nodes}
    graph = writer.body.graph
    results = [graph.outputs[name] for name in this.stored]
    for node in graph.tensors.values():
        if extent_of(node) is Extent.NUMBER and (node in used or node in results):
            values.of(node)
    for node in this.numbers:
        values.compute(node)
    values.store(this.stored)
    return values


class _Sums:
    """What a pass adds up."""

    def __init__(self, this: Pass, writer: Writer) -> None:
        self.writer, self.body = writer, writer.body
        self._along = {
            extent: [node for node in this.sums if extent_of(node) is extent]
            for extent in (Extent.WHOLE, Extent.ROW, Extent.COLUMN)
        }
        self._so_far = {node: self._zero() for node in self._along[Extent.WHOLE]}
        self._of_row: dict[fx.Node, str] = {}

    def _zero(self) -> str:
        return self.writer.code.variable(self.writer.real, self.writer.number(0.0))

    def clear_columns(self, count: str) -> None:
        """Begin the sums of ``count`` columns."""
        if not self._along[Extent.COLUMN]:
            return
        with self.writer.code.loop("0", count) as index:
            for node in self._along[Extent.COLUMN]:
                at = self.writer.at(self.body.part(node), index)
                self.writer.save(self.writer.number(0.0), at)

    def begin_row(self) -> None:
        """Begin the sums of a row."""
        self._of_row = {node: self._zero() for node in self._along[Extent.ROW]}

    def add(self, values: Values, column: str = "0") -> None:
        """Add what is at a number, whose column is there in the chunk's parts."""
        addresses = {**self._so_far, **self._of_row}
        for node in self._along[Extent.COLUMN]:
            addresses[node] = self.writer.at(self.body.part(node), column)
        for node, address in addresses.items():
            value = values.of(node.all_input_nodes[0])
            total = self.writer.plus(self.writer.load(address), value)
            self.writer.save(total, address)

    def store_row(self, row: str) -> None:
        """A row has ended: its sums, or means, are known."""
        for node in self._along[Extent.ROW]:
            value = self.writer.load(self._of_row[node])
            if operator_name(node.target) == "mean":
                value = self.writer.over_count(value, "%columns")
            self.writer.save(value, self.writer.at(self.body.kept(node), row))

    def store_whole(self) -> None:
        """The chunk has ended: its parts of the sums over everything are known."""
        for node in self._along[Extent.WHOLE]:
            value = self.writer.load(self._so_far[node])
            self.writer.save(value, self.body.part(node))
