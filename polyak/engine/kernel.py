"""From a graph to a kernel: the loops that apply a rule to the chunks of a table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..extent import Extent
from .ahead import PREFETCH, before_chunk
from .body import Body, declarations
from .code import ATTRIBUTES, Code
from .evaluation import evaluation
from .formats import Format, format_of
from .graph import Graph
from .interludes import interlude_function
from .listing import listing
from .loops import pass_function
from .passes import Passes, extent_of, split
from .phases import Matrix, Phases, many, phases
from .regions import Call, cut
from .table import NONE, chunk, loads, member, record_type
from .tiles import tile_functions

__all__ = ["Kernel", "generate"]


@dataclass(frozen=True)
class Kernel:
    """The source of a kernel, and what a table must hold for it.

    Attributes:
        ir: the LLVM module. Each region has a function that works off a table's
            units: ``member0`` and so on.
        roles: the tensors it uses, by name, gradients last.
        memory: the names of what leaves take and give.
        calls: the leaves that are called after each region but the last.
        real: the type it computes in, also that of the rows of scalars.
        passes: what is computed in which pass over the numbers; one, with leaves.
        evaluates: the module has a function that evaluates the rows of scalars.
        listing: the loops in a form made for reading.
    """

    ir: str
    roles: tuple[str, ...]
    memory: tuple[str, ...]
    calls: tuple[list[Call], ...]
    real: np.dtype[Any]
    passes: Passes
    evaluates: bool
    listing: str


def generate(
    name: str,
    graph: Graph,
    formats: dict[str, Format],
    *,
    maximize: bool = False,
    matrix: Matrix | None = None,
) -> Kernel:
    """Generate the kernel of a traced rule.

    Args:
        name: for the listing and the module.
        graph: the rule.
        formats: the storage of each tensor, in the order of the rule's arguments.
        maximize: use the negative gradient.
        matrix: what is known of the matrices where they are many and small, and the
            rule tells rows from columns.
    """
    wide = any(format.name == "float64" for format in formats.values())
    dtype = np.dtype(np.float64 if wide else np.float32)
    real = format_of(torch.float64 if wide else torch.float32)
    assert real is not None
    regions = cut(graph)
    calls = tuple(region.calls for region in regions[:-1])
    memory = tuple(name for call in itertools.chain(*calls) for name in call.memory())
    roles = (*(role for role in graph.outputs if role in formats), "grad")
    bodies = [
        Body(
            region.graph,
            phases(region.graph, matrix) if matrix else split(region.graph),
            {**formats, **dict.fromkeys(memory, real)},
            (*roles, *memory),
            "double" if wide else "float",
            maximize,
            f"region{index}." if index else "",
        )
        for index, region in enumerate(regions)
    ]
    passes = bodies[0].passes
    order = [(region, split(region.graph)) for region in regions]
    together = many(matrix) if matrix else ""
    text = listing(
        name, order, formats, dtype.name, maximize=maximize, at_once=together
    )
    scalars = evaluation(graph, bodies[0].real)
    module = _module(bodies, scalars or "")
    evaluates = scalars is not None
    return Kernel(module, roles, memory, calls, dtype, passes, evaluates, text)


def _module(bodies: Sequence[Body], scalars: str) -> str:
    """The functions of all regions, and that which evaluates scalars."""
    text = "\n".join(
        function
        for index, body in enumerate(bodies)
        for function in (*_functions(body), member(f"member{index}", _unit(body)))
    )
    if bodies[0].passes.is_single:
        text += f"\n{before_chunk()}\n{PREFETCH}"
    return f"""{record_type}

{text}
{scalars}
{ATTRIBUTES}{declarations(text)}"""


def _functions(body: Body) -> list[str]:
    """One for each pass and interlude, and one that does a unit of work."""
    numbers = range(len(body.passes.passes))
    if isinstance(body.passes, Phases):
        return [*tile_functions(body, body.passes), _pass_of_chunk(body)]
    passes = [pass_function(body, index) for index in numbers]
    if body.passes.is_single:
        return [*passes, _chunk(body)]
    interludes = [interlude_function(body, index) for index in numbers]
    return [*passes, *interludes, _pass_of_chunk(body)]


def _unit(body: Body) -> str:
    return f"{body.prefix}unit"


def _chunk(body: Body) -> str:
    """A unit of a kernel of one pass: a chunk."""
    bounds = "i64 %first, i64 %last, i64 1, i64 %n"
    return f"""define internal void @{_unit(body)}(ptr %table, i64 %c) {{
entry:
{loads("tensors chunks arguments pointers chunk row values")}
{chunk}
{_given(body)}
  %last = add i64 %first, %n
  call void @fetch.chunk(ptr %table, i64 %c)
{_unless_left_out(body)}
work:
  call void @{body.prefix}pass0({bounds}, {", ".join(_names(body))})
  br label %exit
exit:
  ret void
}}
"""


def _unless_left_out(body: Body) -> str:
    """Go on at ``%work`` if ``%tensor`` has a gradient, else at ``%exit``."""
    grad = f"%role{body.roles.index('grad')}"
    return f"""  %gradient = ptrtoint ptr {grad} to i64
  %is.left.out = icmp eq i64 %gradient, {NONE}
  br i1 %is.left.out, label %exit, label %work"""


def _given(body: Body) -> str:
    """The addresses that all functions are given, for ``%tensor``."""
    return f"""  %row.of.at = getelementptr i64, ptr %row, i64 %tensor
  %row.of = load i64, ptr %row.of.at
  %scalar.entry = mul i64 %row.of, %arguments
  %scalars = getelementptr [{body.itemsize} x i8], ptr %values, i64 %scalar.entry
""" + "\n".join(
        f"""  %role{r}.row = mul i64 %tensors, {r}
  %role{r}.entry = add i64 %role{r}.row, %tensor
  %role{r}.at = getelementptr i64, ptr %pointers, i64 %role{r}.entry
  %role{r} = load ptr, ptr %role{r}.at"""
        for r, _ in enumerate(body.roles)
    )


def _names(body: Body) -> list[str]:
    roles = [f"ptr %role{index}" for index, _ in enumerate(body.roles)]
    kept = [f"ptr %kept{index}" for index, _ in enumerate(body.passes.buffers)]
    return [*roles, "ptr %scalars", *kept]


def _pass_of_chunk(body: Body) -> str:
    """A unit of a kernel of several passes: one of them, or all where a chunk is all.

    The threads share out the units in order, and a pass waits until the one before it
    has ended: what it waits for is being done by a thread that does not wait for it.
    Whoever does the last chunk of a pass does the interlude.
    """
    calls = _calls(body)
    cases = [f"i64 {k}, label" for k, _ in enumerate(calls)]
    runs = " ".join(f"{case} %run{k}" for k, case in enumerate(cases))
    ends = " ".join(f"{case} %end{k}" for k, case in enumerate(cases))
    apart = "\n".join(
        f"run{k}:\n{run}\n  br label %arrive\nend{k}:\n{end}\n  br label %tell"
        for k, (run, end) in enumerate(calls)
    )
    together = "\n".join(f"{run}\n{end}" for run, end in calls)
    return f"""declare i32 @sched_yield()

define internal void @{_unit(body)}(ptr %table, i64 %u) {{
entry:
{loads("tensors chunks units arguments pointers chunk row values")}
{loads("passes extents chunks_of kept_at parts_at left done")}
  %c.at = getelementptr i64, ptr %passes, i64 %u
  %c = load i64, ptr %c.at
  %pass.at = getelementptr i64, ptr %c.at, i64 %units
  %pass = load i64, ptr %pass.at
{chunk}
  %last = add i64 %first, %n
{_given(body)}
  %length.at = getelementptr i64, ptr %extents, i64 %tensor
  %length = load i64, ptr %length.at
  %rows.at = getelementptr i64, ptr %length.at, i64 %tensors
  %rows = load i64, ptr %rows.at
  %columns.at = getelementptr i64, ptr %rows.at, i64 %tensors
  %columns = load i64, ptr %columns.at
  %pieces.first.at = getelementptr i64, ptr %chunks_of, i64 %tensor
  %pieces.first = load i64, ptr %pieces.first.at
  %pieces.at = getelementptr i64, ptr %pieces.first.at, i64 %tensors
  %pieces = load i64, ptr %pieces.at
  %firsts.row = add i64 %chunks, %pieces.first
  %firsts = getelementptr i64, ptr %chunk, i64 %firsts.row
  %counts = getelementptr i64, ptr %firsts, i64 %chunks
  %parts = getelementptr ptr, ptr %parts_at, i64 %pieces.first
{_unless_left_out(body)}
work:
{_memory(body)}
  %all = icmp slt i64 %pass, 0
  br i1 %all, label %together, label %apart
together:
{together}
  ret void

apart:
  %done.of = getelementptr i64, ptr %done, i64 %tensor
  br label %look
look:
  %ended = load atomic i64, ptr %done.of acquire, align 8
  %ready = icmp sge i64 %ended, %pass
  br i1 %ready, label %run, label %wait
wait:
  %yielded = call i32 @sched_yield()
  br label %look
run:
  switch i64 %pass, label %exit [{runs}]
arrive:
  %left.of = getelementptr i64, ptr %left, i64 %tensor
  %left.before = atomicrmw sub ptr %left.of, i64 1 acq_rel
  %is.last = icmp eq i64 %left.before, 1
  br i1 %is.last, label %end, label %exit
end:
  store i64 %pieces, ptr %left.of
  switch i64 %pass, label %exit [{ends}]
tell:
  %pass.next = add i64 %pass, 1
  %over = icmp eq i64 %pass.next, {len(calls)}
  %ended.now = select i1 %over, i64 0, i64 %pass.next
  store atomic i64 %ended.now, ptr %done.of release, align 8
  br label %exit
{apart}
exit:
  ret void
}}
"""


def _calls(body: Body) -> list[tuple[str, str]]:
    """The calls of each pass and of the interlude after it."""
    given = _names(body)
    parts = [f"ptr %part{index}" for index, _ in enumerate(body.passes.parts)]
    bounds = ["i64 %first", "i64 %last", "i64 %rows", "i64 %columns"]
    counts = ["i64 %length", "i64 %rows", "i64 %columns", "i64 %pieces"]
    chunks = ["ptr %firsts", "ptr %counts", "ptr %parts"]
    return [
        (
            f"  call void @pass{k}({', '.join([*bounds, *given, *parts])})",
            f"  call void @after{k}({', '.join([*counts, *chunks, *given])})",
        )
        for k, _ in enumerate(body.passes.passes)
    ]


def _memory(body: Body) -> str:
    """The addresses of what is kept of a tensor, and of the parts of a chunk."""
    code = Code()
    size = code.multiply("%rows", "%columns")
    matrices = code.divide("%length", size)
    end = code.emit("sub i64 %last, 1")
    first_matrix, last_matrix = code.divide("%first", size), code.divide(end, size)
    touched = code.add(code.emit(f"sub i64 {last_matrix}, {first_matrix}"), "1")
    kept = {
        Extent.ROW: code.multiply(matrices, "%rows"),
        Extent.COLUMN: code.multiply(matrices, "%columns"),
        Extent.MATRIX: matrices,
        Extent.WHOLE: "1",
    }
    parts = {Extent.WHOLE: "1", Extent.COLUMN: code.multiply(touched, "%columns")}
    owners = [nodes[0] for nodes in body.passes.buffers]
    for array, index, name, nodes, counts in (
        ("%kept_at", "%tensor", "%kept", owners, kept),
        ("%parts_at", "%c", "%part", body.passes.parts, parts),
    ):
        at = code.emit(f"load ptr, ptr {code.item(array, index, 8)}")
        for number, node in enumerate(nodes):
            code.write(f"{name}{number} = getelementptr i8, ptr {at}, i64 0")
            at = code.item(at, counts[extent_of(node)], body.itemsize)
    return code.text
