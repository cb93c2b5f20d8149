"""The interludes of a kernel: what is computed of a tensor when a pass has ended."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from torch import fx

from ..extent import Extent
from .body import Body, Place, Values, Writer
from .code import Code
from .operators import operator_name
from .passes import extent_of, is_reduction

__all__ = ["Interlude", "interlude_function"]


def interlude_function(body: Body, index: int) -> str:
    """What is computed of a tensor of ``%length`` numbers after a pass.

    Its ``%pieces`` chunks begin at ``%firsts`` and have ``%counts`` numbers, and their
    parts of the sums are at ``%parts``.
    """
    code = Code()
    interlude = _OfTensor(Writer(body, code))
    this = body.passes.passes[index]
    for group in this.after:
        if group[0] in this.sums:
            interlude.gather(group[0])
        else:
            interlude.run(group)
    if index == len(body.passes.passes) - 1:
        interlude.store()
    counts = ["i64 %length", "i64 %rows", "i64 %columns", "i64 %pieces"]
    chunks = ["ptr %firsts", "ptr %counts", "ptr %parts"]
    return code.function(f"{body.prefix}after{index}", [*counts, *chunks, *body.given])


class Interlude(ABC):
    """Writes the loops over what extends along rows, columns or less."""

    def __init__(self, writer: Writer) -> None:
        self.writer, self.body, self.code = writer, writer.body, writer.code

    @abstractmethod
    def each(
        self, extent: Extent, do: Callable[[Place], None], used: Iterable[fx.Node] = ()
    ) -> None:
        """A loop over all values of an extent.

        Args:
            extent: along what the loop goes.
            do: writes its body.
            used: what the body uses. If nothing is a matrix's, matrices are not told
                apart.
        """

    @abstractmethod
    def terms(self, node: fx.Node) -> str:
        """How many terms a sum has."""

    def kept_along(self, node: fx.Node) -> Extent:
        """Along what a reduction is added up."""
        return extent_of(node)

    def run(self, group: Sequence[fx.Node]) -> None:
        """Compute a reduction, or nodes that extend alike in one loop."""
        node = group[0]
        if not is_reduction(node):
            self._elementwise(group)
            return
        (operand,) = node.all_input_nodes
        self.begin(node)
        self.each(extent_of(operand), partial(self._add, node), [node])
        self.end(node)

    def store(self) -> None:
        """Store what is returned and extends along rows or columns."""
        graph = self.body.graph
        for extent in (Extent.ROW, Extent.COLUMN):
            names = [n for n in self.body.passes.small if graph.extent(n) is extent]
            if names:
                values = [graph.outputs[name] for name in names]
                self.each(extent, partial(self._store, names), self._tensors(values))

    def _store(self, names: Sequence[str], place: Place) -> None:
        Values(self.writer, place).store(names)

    def _tensors(self, values: Iterable[object]) -> list[fx.Node]:
        """The values that are tensors."""
        nodes = [value for value in values if isinstance(value, fx.Node)]
        return [node for node in nodes if node not in self.body.graph.scalars]

    def _elementwise(self, group: Sequence[fx.Node]) -> None:
        def compute(place: Place) -> None:
            values = Values(self.writer, place)
            for node in group:
                values.compute(node)
            for node in group:
                if node in self.body.passes.kept:
                    values.keep(node)

        used = itertools.chain(*(node.all_input_nodes for node in group))
        self.each(extent_of(group[0]), compute, self._tensors(used))

    def _add(self, node: fx.Node, place: Place) -> None:
        (operand,) = node.all_input_nodes
        self.add(node, Values(self.writer, place).of(operand), place)

    def begin(self, node: fx.Node) -> None:
        """A sum is 0 where it is kept."""
        along, zero = self.kept_along(node), self.writer.number(0.0)
        self.each(along, lambda place: self.writer.save(zero, self._at(node, place)))

    def add(self, node: fx.Node, value: str, place: Place) -> None:
        """Add a term to a sum where it is kept."""
        at = self._at(node, place)
        self.writer.save(self.writer.plus(self.writer.load(at), value), at)

    def end(self, node: fx.Node) -> None:
        """A sum is known where it is kept; make a mean of it, if it is to be one."""
        writer, count = self.writer, self.terms(node)

        def divide(place: Place) -> None:
            at = self._at(node, place)
            writer.save(writer.over_count(writer.load(at), count), at)

        if operator_name(node.target) == "mean":
            self.each(self.kept_along(node), divide)

    def _at(self, node: fx.Node, place: Place) -> str:
        """Where a sum is kept."""
        return self.writer.at(self.body.kept(node), place[self.kept_along(node)])


class _OfTensor(Interlude):
    """Loops over a whole tensor; the sums of the pass are gathered from its chunks."""

    def each(
        self, extent: Extent, do: Callable[[Place], None], used: Iterable[fx.Node] = ()
    ) -> None:
        code, whole = self.code, {Extent.WHOLE: "0"}
        if extent is Extent.WHOLE:
            do(whole)
            return
        if extent is Extent.MATRIX or Extent.MATRIX not in map(extent_of, used):
            with code.loop("0", self._count(extent)) as index:
                do({**whole, extent: index})
            return
        count = "%rows" if extent is Extent.ROW else "%columns"
        with (
            code.loop("0", self._count(Extent.MATRIX)) as matrix,
            code.loop("0", count) as index,
        ):
            place = code.add(code.multiply(matrix, count), index)
            do({**whole, Extent.MATRIX: matrix, extent: place})

    def terms(self, node: fx.Node) -> str:
        (operand,) = node.all_input_nodes
        if extent_of(node) is Extent.WHOLE:
            return self._count(extent_of(operand))
        summed_up = extent_of(operand) & ~extent_of(node)
        return "%rows" if summed_up is Extent.ROWS else "%columns"

    def _count(self, extent: Extent) -> str:
        """How many values of an extent a tensor has."""
        count = "%length"
        for direction, divisor in (
            (Extent.ROWS, "%rows"),
            (Extent.COLUMNS, "%columns"),
        ):
            if not extent & direction:
                count = self.code.divide(count, divisor)
        return count

    def gather(self, node: fx.Node) -> None:
        """The sum of the parts that the chunks have found, in their order."""
        if extent_of(node) is Extent.COLUMN:
            self._gather_columns(node)
        elif extent_of(node) is Extent.WHOLE:
            self._gather_whole(node)

    def _gather_whole(self, node: fx.Node) -> None:
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
        writer.save(found, self.body.kept(node))
        self.end(node)

    def _gather_columns(self, node: fx.Node) -> None:
        code, writer, kept = self.code, self.writer, self.body.kept(node)
        self.begin(node)
        with code.loop("0", "%pieces") as piece:
            first, width = self._columns_of(piece)
            part = self._part(node, piece, width)
            with code.loop("0", width) as index:
                at = writer.at(kept, code.add(first, index))
                value = writer.load(writer.at(part, index))
                writer.save(writer.plus(writer.load(at), value), at)
        self.end(node)

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
