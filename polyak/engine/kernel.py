"""From a graph to a kernel: one loop that applies a rule to the chunks of a table."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx

from .formats import Format
from .graph import Graph
from .listing import listing
from .operators import operator_name
from .table import member, record_type

__all__ = ["Kernel", "generate"]

_BINARY = "{0} contract {T} {1}, {2}"
_CALL = "call contract {T} @llvm.{0}.{S}({T} {1})"
_CALL2 = "call contract {T} @llvm.{0}.{S}({T} {1}, {T} {2})"
_COMPARE = "fcmp {0} {T} {1}, {2}"
_LOGIC = "{0} i1 {1}, {2}"

# Operator: LLVM's name for it, and the instruction.
_INSTRUCTIONS: dict[str, tuple[str, str]] = {
    "add": ("fadd", _BINARY),
    "sub": ("fsub", _BINARY),
    "mul": ("fmul", _BINARY),
    "div": ("fdiv", _BINARY),
    "pow": ("pow", _CALL2),
    "neg": ("fneg", "{0} {T} {1}"),
    "abs": ("fabs", _CALL),
    "sqrt": ("sqrt", _CALL),
    "exp": ("exp", _CALL),
    "log": ("log", _CALL),
    "sin": ("sin", _CALL),
    "cos": ("cos", _CALL),
    "tanh": ("tanh", _CALL),
    "floor": ("floor", _CALL),
    "copysign": ("copysign", _CALL2),
    "lt": ("olt", _COMPARE),
    "le": ("ole", _COMPARE),
    "gt": ("ogt", _COMPARE),
    "ge": ("oge", _COMPARE),
    "eq": ("oeq", _COMPARE),
    "ne": ("une", _COMPARE),
    "and": ("and", _LOGIC),
    "or": ("or", _LOGIC),
    "invert": ("xor", "{0} i1 {1}, true"),
    "where": ("select", "{0} i1 {1}, {T} {2}, {T} {3}"),
}


@dataclass(frozen=True)
class Kernel:
    """The source of a kernel, and what a table must hold for it.

    Attributes:
        ir: the LLVM module, whose function ``member`` works off a table's chunks.
        roles: the tensors it uses, by name, gradients last.
        real: the type it computes in, also that of the rows of scalars.
        listing: the loop in a form made for reading.
    """

    ir: str
    roles: tuple[str, ...]
    real: np.dtype[Any]
    listing: str


def generate(
    name: str, graph: Graph, formats: dict[str, Format], *, maximize: bool = False
) -> Kernel:
    """Generate the kernel of a traced rule.

    Args:
        name: for the listing and the module.
        graph: the rule, without leaves.
        formats: the storage of each tensor, in the order of the rule's arguments.
        maximize: use the negative gradient.
    """
    wide = any(format.name == "float64" for format in formats.values())
    real = "double" if wide else "float"
    slots = tuple(role for role in graph.outputs if role in formats)
    roles = (*slots, "grad")
    body = _Body(graph, roles, formats, real, maximize)
    dtype = np.dtype(np.float64 if wide else np.float32)
    ir = _module(roles, formats, body, dtype.itemsize)
    text = listing(name, graph, formats, dtype.name, maximize=maximize)
    return Kernel(ir, roles, dtype, text)


class _Body:
    """The loop's body as LLVM instructions."""

    def __init__(
        self,
        graph: Graph,
        roles: Sequence[str],
        formats: dict[str, Format],
        real: str,
        maximize: bool,
    ) -> None:
        self.graph, self.roles, self.real = graph, roles, real
        self.lines: list[str] = []
        self.count = 0
        self.values: dict[fx.Node, str] = {}
        self.addresses: dict[str, str] = {}
        self.arguments = graph.arguments()
        for index, node in enumerate(self.arguments):
            self.values[node] = f"%scalar.{index}"
        for name, node in graph.tensors.items():
            if node.users or node in graph.outputs.values():
                self.values[node] = self._load(name, formats[name])
        grad = graph.tensors["grad"]
        if maximize and grad in self.values:
            self.values[grad] = self.emit(f"fneg {real} {self.values[grad]}")
        for node in graph.nodes:
            if node not in graph.scalars:
                self.values[node] = self._instruction(node)
        for name, value in graph.outputs.items():
            if name in formats and value is not graph.tensors[name]:
                address = self._address(name, formats[name])
                formats[name].store(self.emit, real, self._operand(value), address)

    def emit(self, text: str, *, void: bool = False) -> str:
        if void:
            self.lines.append(text)
            return ""
        self.count += 1
        self.lines.append(f"%v{self.count} = {text}")
        return f"%v{self.count}"

    def _address(self, name: str, format: Format) -> str:
        if name not in self.addresses:
            offset = self.emit(f"mul nuw nsw i64 %i, {format.itemsize}")
            role = self.roles.index(name)
            at = self.emit(f"getelementptr i8, ptr %role{role}, i64 {offset}")
            self.addresses[name] = at
        return self.addresses[name]

    def _load(self, name: str, format: Format) -> str:
        return format.load(self.emit, self.real, self._address(name, format))

    def _instruction(self, node: fx.Node) -> str:
        name = operator_name(node.target)
        word, text = _INSTRUCTIONS[name]
        suffix = "f64" if self.real == "double" else "f32"
        operands = [self._operand(operand) for operand in node.args]
        return self.emit(text.format(word, *operands, T=self.real, S=suffix))

    def _operand(self, operand: Any) -> str:
        if isinstance(operand, fx.Node):
            return self.values[operand]
        number = float(operand)
        if self.real == "float":
            with np.errstate(over="ignore"):
                number = float(np.float32(number))
        return f"0x{struct.pack('>d', number).hex()}"


def _module(
    roles: Sequence[str],
    formats: dict[str, Format],
    body: _Body,
    itemsize: int,
) -> str:
    pointers = [
        f"ptr noalias {'readonly ' if role == 'grad' else ''}%role{r}"
        for r, role in enumerate(roles)
    ]
    scalars = _each(
        body.arguments,
        lambda i, _: (
            f"  %scalar.{i}.at = getelementptr {body.real}, ptr %values, i64 {i}\n"
            f"  %scalar.{i} = load {body.real}, ptr %scalar.{i}.at"
        ),
    )
    bases = _each(
        roles,
        lambda r, role: (
            f"  %role{r}.row = mul i64 %tensors, {r}\n"
            f"  %role{r}.entry = add i64 %role{r}.row, %tensor\n"
            f"  %role{r}.at = getelementptr i64, ptr %pointers, i64 %role{r}.entry\n"
            f"  %role{r}.base = load ptr, ptr %role{r}.at\n"
            f"  %role{r}.offset = mul i64 %first, {formats[role].itemsize}\n"
            f"  %role{r} = getelementptr i8, ptr %role{r}.base, i64 %role{r}.offset"
        ),
    )
    passed = ", ".join(f"ptr %role{r}" for r in range(len(roles)))
    work = f"""
  %row.of.at = getelementptr i64, ptr %row, i64 %tensor
  %row.of = load i64, ptr %row.of.at
  %scalar.entry = mul i64 %row.of, %arguments
  %scalar.bytes = mul i64 %scalar.entry, {itemsize}
  %scalars = getelementptr i8, ptr %values, i64 %scalar.bytes
{bases}
  call void @apply(i64 %n, {passed}, ptr %scalars)
"""
    text = "\n".join(f"  {line}" for line in body.lines)
    return f"""{record_type}

define internal void @apply(i64 %n, {", ".join(pointers)}, ptr noalias %values) #0 {{
entry:
{scalars}
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%next, %loop]
{text}
  %next = add nuw nsw i64 %i, 1
  %done = icmp eq i64 %next, %n
  br i1 %done, label %exit, label %loop, !llvm.loop !0
exit:
  ret void
}}

{member("row values", work)}

attributes #0 = {{ noinline nounwind "prefer-vector-width"="512" }}
!0 = distinct !{{!0, !1}}
!1 = !{{!"llvm.loop.mustprogress"}}
{_declarations(body)}"""


def _declarations(body: _Body) -> str:
    suffix = "f64" if body.real == "double" else "f32"
    declared = {}
    for word, text in _INSTRUCTIONS.values():
        if text in (_CALL, _CALL2):
            operands = ", ".join([body.real] * (2 if text is _CALL2 else 1))
            symbol = f"@llvm.{word}.{suffix}"
            if any(symbol in line for line in body.lines):
                declared[symbol] = f"declare {body.real} {symbol}({operands})\n"
    return "".join(declared.values())


def _each(items: Sequence[Any], line: Callable[[int, Any], str]) -> str:
    return "\n".join(line(index, item) for index, item in enumerate(items))
