"""From a graph to the source of a Triton kernel that works off a table.

The text has two functions. ``update`` is the rule, on a block of numbers. The kernel
around it finds its chunk in the table, the row of scalars and the memory, and applies
``update`` block by block: without a mask, in accesses of 16 bytes, where blocks are
whole and the memory is aligned, and with a mask elsewhere.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx

from ..graph import Graph
from ..operators import MASKS, operator_name
from ..passes import Passes, split
from ..regions import Call
from .operators import ON_BLOCKS, ON_HOST, Expressions

__all__ = [
    "FORMATS",
    "HEAD",
    "TAKEN",
    "Program",
    "Stored",
    "TritonKernel",
    "generate",
    "graph_shared",
    "identifiers",
    "imported",
    "indented",
]


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

_NUMERICS = (
    *("copysign", "cosine", "exponential", "logarithm", "number_at", "power"),
    *("put_number", "rounded_to_bfloat16", "sine", "tanh"),
)
_WHERE = ("tensors", "chunks_at", "chunk", "BLOCK: tl.constexpr")
TAKEN = frozenset(
    {"tl", "triton", "float", "range", "update", *_NUMERICS}
    | {"BLOCK", "aligned", "block", "chunk", "chunks_at", "column", "count", "entry"}
    | {"first", "keep", "row", "rows", "scalars", "skip", "start", "table", "tensor"}
    | {"place", "tensors", "whole"}
)


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
        graph: the rule, without sums.
        stored: the storage of each tensor, in the order of the rule's arguments.
        maximize: use the negative gradient.
        memory: the names of what leaves take and give.
    """
    formats = {role: format.name for role, format in stored.items()}
    real = "float64" if "float64" in formats.values() else "float32"
    roles = tuple(formats)
    update = _Update(graph, formats | dict.fromkeys(memory, real), real, maximize)
    rooms = tuple(room for room in memory if room in update.used)
    storage = ", ".join(f"{role} {format}" for role, format in formats.items())
    (kernel,) = identifiers([re.sub(r"\W", "_", name).lower()]).values()
    text = "\n".join(
        [
            "@triton.jit",
            *_call("def update", update.arguments((*roles, *rooms)), ":"),
            *indented(update.lines),
            *("", ""),
            *_kernel(kernel, roles, memory, formats, real, update),
        ]
    )
    source = f"# {name}: {storage}\n{HEAD.format(names=imported(text))}{text}\n"
    passes = split(graph)
    return TritonKernel(kernel, source, roles, np.dtype(real), passes, rooms=rooms)


HEAD = "import triton\nimport triton.language as tl\n{names}\n\n"


def imported(text: str) -> str:
    """The import of what a text calls of :mod:`.numerics`."""
    names = [name for name in _NUMERICS if re.search(rf"\b{name}\(", text)]
    if not names:
        return ""
    return f"\nfrom polyak.engine.triton.numerics import {', '.join(names)}\n"


def identifiers(names: Iterable[str], taken: Collection[str] = TAKEN) -> dict[str, str]:
    """Names in generated code, for each its own, and none that the code uses."""
    made: dict[str, str] = {}
    for name in names:
        word = name.replace("[", "_").replace("]", "")
        while word in taken or word in made.values() or re.fullmatch(r"[sx]\d+", word):
            word += "_"
        made[name] = word
    return made


def _rounded(value: str, real: str, format: str) -> str:
    """A number as it is stored: to half precision by way of float32, as in torch."""
    if format == real:
        return value
    if real == "float64" and format != "float32":
        value = f"({value}).to(tl.float32)"
    if format == "bfloat16":
        return f"rounded_to_bfloat16({value})"
    return f"({value}).to(tl.{format})"


class _Update:
    """The function that applies the rule to a block of numbers.

    Attributes:
        scalars: for each scalar of a row its name, and what it is made of.
        lines: the function's body.
        used: the tensors that it loads or stores.
        taken: the names of the values that it uses.
    """

    def __init__(
        self, graph: Graph, formats: Mapping[str, str], real: str, maximize: bool
    ) -> None:
        self.graph, self.formats, self.real = graph, formats, real
        self.roles = identifiers(dict.fromkeys((*graph.tensors, *formats)))
        literals = None if real == "float32" else f"tl.{real}"
        uses = graph_uses(graph)
        self.write = Expressions(ON_BLOCKS[real], literals, "x", graph_shared(graph))
        self.scalars = self._scalars()
        self.lines: list[str] = []
        loaded = [name for name, node in graph.tensors.items() if node in uses]
        for name in loaded:
            node = graph.tensors[name]
            self._load(name, node, negative=maximize and name == "grad")
        stored = [
            name
            for name, value in graph.outputs.items()
            if name in formats and value is not graph.tensors.get(name)
        ]
        stores = [self._store(name, graph.outputs[name]) for name in stored]
        self.lines += [*self.write.lines, *stores]
        self.used = {*loaded, *stored} or set(formats)
        self.taken = {word for node, word in self.write.names.items() if node in uses}
        if not self.lines:
            self.lines.append("pass")

    def arguments(self, roles: Sequence[str]) -> list[str]:
        """Names of the function's arguments."""
        used = [f"{self.roles[role]}_at" for role in roles if role in self.used]
        return [*used, "keep", *self.names()]

    def names(self) -> list[str]:
        """Names of the scalars that the function takes."""
        return [name for name, _ in self.scalars if name in self.taken]

    def _scalars(self) -> list[tuple[str, str]]:
        """Name the scalars: hyperparameters by themselves, the others s0, s1, ..."""
        graph, taken = self.graph, TAKEN | set(self.roles.values())
        words = identifiers(graph.hyperparameters, taken)
        given = {node: name for name, node in graph.hyperparameters.items()}
        host = Expressions(ON_HOST, None, "", set())
        host.names = given
        named = []
        for index, node in enumerate(graph.arguments()):
            name = words[given[node]] if node in given else f"s{index}"
            self.write.names[node] = name
            named.append((name, host.text(node)))
        return named

    def _load(self, name: str, node: fx.Node, *, negative: bool) -> None:
        role, format = self.roles[name], self.formats[name]
        value = f"tl.load({role}_at, mask=keep)"
        if format != self.real:
            value += f".to(tl.{self.real})"
        self.lines.append(f"{role} = {'-' * negative}{value}")
        self.write.names[node] = role

    def _store(self, name: str, value: Any) -> str:
        text = self.write.text(value)
        if not isinstance(value, fx.Node):
            text = f"tl.full((), {text}, tl.{self.real})"
        stored = _rounded(text, self.real, self.formats[name])
        return f"tl.store({self.roles[name]}_at, {stored}, mask=keep)"


def graph_shared(graph: Graph) -> set[fx.Node]:
    """The nodes that several others use, or several outputs."""
    return {node for node, count in graph_uses(graph).items() if count > 1}


def graph_uses(graph: Graph) -> dict[fx.Node, int]:
    """The nodes that the outputs are made of, and how often each is used."""
    uses: dict[fx.Node, int] = {}
    live = [value for value in graph.outputs.values() if isinstance(value, fx.Node)]
    seen = set(graph.tensors.values())  # they are given
    for node in live:
        uses[node] = uses.get(node, 0) + 1
    while live:
        node = live.pop()
        if node in seen:
            continue
        seen.add(node)
        for operand in node.all_input_nodes:
            uses[operand] = uses.get(operand, 0) + 1
            live.append(operand)
    return uses


def _kernel(
    name: str,
    roles: Sequence[str],
    memory: Sequence[str],
    formats: Mapping[str, str],
    real: str,
    update: _Update,
) -> list[str]:
    """The kernel: which chunk, which scalars, which memory; then block by block."""
    rooms = [room for room in memory if room in update.used]
    columns = [(i, role) for i, role in enumerate(roles) if role in update.used]
    names = {role: update.roles[role] for role in (*roles, *rooms)}
    loads = []
    for index, (scalar, meaning) in enumerate(update.scalars):
        if scalar not in update.taken:
            continue
        truth = " != 0" if _is_truth(update.graph, index) else ""
        note = "" if meaning == scalar else f"  # {meaning}"
        loads.append(f"{scalar} = tl.load(scalars + {index}){truth}{note}")
    spots = [
        f"{names[role]}_is = tl.load(column + {1 + index} * tensors)"
        for index, role in columns
    ]
    spots += [
        f"{names[room]}_is = ({names[room]} + place).to(tl.int64)" for room in rooms
    ]
    bases = [
        f"{names[role]}_at = {names[role]}_is.to(tl.pointer_type(tl.{formats[role]}))"
        " + first"
        for _, role in columns
    ]
    bases += [f"{names[room]}_at = {names[room]} + place" for room in rooms]
    used = [names[role] for role in (*(role for _, role in columns), *rooms)]
    either = " | ".join(f"{name}_is" for name in used)
    whole = [f"tl.multiple_of({name}_at + start, 16) + block" for name in used]
    rest = [f"{name}_at + start + block" for name in used]
    scalars = update.names()
    record = 3 if memory else 2  # words
    body = [
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
        body += [
            "# with which scalars",
            f"row = tl.load(column + {1 + len(roles)} * tensors)",
            f"rows = (table + {2 + len(roles)} * tensors)"
            f".to(tl.pointer_type(tl.{real}))",
            f"scalars = rows + {len(update.scalars)} * row",
            *loads,
        ]
    body += [
        "# in which memory",
        *spots,
        *bases,
        "# whole blocks of aligned memory, then the rest",
        f"aligned = (({either}) & 15) == 0",
        "whole = tl.where(aligned, count // BLOCK * BLOCK, 0)",
        "block = tl.arange(0, BLOCK)",
        "for start in range(0, whole, BLOCK):",
        *indented(_call("update", [*whole, "None", *scalars])),
        "for start in range(whole, count, BLOCK):",
        *indented(_call("update", [*rest, "start + block < count", *scalars])),
    ]
    return [
        '@triton.jit(do_not_specialize=["tensors", "chunks_at", "chunk"])',
        *_call(
            f"def {name}",
            ["table", "skip", *(names[room] for room in rooms), *_WHERE],
            ":",
        ),
        *indented(body),
    ]


def _is_truth(graph: Graph, index: int) -> bool:
    node = graph.arguments()[index]
    return node.op == "call_function" and operator_name(node.target) in MASKS


def _call(function: str, arguments: Sequence[str], end: str = "") -> list[str]:
    """A call, or the head of a definition, on as many lines as it needs."""
    text = ", ".join(arguments)
    if len(function) + len(text) < 76:
        return [f"{function}({text}){end}"]
    glued = ", ".join(argument.replace(" ", "\0") for argument in arguments)
    lines = textwrap.wrap(glued, 76, break_long_words=False, break_on_hyphens=False)
    lines = [line.replace("\0", " ") for line in lines]
    return [f"{function}(", *indented(lines), f"){end}"]


def indented(lines: Iterable[str]) -> list[str]:
    """Lines of a body."""
    return [f"    {line}" for line in lines]
