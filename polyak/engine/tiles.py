"""The functions of a kernel over tensors of many small matrices.

Eight matrices at a time are *turned* (:mod:`.turns`): for each place of a matrix there
is a vector of what all of them have there. So the loops over rows and columns compute
with whole vectors, however short these are. Where a kernel knows how short, there are
no loops, and all of it stays in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from torch import fx

from ..extent import Extent
from .body import Body, Place, Writer
from .code import Code
from .formats import Format, plain
from .interludes import Interlude, interlude_function
from .loops import at_number
from .passes import Pass, Passes, extent_of
from .phases import ANY, LANES, MOST_NUMBERS, TILE, Phases, is_total
from .turns import turn, turn_function

__all__ = ["tile_functions"]


def tile_functions(body: Body, phases: Phases) -> Iterator[str]:
    """Those that a kernel has for each phase, as others have for each pass."""
    formats = {body.formats[role].name: body.formats[role] for role in body.roles}
    for format in formats.values():
        yield from (_copy_function(format, body, way) for way in ("in", "out"))
    if phases.matrix == ANY:
        yield from (turn_function(body.real, way) for way in ("in", "out"))
    for index, within in enumerate(phases.within):
        tile = _Tile.of(body, phases, within)
        yield _tile_function(tile, index)
        yield _phase_function(body, tile, index)
        yield interlude_function(body, index)


@dataclass(frozen=True)
class _Tile(Body):
    """What the functions of a phase have in common; ``passes`` are those within it."""

    phases: Phases | None = None

    @classmethod
    def of(cls, body: Body, phases: Phases, within: Passes) -> _Tile:
        """The same body for a phase."""
        vector = plain(f"<{LANES} x {body.real}>", body.itemsize)
        formats = dict.fromkeys(body.roles, vector)
        alike = body.roles, body.real, body.maximize, body.prefix
        return cls(body.graph, within, formats, *alike, phases)

    @property
    def outer(self) -> Phases:
        """What the kernel does."""
        assert self.phases is not None
        return self.phases

    @property
    def given(self) -> list[str]:
        roles = [f"%role{index}" for index, _ in enumerate(self.roles)]
        return [f"ptr noalias {name}" for name in (*roles, *self.memory)]

    @property
    def memory(self) -> list[str]:
        """The addresses that are given beside those of tensors."""
        kept = [f"%kept{index}" for index, _ in enumerate(self.outer.buffers)]
        parts = [f"%part{index}" for index, _ in enumerate(self.outer.parts)]
        return ["%values", *kept, *parts]

    def role(self, name: str) -> str:
        """Where a tensor's numbers are, turned."""
        return f"%room{self.roles.index(name)}"

    def kept(self, node: fx.Node) -> str:
        """The address of what the phase computes, or a former one has."""
        if node in self.passes.kept:
            return f"%local{self.passes.buffer(node)}"
        return f"%kept{self.outer.buffer(node)}"

    def part(self, node: fx.Node) -> str:
        return f"%part{self.outer.parts.index(node)}"

    def totals(self) -> list[fx.Node]:
        """The sums over everything, of which the phase finds parts."""
        return [node for node in self.passes.kept if is_total(node)]

    def read(self, stored: Iterable[str]) -> list[str]:
        """The tensors that are read, if these are stored."""
        passes = self.passes.passes
        nodes = [x for each in passes for x in (*each.numbers, *each.sums)]
        nodes += [x for each in passes for group in each.after for x in group]
        used: set[object] = {x for node in nodes for x in node.all_input_nodes}
        used |= {self.graph.outputs[name] for name in stored}
        return [name for name, node in self.graph.tensors.items() if node in used]


class _OfTile(Interlude):
    """Loops over a vector's matrices."""

    def __init__(self, tile: _Tile, code: Code) -> None:
        super().__init__(Writer(tile, code, LANES))
        self._rows, self._columns = tile.outer.matrix

    def size(self, extent: Extent) -> str:
        """How many values of an extent a matrix has."""
        return self.code.multiply(*self._sides(extent))

    def _sides(self, extent: Extent) -> tuple[str, str]:
        rows = self._rows if extent & Extent.ROWS else "1"
        return rows, self._columns if extent & Extent.COLUMNS else "1"

    def each(
        self, extent: Extent, do: Callable[[Place], None], used: Iterable[fx.Node] = ()
    ) -> None:
        code = self.code

        def at(row: str, column: str) -> None:
            index = {Extent.ROW: row, Extent.COLUMN: column, Extent.MATRIX: "0"}
            index[Extent.NUMBER] = code.add(code.multiply(row, self._columns), column)
            place = {x: code.multiply(n, str(LANES)) for x, n in index.items()}
            do({**place, Extent.WHOLE: "0"})

        rows, columns = self._sides(extent)
        code.repeat(rows, lambda row: code.repeat(columns, partial(at, row)))

    def terms(self, node: fx.Node) -> str:
        (operand,) = node.all_input_nodes
        return self.size(extent_of(operand) & ~extent_of(node))

    def kept_along(self, node: fx.Node) -> Extent:
        """Each lane finds its part of a sum over everything."""
        return Extent.MATRIX if is_total(node) else extent_of(node)

    def end(self, node: fx.Node) -> None:
        if not is_total(node):  # or other matrices have parts of it
            super().end(node)

    def numbers(self, this: Pass) -> None:
        """A pass."""
        if not (this.sums or this.stored):
            return
        for node in this.sums:
            self.begin(node)

        def at(place: Place) -> None:
            values = at_number(this, self.writer, place)
            for node in this.sums:
                self.add(node, values.of(node.all_input_nodes[0]), place)

        self.each(Extent.NUMBER, at)
        for node in this.sums:
            self.end(node)


def _tile_function(tile: _Tile, index: int) -> str:
    """A phase of ``%count`` matrices, which lie one after another as reals."""
    code, lanes = Code(), str(LANES)
    loops = _OfTile(tile, code)
    writer, stored = loops.writer, tile.outer.passes[index].stored
    extents = {tile.role(role): tile.graph.extent(role) for role in tile.roles}
    extents |= {tile.kept(x[0]): extent_of(x[0]) for x in tile.passes.buffers}
    for name, extent in extents.items():
        size = loops.size(extent)
        most = int(size) if size.isdigit() else MOST_NUMBERS
        code.room(tile.real, most * LANES, name)
    zero = writer.number(0.0)
    totals = {node: code.variable(writer.real, zero) for node in tile.totals()}
    blocks = code.divide(code.add("%count", str(LANES - 1)), lanes)
    with code.loop("0", blocks) as block:
        first = code.multiply(block, lanes)

        def turned(names: Iterable[str], way: str) -> None:
            for name in names:
                size = loops.size(tile.graph.extent(name))
                at = f"%role{tile.roles.index(name)}"
                at = code.item(at, code.multiply(first, size), tile.itemsize)
                turn(code, tile.real, way, size, at, tile.role(name))

        turned(tile.read(stored), "in")
        for each in tile.passes.passes:
            loops.numbers(each)
            for group in each.after:
                if group[0] not in each.sums:
                    loops.run(group)
        loops.store()
        turned(stored, "out")
        left = code.emit(f"sub i64 %count, {first}")
        for node, total in totals.items():
            found = writer.of_first(left, writer.load(tile.kept(node)))
            writer.save(writer.plus(writer.load(total), found), total)
    one = Writer(tile, code)
    for node, total in totals.items():
        part, found = tile.part(node), writer.over_lanes(writer.load(total))
        one.save(one.plus(one.load(part), found), part)
    arguments = ["i64 %count", "i64 %rows", "i64 %columns", *tile.given]
    return code.function(f"tile{index}", arguments, small=True)


def _phase_function(body: Body, tile: _Tile, index: int) -> str:
    """A phase over the numbers ``%first`` to ``%last``, which are whole matrices.

    A tensor is copied, some matrices at a time, if it is stored otherwise than it is
    computed with, and at its end, if there are less than a vector takes.
    """
    code, stored = Code(), tile.outer.passes[index].stored
    read = tile.read(stored)
    used = [role for role in body.roles if role in read or role in stored]
    lines = {name: code.room(body.real, TILE) for name in used}
    for node in tile.totals():
        code.emit(f"store {body.real} 0.0, ptr {tile.part(node)}", void=True)
    size = code.multiply("%rows", "%columns")
    sizes = {Extent.NUMBER: size, Extent.ROW: "%rows", Extent.COLUMN: "%columns"}
    first, last = (code.divide(number, size) for number in ("%first", "%last"))
    blocks = code.divide(code.divide(str(TILE), size), str(LANES))
    most = code.multiply(blocks, str(LANES))
    past = code.add(last, code.emit(f"sub i64 {most}, 1"))
    tiles = code.divide(code.emit(f"sub i64 {past}, {first}"), most)
    with code.loop("0", tiles) as number:
        start = code.add(first, code.multiply(number, most))
        rest = code.emit(f"sub i64 {last}, {start}")
        is_last = code.emit(f"icmp ult i64 {rest}, {most}")
        count = code.emit(f"select i1 {is_last}, i64 {rest}, i64 {most}")
        over = code.emit(f"urem i64 {count}, {LANES}")
        is_odd = code.emit(f"icmp ne i64 {over}, 0")
        places, copied = {}, {}
        for name in used:
            format, each = body.formats[name], sizes[body.graph.extent(name)]
            at = code.multiply(start, each)
            places[name] = code.item(body.role(name), at, format.itemsize)
            copied[name] = is_odd if format.is_real(body.real) else "true"

        def copy(name: str, way: str) -> None:
            numbers = code.multiply(count, sizes[body.graph.extent(name)])
            given = f"i64 {numbers}, ptr {places[name]}, ptr {lines[name]}"
            with code.when(copied[name]):
                code.write(f"call void @{way}.{body.formats[name].name}({given})")

        for name in read:
            copy(name, "in")
        pointers = dict.fromkeys(body.roles, "null")
        for name in used:
            choice = f"i1 {copied[name]}, ptr {lines[name]}, ptr {places[name]}"
            pointers[name] = code.emit(f"select {choice}")
        given = [f"i64 {count}", "i64 %rows", "i64 %columns"]
        given += [f"ptr {pointer}" for pointer in (*pointers.values(), *tile.memory)]
        code.write(f"call void @tile{index}({', '.join(given)})")
        for name in stored:
            copy(name, "out")
    counts = ["i64 %first", "i64 %last", "i64 %rows", "i64 %columns"]
    parts = [f"ptr noalias %part{index}" for index, _ in enumerate(tile.outer.parts)]
    return code.function(f"pass{index}", [*counts, *body.given, *parts])


def _copy_function(format: Format, body: Body, way: str) -> str:
    """Copy numbers to where they are reals, or back."""
    code, real = Code(), body.real
    with code.loop("0", "%count") as number:
        at = code.item("%numbers", number, format.itemsize)
        in_line = code.item("%line", number, body.itemsize)
        if way == "in":
            value = format.load(code.emit, real, at)
            code.emit(f"store {real} {value}, ptr {in_line}", void=True)
        else:
            value = code.emit(f"load {real}, ptr {in_line}")
            format.store(code.emit, real, value, at)
    pointers = ["ptr noalias %numbers", "ptr noalias %line"]
    return code.function(f"{way}.{format.name}", ["i64 %count", *pointers])
