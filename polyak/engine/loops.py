"""The functions of a kernel: its passes over a tensor's numbers, and its interludes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import fx

from ..extent import Extent
from .body import Body, Place, Values, Writer
from .code import Code
from .operators import operator_name
from .passes import Pass, extent_of, is_reduction

__all__ = ["interlude_function", "pass_function"]

# Below so many columns, and with as many matrices, matrices are taken together.
_FEW = 16


def pass_function(body: Body, index: int) -> str:
    """A pass over the numbers ``%first`` to ``%last`` of a tensor."""
    this, code = body.passes.passes[index], Code()
    writer = Writer(body, code)
    if body.passes.has_rows:
        _with_rows(this, writer)
    else:
        sums = _Sums(this, writer)
        with code.loop("%first", "%last") as number:
            sums.add(_at_number(this, writer, {Extent.NUMBER: number}))
        sums.store_whole()
    counts = ["i64 %first", "i64 %last", "i64 %rows", "i64 %columns"]
    parts = [f"ptr noalias %part{index}" for index, _ in enumerate(body.passes.parts)]
    return _function(f"{body.prefix}pass{index}", [*counts, *body.given, *parts], code)


def _with_rows(this: Pass, writer: Writer) -> None:
    """The loops of a chunk, which begins and ends with a row."""
    code = writer.code
    size = code.multiply("%rows", "%columns")
    first, last = (code.divide(number, size) for number in ("%first", "%last"))
    whole = code.multiply(code.emit(f"sub i64 {last}, {first}"), size)
    count = code.emit("sub i64 %last, %first")
    is_whole = code.emit(f"icmp eq i64 {whole}, {count}")
    has_many = code.emit(f"icmp uge i64 {count}, {code.multiply(size, str(_FEW))}")
    is_narrow = code.emit(f"icmp ult i64 %columns, {_FEW}")
    by_matrices = code.emit(f"and i1 {is_narrow}, {has_many}")
    by_matrices = code.emit(f"and i1 {by_matrices}, {is_whole}")
    sums = _Sums(this, writer)
    with code.when(by_matrices):
        _by_matrices(this, sums, first, last)
    with code.when(code.emit(f"xor i1 {by_matrices}, true")):
        _by_rows(this, sums)
    sums.store_whole()


def _by_matrices(this: Pass, sums: _Sums, first: str, last: str) -> None:
    """Many small matrices: the same place of all, then the next place.

    The filters of convolutions are such matrices; of 1 by 1, the loop is as fast as one
    that knows no rows.
    """
    writer, code = sums.writer, sums.writer.code
    size = code.multiply("%rows", "%columns")
    matrices = code.emit(f"sub i64 {last}, {first}")
    sums.clear_columns(code.multiply(matrices, "%columns"))
    rows = code.multiply(first, "%rows"), code.multiply(last, "%rows")
    sums.clear_rows(*rows)
    with code.loop("0", "%rows") as i, code.loop("0", "%columns") as j:
        place_in_matrix = code.add(code.multiply(i, "%columns"), j)
        with code.loop(first, last) as matrix:
            row = code.add(code.multiply(matrix, "%rows"), i)
            place = {
                Extent.NUMBER: code.add(code.multiply(matrix, size), place_in_matrix),
                Extent.ROW: row,
                Extent.COLUMN: code.add(code.multiply(matrix, "%columns"), j),
                Extent.MATRIX: matrix,
            }
            since = code.emit(f"sub i64 {matrix}, {first}")
            column = code.add(code.multiply(since, "%columns"), j)
            sums.add(_at_number(this, writer, place), column, row)
    sums.end_rows(*rows)


def _by_rows(this: Pass, sums: _Sums) -> None:
    """One row after another."""
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
            sums.add(_at_number(this, writer, place), code.add(parts, column))
        sums.store_row(row)


def _at_number(this: Pass, writer: Writer, place: Place) -> Values:
    """Compute at one number, and store what is to be stored."""
    values = Values(writer, {**place, Extent.WHOLE: "0"})
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

    def clear_rows(self, first: str, last: str) -> None:
        """Begin the sums of rows where they will be kept."""
        self._in_rows(first, last, lambda at: self.writer.number(0.0))

    def add(self, values: Values, column: str = "0", row: str = "") -> None:
        """Add what is at a number.

        Args:
            values: what is there.
            column: where the chunk's parts have its column.
            row: its row, if rows are not added up one after another.
        """
        addresses = {**self._so_far, **self._of_row}
        for node in self._along[Extent.COLUMN]:
            addresses[node] = self.writer.at(self.body.part(node), column)
        for node in self._along[Extent.ROW] if row else ():
            addresses[node] = self.writer.at(self.body.kept(node), row)
        for node, address in addresses.items():
            value = values.of(node.all_input_nodes[0])
            total = self.writer.plus(self.writer.load(address), value)
            self.writer.save(total, address)

    def end_rows(self, first: str, last: str) -> None:
        """The sums of rows are where they are kept; make means of them."""
        self._in_rows(
            first,
            last,
            lambda at: self.writer.over_count(self.writer.load(at), "%columns"),
            only="mean",
        )

    def _in_rows(
        self, first: str, last: str, value: Callable[[str], str], only: str = ""
    ) -> None:
        nodes = [
            node
            for node in self._along[Extent.ROW]
            if only in ("", operator_name(node.target))
        ]
        if nodes:
            with self.writer.code.loop(first, last) as row:
                for node in nodes:
                    at = self.writer.at(self.body.kept(node), row)
                    self.writer.save(value(at), at)

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


class _Interlude:
    """What is computed between passes."""

    def __init__(self, writer: Writer) -> None:
        self.writer, self.body, self.code = writer, writer.body, writer.code

    def run(self, group: Sequence[fx.Node]) -> None:
        """Compute a reduction, or nodes that extend alike in one loop."""
        node = group[0]
        if not is_reduction(node):
            self._elementwise(group)
        elif extent_of(node.all_input_nodes[0]) is not Extent.NUMBER:
            self._reduce(node)
        elif extent_of(node) is Extent.COLUMN:
            self._gather_columns(node)
        elif extent_of(node) is Extent.WHOLE:
            self._gather_whole(node)

    def _elementwise(self, group: Sequence[fx.Node]) -> None:
        with self.writer.over(extent_of(group[0])) as place:
            values = Values(self.writer, place)
            for node in group:
                values.compute(node)
            for node in group:
                if node in self.body.passes.kept:
                    values.keep(node)

    def _reduce(self, node: fx.Node) -> None:
        """A sum of what is no larger than rows or columns."""
        (operand,) = node.all_input_nodes
        extent, writer = extent_of(operand), self.writer
        if extent_of(node) is Extent.WHOLE:
            total = self._zero()
            with writer.over(extent) as place:
                self._add(total, Values(writer, place).of(operand))
            count = self._count(extent)
            self._save_sum(node, total, count, "0")
            return
        count = "%rows" if extent is Extent.ROW else "%columns"
        with writer.over(Extent.MATRIX) as place:
            total = self._zero()
            before = self.code.multiply(place[Extent.MATRIX], count)
            with self.code.loop("0", count) as index:
                here = {**place, extent: self.code.add(before, index)}
                self._add(total, Values(writer, here).of(operand))
            self._save_sum(node, total, count, place[Extent.MATRIX])

    def _count(self, extent: Extent) -> str:
        """How many values of an extent a tensor has."""
        divisors = {
            Extent.ROW: ["%columns"],
            Extent.COLUMN: ["%rows"],
            Extent.MATRIX: ["%rows", "%columns"],
        }
        count = "%length"
        for divisor in divisors[extent]:
            count = self.code.divide(count, divisor)
        return count

    def _gather_whole(self, node: fx.Node) -> None:
        """The sum of the parts that the chunks have found, in their order."""
        code, writer = self.code, self.writer
        total = code.variable("double", "0.0")
        with code.loop("0", "%pieces") as piece:
            value = writer.load(self._part(node, piece))
            if writer.real == "float":
                value = code.emit(f"fpext float {value} to double")
            so_far = code.emit(f"load double, ptr {total}")
            after = code.emit(f"fadd double {so_far}, {value}")
            code.emit(f"store double {after}, ptr {total}", void=True)
        found = code.emit(f"load double, ptr {total}")
        if writer.real == "float":
            found = code.emit(f"fptrunc double {found} to float")
        result = code.variable(writer.real, found)
        self._save_sum(node, result, "%length", "0")

    def _gather_columns(self, node: fx.Node) -> None:
        code, writer, kept = self.code, self.writer, self.body.kept(node)
        columns = self._count(Extent.COLUMN)
        with code.loop("0", columns) as column:
            writer.save(writer.number(0.0), writer.at(kept, column))
        with code.loop("0", "%pieces") as piece:
            first, width = self._columns_of(piece)
            part = self._part(node, piece, width)
            with code.loop("0", width) as index:
                at = writer.at(kept, code.add(first, index))
                value = writer.load(writer.at(part, index))
                writer.save(writer.plus(writer.load(at), value), at)
        if operator_name(node.target) == "mean":
            with code.loop("0", columns) as column:
                at = writer.at(kept, column)
                writer.save(writer.over_count(writer.load(at), "%rows"), at)

    def _columns_of(self, piece: str) -> tuple[str, str]:
        """The first column that a chunk has, and how many there are."""
        code = self.code
        first, count = (
            code.emit(f"load i64, ptr {code.item(base, piece, 8)}")
            for base in ("%firsts", "%counts")
        )
        size = code.multiply("%rows", "%columns")
        end = code.emit(f"sub i64 {code.add(first, count)}, 1")
        first_matrix, last_matrix = code.divide(first, size), code.divide(end, size)
        matrices = code.emit(f"sub i64 {last_matrix}, {first_matrix}")
        return (
            code.multiply(first_matrix, "%columns"),
            code.multiply(code.add(matrices, "1"), "%columns"),
        )

    def _part(self, node: fx.Node, piece: str, width: str = "1") -> str:
        """The address of a chunk's part of a sum."""
        parts = self.body.passes.parts
        whole = sum(extent_of(other) is Extent.WHOLE for other in parts)
        base = self.code.emit(f"load ptr, ptr {self.code.item('%parts', piece, 8)}")
        place = parts.index(node)
        if extent_of(node) is Extent.WHOLE:
            return self.writer.at(base, str(place))
        before = self.code.multiply(str(place - whole), width)
        return self.writer.at(base, self.code.add(str(whole), before))

    def _zero(self) -> str:
        return self.code.variable(self.writer.real, self.writer.number(0.0))

    def _add(self, total: str, value: str) -> None:
        self.writer.save(self.writer.plus(self.writer.load(total), value), total)

    def _save_sum(self, node: fx.Node, total: str, count: str, index: str) -> None:
        value = self.writer.load(total)
        if operator_name(node.target) == "mean":
            value = self.writer.over_count(value, count)
        self.writer.save(value, self.writer.at(self.body.kept(node), index))


def interlude_function(body: Body, index: int) -> str:
    """What is computed of a tensor of ``%length`` numbers after a pass.

    Its ``%pieces`` chunks begin at ``%firsts`` and have ``%counts`` numbers, and their
    parts of the sums are at ``%parts``.
    """
    code = Code()
    writer = Writer(body, code)
    for group in body.passes.passes[index].after:
        _Interlude(writer).run(group)
    if index == len(body.passes.passes) - 1:
        for extent in (Extent.ROW, Extent.COLUMN):
            small = [
                name for name in body.passes.small if body.graph.extent(name) is extent
            ]
            if small:
                with writer.over(extent) as place:
                    Values(writer, place).store(small)
    counts = ["i64 %length", "i64 %rows", "i64 %columns", "i64 %pieces"]
    chunks = ["ptr %firsts", "ptr %counts", "ptr %parts"]
    return _function(
        f"{body.prefix}after{index}", [*counts, *chunks, *body.given], code
    )


def _function(name: str, arguments: Sequence[str], code: Code) -> str:
    return (
        f"define internal void @{name}({', '.join(arguments)}) #0 {{\n"
        f"entry:\n{code.text}\n  ret void\n}}\n"
    )
