"""The frame of a kernel with sums: who does what when, and where everything is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from torch import fx

from ..passes import Passes
from .body import Body
from .text import called, indented

__all__ = ["SHAPES", "Calls", "Frame", "summed"]

# What the table says of the shape of each tensor, before the places in memory; some of
# it is read by :mod:`.sharing`.
SHAPES = (
    *("matrices", "rows", "columns"),
    *("matrix_span", "row_span", "column_span"),
    *("row_pieces", "column_pieces", "pieces"),
    *("aligned_tile", "other_tile"),
)

# What functions are given: the rest is found with it.
_GIVEN = ("table", "entry", "shape", "unit", "memory", "tensors")


class Calls(NamedTuple):
    """The lines that call what is done for a pass; none where there is nothing to do.

    Attributes:
        numbers: the pass over a chunk.
        own: the interlude of matrices.
        rest: the interlude of the whole tensor.
    """

    numbers: list[str]
    own: list[str]
    rest: list[str]


def summed(passes: Passes) -> list[fx.Node]:
    """The sums of which a chunk finds a part."""
    return [node for each in passes.passes for node in each.sums]


class Frame:
    """What the functions of a kernel have around them.

    Each function begins by finding what its text names: what is found once for all
    would be in registers for as long as a program runs.

    Args:
        body: names and formats.
        passes: what is computed when.
        roles: the tensors that the kernel has.

    Attributes:
        sums: of which a chunk finds a part.
    """

    def __init__(self, body: Body, passes: Passes, roles: Sequence[str]) -> None:
        self.body, self.passes, self.sums = body, passes, summed(passes)
        self._meanings = _meanings(body, roles, len(passes.buffers), len(self.sums))

    def found(self, text: str) -> list[str]:
        """The lines that find what a text names."""
        lines: list[str] = []
        for names, meaning in reversed(self._meanings):
            if re.search(rf"\b({names.replace(', ', '|')})\b", text):
                lines.insert(0, f"{names} = {meaning}")
                text += meaning.partition("  #")[0]
        return lines

    def function(
        self, name: str, lines: list[str], constant: str
    ) -> tuple[list[str], list[str]]:
        """A function with these lines, and its call; nothing where there are none."""
        if not lines:
            return [], []
        lines = [*self.found("\n".join(lines)), *lines]
        text = "\n".join(lines)
        given = [word for word in _GIVEN if re.search(rf"\b{word}\b", text)]
        head = called(f"def {name}", [*given, f"{constant}: tl.constexpr"], ":")
        value = "TILES[kind]" if constant == "TILE" else constant
        return ["@triton.jit", *head, *indented(lines)], called(name, [*given, value])

    def kernel(self, name: str, calls: Sequence[Calls]) -> list[str]:
        """The kernel: which unit; then pass by pass."""
        turns = [line for index in range(len(calls)) for line in _turn(calls, index)]
        lines = [
            "if skip is not None:",
            "    if tl.load(skip) != 0:",
            "        return",
            "# which passes over which chunk of which tensor",
            "unit = table + units_at + 6 * drawn(counters)",
            "tensor = tl.load(unit)",
            "begin = tl.load(unit + 1)",
            "end = tl.load(unit + 2)",
            "entry = table + tensor",
            "shape = table + shapes_at + tensor",
            "left = counters + 1 + tensor",
            "done = left + tensors",
            *self.found("\n".join(turns)),
            *turns,
        ]
        head = '@triton.jit(do_not_specialize=["tensors", "shapes_at", "units_at"])'
        given = [
            "table",
            "skip",
            "counters",
            "memory",
            "tensors",
            "shapes_at",
            "units_at",
        ]
        given += ["BLOCK: tl.constexpr", "TILES: tl.constexpr"]
        return [head, *called(f"def {name}", given, ":"), *indented(lines)]


def _meanings(
    body: Body, roles: Sequence[str], buffers: int, parts: int
) -> list[tuple[str, str]]:
    """What the functions may name, and how it is found; in order."""
    made = [
        ("box, of_row, of_column, of_all", "chunk_of(shape, unit, tensors)"),
        ("from_matrix, to_matrix", "matrices_of(shape, unit, tensors)"),
    ]
    made += [
        (word, f"tl.load(shape + {index} * tensors)")
        for index, word in enumerate(SHAPES)
    ]
    made.append(("alone", "(row_pieces == 1) & (column_pieces == 1)"))
    names = [body.names[role] for role in roles]
    made += [
        (f"{name}_is", f"tl.load(entry + {index} * tensors)")
        for index, name in enumerate(names, 1)
    ]
    either = " | ".join(f"{name}_is" for name in names)
    made += [
        ("aligned", f"(({either}) & 15) == 0"),
        ("tile", "tl.where(aligned, aligned_tile, other_tile)"),
        *(
            (f"{name}_at", f"{name}_is.to(tl.pointer_type(tl.{body.formats[role]}))")
            for name, role in zip(names, roles, strict=True)
        ),
        ("row_of", f"tl.load(entry + {1 + len(roles)} * tensors)"),
        (
            "scalars",
            f"(table + {2 + len(roles)} * tensors).to(tl.pointer_type(tl.{body.real}))"
            f" + {len(body.scalars)} * row_of",
        ),
    ]
    for line in body.scalar_loads():
        name, _, meaning = line.partition(" = ")
        made.append((name, meaning))
    places = [f"kept{index}" for index in range(buffers)]
    places += [f"part{index}" for index in range(parts)]
    made += [
        (word, f"memory + tl.load(shape + {index} * tensors)")
        for index, word in enumerate(places, len(SHAPES))
    ]
    return made


def _turn(calls: Sequence[Calls], index: int) -> list[str]:
    """A pass, when the one before has ended, and what follows it."""
    numbers, own, rest = calls[index]
    lines = ["if pieces > 1:", f"    wait(done, {index})"] if index else []
    if numbers:
        lines += [
            "for kind in tl.static_range(len(TILES)):",
            "    if tile == kind:",
            *indented(indented(numbers)),
        ]
    if own:
        lines += [
            "mine = alone",
            "if not alone:",
            "    mine = arrived(left, pieces)",
            "tl.debug_barrier()",
            "if mine:",
            *indented(own),
            "if alone:",
            "    mine = arrived(left, pieces)",
            "if mine:",
        ]
    else:
        lines.append("if arrived(left, pieces):")
    passes = len(calls)
    lines += indented([*rest, f"released(done, {(index + 1) % passes}, pieces)"])
    return [f"if (begin <= {index}) & ({index} < end):", *indented(lines)]
