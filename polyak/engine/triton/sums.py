"""The source of a kernel with sums: its passes and interludes, and who does them.

Each pass is a function over the tiles of a chunk; see :mod:`..passes`. A tile has
matrices, rows and columns. A chunk is a strip of tiles along one of these, so that what
is summed up along the strip stays in registers, and the rest is known tile by tile;
each chunk writes its part of a sum.

The interlude has two functions. ``own`` is for values of rows, columns and matrices: if
a chunk has whole matrices, its own program does theirs. ``all`` begins with the first
value of the whole tensor, and is done by whoever comes last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import fx

from ...extent import Extent
from ..operators import operator_name
from ..passes import Passes, extent_of, is_reduction
from .body import Body, Place, Spot, Values
from .frame import Calls, Frame
from .text import called, indented, shared

__all__ = ["functions_with_sums"]

_WHOLE = {Extent.WHOLE: Spot("{}", None)}
_TILE: Place = {
    **_WHOLE,
    Extent.NUMBER: Spot("spot({}, number, TILE)", "keep"),
    Extent.ROW: Spot("{} + row", "keep_row"),
    Extent.COLUMN: Spot("{} + column", "keep_column"),
    Extent.MATRIX: Spot("{} + matrix", "keep_matrix"),
}
_SPOTS = "number, row, column, matrix, keep, keep_row, keep_column, keep_matrix"
_COUNTS = {
    Extent.ROW: ("{} * rows", "rows"),
    Extent.COLUMN: ("{} * columns", "columns"),
    Extent.MATRIX: ("{}", ""),
}


def functions_with_sums(
    name: str, roles: Sequence[str], body: Body, passes: Passes
) -> list[list[str]]:
    """The functions of a kernel with sums, as lines, the kernel last.

    Args:
        name: the kernel's.
        roles: the tensors that it has.
        body: names and formats.
        passes: what is computed when.
    """
    frame = Frame(body, passes, roles)
    write = _Writer(frame)
    functions: list[list[str]] = []
    calls: list[Calls] = []
    for index, this in enumerate(passes.passes):
        is_last = index == len(passes.passes) - 1
        own, rest = _apart(passes, this.after)
        made = [
            frame.function(f"pass{index}", write.numbers(index), "TILE"),
            write.interlude(f"own{index}", own, is_last and not rest, whole=False),
            write.interlude(f"all{index}", rest, is_last and bool(rest), whole=True),
        ]
        functions += [lines for lines, _ in made if lines]
        calls.append(Calls(*(call for _, call in made)))
    return [*functions, frame.kernel(name, calls)]


def _apart(
    passes: Passes, after: list[list[fx.Node]]
) -> tuple[list[list[fx.Node]], list[list[fx.Node]]]:
    """The groups of an interlude that belong to matrices, and the others.

    The former are computed first. So one that needs one of the latter is of these, too,
    and one whose memory these still use.
    """
    own: list[list[fx.Node]] = []
    rest: list[list[fx.Node]] = []
    late, busy = set[fx.Node](), set[int]()
    for group in after:
        used = {x for node in group for x in node.all_input_nodes}
        made = {passes.buffer(node) for node in group if node in passes.kept}
        if extent_of(group[0]) is Extent.WHOLE or used & late or made & busy:
            rest.append(group)
            late.update(group)
            busy |= made | {passes.buffer(x) for x in used if x in passes.kept}
        else:
            own.append(group)
    return own, rest


class _Writer:
    """Writes the functions.

    Args:
        frame: what they find their memory with.
    """

    def __init__(self, frame: Frame) -> None:
        self.frame, self.sums = frame, frame.sums
        self.body, self.passes = frame.body, frame.passes

    def _kept(self, node: fx.Node) -> tuple[str, str]:
        """The address of what is kept, and the value's name."""
        word = operator_name(node.target) if is_reduction(node) else "y"
        number = self.passes.kept.index(node)
        return f"kept{self.passes.buffer(node)}", f"{word}{number}"

    def _values(
        self, place: Place, used: Iterable[fx.Node], shared: set[fx.Node]
    ) -> Values:
        """The values at a place, where what is used is loaded."""
        values, used = Values(self.body, place, shared), set(used)
        values.load(used)
        for node in self.passes.kept:
            if node in used:
                values.load_kept(node, *self._kept(node))
        return values

    # A pass

    def numbers(self, index: int) -> list[str]:
        """The pass over the numbers of a chunk."""
        this, graph = self.passes.passes[index], self.body.graph
        operands = [node.all_input_nodes[0] for node in this.sums]
        results = _nodes(graph.outputs[name] for name in this.stored)
        own = set(this.numbers)
        used = {x for node in this.numbers for x in node.all_input_nodes}
        used = {*used, *operands, *results} - own
        values = self._values(
            _TILE, used, shared([*operands, *results], own.__contains__)
        )
        begin, add, end = [], [], []
        for node, operand in zip(this.sums, operands, strict=True):
            lines = self._sum(node, values.text(operand))
            begin.append(lines[0])
            add += lines[1:2] if extent_of(node) is Extent.WHOLE else lines[1:]
            end += lines[2:] if extent_of(node) is Extent.WHOLE else []
        stores = [values.store(name) for name in this.stored]
        if not (this.sums or stores):
            return []
        loop = [
            f"{_SPOTS} = (",
            "    tile_at(turn, rows, columns, box, TILE)",
            ")",
            *values.loads,
            *values.write.lines,
            *add,
            *stores,
        ]
        head = [*values.once, *begin, "steps = steps_of(box, TILE)"]
        return [*head, "for turn in range(0, steps):", *indented(loop), *end]

    def _sum(self, node: fx.Node, term: str) -> list[str]:
        """Lines that begin a sum, add to it, and store a chunk's part of it."""
        number, extent = self.sums.index(node), extent_of(node)
        total, part = f"total{number}", f"part{number}"
        zero = f"{total} = tl.zeros((TILE[2], TILE[3], TILE[4]), tl.{self.body.real})"
        if extent is Extent.WHOLE:
            return [
                zero,
                f"{total} = added({total}, {term}, keep, True)",
                f"tl.store({part} + of_all, tl.sum({total}))",
            ]
        name = "row" if extent is Extent.ROW else "column"
        along, axis = (2, 2) if extent is Extent.ROW else (1, 1)
        known = f"tl.sum({total}, {axis}, keep_dims=True)"
        store = f"tl.store({part} + of_{name} + {name}, {known}, mask=keep_{name})"
        return [
            zero,
            f"{total} = added({total}, {term}, keep, TILE[1] == {along})",
            f"if TILE[1] != {along} or turn == steps - 1:",
            f"    {store}",
        ]

    # An interlude

    def interlude(
        self, name: str, groups: list[list[fx.Node]], stores: bool, *, whole: bool
    ) -> tuple[list[str], list[str]]:
        """A function that computes groups of values, and its call.

        Args:
            name: the function's.
            groups: what to compute, in order.
            stores: whether state of rows and columns is stored in the end.
            whole: for all matrices, not for some of them.
        """
        ends = ("0", "matrices") if whole else ("from_matrix", "to_matrix")
        lines = []
        for group in groups:
            if is_reduction(group[0]):
                lines += self._reduction(group[0], ends)
            else:
                lines += self._elementwise(group, ends)
        for extent in (Extent.ROW, Extent.COLUMN) if stores else ():
            graph = self.body.graph
            names = [n for n in self.passes.small if graph.extent(n) is extent]
            if names:
                lines += self._stores(names, extent, ends)
        return self.frame.function(name, lines, "BLOCK")

    def _reduction(self, node: fx.Node, ends: Sequence[str]) -> list[str]:
        """A sum of the parts that chunks have found, or of values that are kept."""
        (operand,) = node.all_input_nodes
        inner, outer = extent_of(operand), extent_of(node)
        kept, _ = self._kept(node)
        begin, end = ("0", "1") if outer is Extent.WHOLE else _range(outer, ends)
        stride, step = "1", "1"
        if inner is Extent.NUMBER:
            number = self.sums.index(node)
            source = f"part{number}"
            terms, step, divisor = {
                Extent.ROW: ("column_pieces", "matrices * rows", "columns"),
                Extent.COLUMN: ("row_pieces", "matrices * columns", "rows"),
                Extent.WHOLE: ("pieces", "1", "matrices * rows * columns"),
            }[outer]
        else:
            source = self._source(operand)
            of_all, of_matrix = _COUNTS[inner]
            terms = of_all.format("matrices") if outer is Extent.WHOLE else of_matrix
            stride, divisor = terms, terms
        if operator_name(node.target) == "sum":
            divisor = "1"
        given = [source, kept, begin, end, stride, terms, step, divisor]
        return called("add_up", [*given, f"tl.{self.body.real}", "BLOCK"])

    def _source(self, node: fx.Node) -> str:
        for name, known in self.body.graph.tensors.items():
            if known is node:
                return f"{self.body.names[name]}_at"
        return self._kept(node)[0]

    def _elementwise(self, group: list[fx.Node], ends: Sequence[str]) -> list[str]:
        own, extent = set(group), extent_of(group[0])
        kept = [node for node in group if node in self.passes.kept]
        used = {x for node in group for x in node.all_input_nodes} - own
        place = _place(extent, used)
        values = self._values(place, used, shared(kept, own.__contains__))
        stores = [values.keep(node, self._kept(node)[0]) for node in kept]
        return self._loop(values, stores, extent, ends)

    def _stores(
        self, names: list[str], extent: Extent, ends: Sequence[str]
    ) -> list[str]:
        used = _nodes(self.body.graph.outputs[name] for name in names)
        values = self._values(_place(extent, used), used, set())
        return self._loop(values, [*map(values.store, names)], extent, ends)

    def _loop(
        self, values: Values, stores: list[str], extent: Extent, ends: Sequence[str]
    ) -> list[str]:
        """A loop over all values of an extent."""
        lines = [*values.write.lines, *stores]
        if extent is Extent.WHOLE:
            return [*values.once, *lines, "tl.debug_barrier()"]
        begin, end = _range(extent, ends)
        body = [
            "place = start + tl.arange(0, BLOCK)",
            f"keep = place < {end}",
            *values.loads,
            *lines,
        ]
        head = f"for start in range({begin}, {end}, BLOCK):"
        return [*values.once, head, *indented(body), "tl.debug_barrier()"]


def _nodes(values: Iterable[object]) -> list[fx.Node]:
    return [value for value in values if isinstance(value, fx.Node)]


def _range(extent: Extent, ends: Sequence[str]) -> tuple[str, str]:
    """The first value of an extent and the one past the last, for some matrices."""
    count, _ = _COUNTS[extent]
    begin, end = ("0" if x == "0" else count.format(x) for x in ends)
    return begin, end


def _place(extent: Extent, used: Iterable[fx.Node]) -> Place:
    """Where values are in a loop over those of an extent."""
    if extent is Extent.WHOLE:
        return _WHOLE
    _, each = _COUNTS[extent]
    place = {**_WHOLE, extent: Spot("{} + place", "keep")}
    if each:
        place[Extent.MATRIX] = Spot(f"{{}} + place // {each}", "keep")
    return place
