"""From a graph to the source of a Triton kernel that works off a table.

The text has two functions. ``update`` is the rule, on a block of numbers. The kernel
around it finds its chunk in the table, the row of scalars and the memory, and applies
``update`` block by block: without a mask, in accesses of 16 bytes, where blocks are
whole and the memory is aligned, and with a mask elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from ...extent import Extent
from ..graph import Graph
from ..passes import Passes, split
from ..regions import Call
from .body import Body, Spot, Values
from .sums import functions_with_sums
from .text import (
    HEAD,
    called,
    graph_shared,
    graph_uses,
    identifiers,
    imported,
    indented,
)

__all__ = ["FORMATS", "Program", "Stored", "TritonKernel", "generate"]


_WHERE = ("tensors", "chunks_at", "chunk", "BLOCK: tl.constexpr")


class Stored(NamedTuple):
    """The storage of one real number: Triton's name of its type, and the bytes."""

    name: str
    itemsize: int


# Complex numbers are stored as pairs of reals.
FORMATS: Mapping[torch.dtype, Stored] = {
    torch.float64: Stored("float64", 8),
    torch.float32: Stored("float32", 4),
    torch.bfloat16: Stored("bfloat16", 2),
    torch.float16: Stored("float16", 2),
    torch.complex128: Stored("float64", 8),
    torch.complex64: Stored("float32", 4),
}


@dataclass(frozen=True)
class Program:
    """The source of the kernel ``scalars``: :mod:`.program`.

    Attributes:
        source: the text.
        inputs: what it reads, by name: a column of addresses each.
    """

    source: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class TritonKernel:
    """The source of a kernel, and what a table must hold for it.

    Attributes:
        name: the kernel's function in the source.
        source: the text.
        roles: the tensors it uses, by name, gradients last.
        real: the type it computes in, also that of the rows of scalars.
        passes: one, over the numbers.
        program: what computes the scalars, where they are on the device.
        rooms: the names of what leaves take and give that it works on: an argument
            each.
        before: the kernels of the regions before it, where the rule has leaves.
        calls: the leaves that are called after each of these.
        memory: none; what the table of the CPU has for leaves.
    """

    name: str
    source: str
    roles: tuple[str, ...]
    real: np.dtype[Any]
    passes: Passes
    program: Program | None = None
    rooms: tuple[str, ...] = ()
    before: tuple[TritonKernel, ...] = ()
    calls: tuple[list[Call], ...] = ()
    memory: tuple[str, ...] = ()

    @property
    def listing(self) -> str:
        """All that runs in a step, as a text."""
        parts = [] if self.program is None else [self.program.source]
        parts += [kernel.source for kernel in self.before]
        return "\n\n".join([*parts, self.source])


def generate(
    name: str,
    graph: Graph,
    stored: Mapping[str, Stored],
    *,
    maximize: bool = False,
    memory: Sequence[str] = (),
) -> TritonKernel:
    """Generate the kernel of a traced rule, or of a region of one.

    Args:
        name: the optimizer's.
        graph: the rule.
        stored: the storage of each tensor, in the order of the rule's arguments.
        maximize: use the negative gradient.
        memory: the names of what leaves take and give.
    """
    formats = {role: format.name for role, format in stored.items()}
    roles, real = (
        tuple(formats),
        "float64" if "float64" in formats.values() else "float32",
    )
    storage = ", ".join(f"{role} {format}" for role, format in formats.items())
    formats |= dict.fromkeys(memory, real)
    body, passes = Body(graph, formats, maximize=maximize), split(graph)
    rooms: tuple[str, ...] = ()
    (kernel,) = identifiers([re.sub(r"\W", "_", name).lower()]).values()
    if passes.is_single:
        used = _used(body)
        rooms = tuple(room for room in memory if room in used)
        functions = [
            _update(body, [role for role in (*roles, *memory) if role in used]),
            _kernel(kernel, roles, memory, body),
        ]
    else:
        functions = functions_with_sums(kernel, roles, body, passes)
    text = "\n\n\n".join("\n".join(lines) for lines in functions)
    source = f"# {name}: {storage}\n{HEAD.format(names=imported(text))}{text}\n"
    return TritonKernel(kernel, source, roles, np.dtype(real), passes, rooms=rooms)


def _stored(body: Body) -> list[str]:
    """The tensors that get other values."""
    graph = body.graph
    return [
        name
        for name, value in graph.outputs.items()
        if name in body.formats and value is not graph.tensors.get(name)
    ]


def _used(body: Body) -> set[str]:
    """The tensors that are loaded or stored."""
    uses = graph_uses(body.graph)
    loaded = [name for name, node in body.graph.tensors.items() if node in uses]
    return {*loaded, *_stored(body)} or set(body.formats)


def _update(body: Body, roles: Sequence[str]) -> list[str]:
    """The function that applies the rule to a block of numbers."""
    graph, uses = body.graph, graph_uses(body.graph)
    values = Values(body, {Extent.NUMBER: Spot("{}", "keep")}, graph_shared(graph))
    values.load(uses)
    stores = [values.store(name) for name in _stored(body)]
    addresses = [f"{body.names[role]}_at" for role in roles]
    return [
        "@triton.jit",
        *called("def update", [*addresses, "keep", *body.scalar_names(uses)], ":"),
        *indented([*values.loads, *values.write.lines, *stores] or ["pass"]),
    ]


def _kernel(
    name: str, roles: Sequence[str], memory: Sequence[str], body: Body
) -> list[str]:
    """The kernel: which chunk, which scalars, which memory; then block by block."""
    used, uses = _used(body), graph_uses(body.graph)
    columns = [(i, role) for i, role in enumerate(roles) if role in used]
    rooms = [room for room in memory if room in used]
    names = {role: body.names[role] for role in (*(r for _, r in columns), *rooms)}
    loads = body.scalar_loads(uses)
    spots = [
        f"{names[role]}_is = tl.load(column + {1 + index} * tensors)"
        for index, role in columns
    ]
    spots += [
        f"{names[room]}_is = ({names[room]} + place).to(tl.int64)" for room in rooms
    ]
    bases = [
        f"{names[role]}_at = {names[role]}_is.to(tl.pointer_type("
        f"tl.{body.formats[role]})) + first"
        for _, role in columns
    ]
    bases += [f"{names[room]}_at = {names[room]} + place" for room in rooms]
    either = " | ".join(f"{name}_is" for name in names.values())
    whole = [f"tl.multiple_of({n}_at + start, 16) + block" for n in names.values()]
    rest = [f"{name}_at + start + block" for name in names.values()]
    scalars = body.scalar_names(uses)
    record = 3 if memory else 2  # words
    lines = [
        "# which numbers",
        f"entry = table + chunks_at + {record} * tl.program_id(0).to(tl.int64)",
        "tensor = tl.load(entry)",
        "first = tl.load(entry + 1)",
        *(["place = tl.load(entry + 2)"] if rooms else []),
        "column = table + tensor",
        "count = tl.minimum(tl.load(column) - first, chunk).to(tl.int32)",
        "if skip is not None:",
        "    count = tl.where(tl.load(skip) == 0, count, 0)",
    ]
    if loads:
        lines += [
            "# with which scalars",
            f"row = tl.load(column + {1 + len(roles)} * tensors)",
            f"rows = (table + {2 + len(roles)} * tensors)"
            f".to(tl.pointer_type(tl.{body.real}))",
            f"scalars = rows + {len(body.scalars)} * row",
            *loads,
        ]
    lines += [
        "# in which memory",
        *spots,
        *bases,
        "# whole blocks of aligned memory, then the rest",
        f"aligned = (({either}) & 15) == 0",
        "whole = tl.where(aligned, count // BLOCK * BLOCK, 0)",
        "block = tl.arange(0, BLOCK)",
        "for start in range(0, whole, BLOCK):",
        *indented(called("update", [*whole, "None", *scalars])),
        "for start in range(whole, count, BLOCK):",
        *indented(called("update", [*rest, "start + block < count", *scalars])),
    ]
    return [
        '@triton.jit(do_not_specialize=["tensors", "chunks_at", "chunk"])',
        *called(
            f"def {name}",
            ["table", "skip", *(names[room] for room in rooms), *_WHERE],
            ":",
        ),
        *indented(lines),
    ]
