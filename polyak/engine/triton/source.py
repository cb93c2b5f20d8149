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
from .body import Body, Spot, Values
from .sums import functions_with_sums
from .text import HEAD, called, graph_shared, identifiers, imported, indented

__all__ = ["FORMATS", "Program", "Stored", "TritonKernel", "generate"]


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
        memory, calls: none; what a kernel of the CPU has for leaves.
    """

    name: str
    source: str
    roles: tuple[str, ...]
    real: np.dtype[Any]
    passes: Passes
    program: Program | None = None
    memory: tuple[str, ...] = ()
    calls: tuple[()] = ()

    @property
    def listing(self) -> str:
        """All that runs in a step, as a text."""
        if self.program is None:
            return self.source
        return f"{self.program.source}\n\n{self.source}"


def generate(
    name: str, graph: Graph, stored: Mapping[str, Stored], *, maximize: bool = False
) -> TritonKernel:
    """Generate the kernel of a traced rule.

    Args:
        name: the optimizer's.
        graph: the rule, without leaves and sums.
        stored: the storage of each tensor, in the order of the rule's arguments.
        maximize: use the negative gradient.
    """
    formats = {role: format.name for role, format in stored.items()}
    roles = (*(role for role in graph.outputs if role in formats), "grad")
    body, passes = Body(graph, formats, maximize=maximize), split(graph)
    storage = ", ".join(f"{role} {format}" for role, format in formats.items())
    (kernel,) = identifiers([re.sub(r"\W", "_", name).lower()]).values()
    if passes.is_single:
        functions = [_update(body, roles), _kernel(kernel, roles, body)]
    else:
        functions = functions_with_sums(kernel, roles, body, passes)
    text = "\n\n\n".join("\n".join(lines) for lines in functions)
    source = f"# {name}: {storage}\n{HEAD.format(names=imported(text))}{text}\n"
    return TritonKernel(kernel, source, roles, np.dtype(body.real), passes)


def _update(body: Body, roles: Sequence[str]) -> list[str]:
    """The function that applies the rule to a block of numbers."""
    graph = body.graph
    values = Values(body, {Extent.NUMBER: Spot("{}", "keep")}, graph_shared(graph))
    results = list(graph.outputs.values())
    values.load(
        node for node in graph.tensors.values() if node.users or node in results
    )
    stores = [
        values.store(name)
        for name, value in graph.outputs.items()
        if name in body.formats and value is not graph.tensors[name]
    ]
    addresses = [f"{body.names[role]}_at" for role in roles]
    return [
        "@triton.jit",
        *called("def update", [*addresses, "keep", *body.scalar_names()], ":"),
        *indented([*values.loads, *values.write.lines, *stores] or ["pass"]),
    ]


def _kernel(name: str, roles: Sequence[str], body: Body) -> list[str]:
    """The kernel: which chunk, which scalars, which memory; then block by block."""
    names = {role: body.names[role] for role in roles}
    loads = body.scalar_loads()
    spots = [
        f"{names[role]}_is = tl.load(column + {1 + index} * tensors)"
        for index, role in enumerate(roles)
    ]
    bases = [
        f"{names[role]}_at = {names[role]}_is.to(tl.pointer_type("
        f"tl.{body.formats[role]})) + first"
        for role in roles
    ]
    either = " | ".join(f"{names[role]}_is" for role in roles)
    whole = [f"tl.multiple_of({names[role]}_at + start, 16) + block" for role in roles]
    rest = [f"{names[role]}_at + start + block" for role in roles]
    scalars = body.scalar_names()
    lines = [
        "# which numbers",
        "entry = table + chunks_at + 2 * tl.program_id(0).to(tl.int64)",
        "tensor = tl.load(entry)",
        "first = tl.load(entry + 1)",
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
            f"scalars = rows + {len(loads)} * row",
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
        f"def {name}(table, skip, tensors, chunks_at, chunk, BLOCK: tl.constexpr):",
        *indented(lines),
    ]
