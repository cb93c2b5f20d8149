"""The values of a rule at one place of a tensor, as LLVM instructions."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx

from ..extent import Extent
from .code import Code
from .formats import Format
from .graph import Graph
from .operators import MASKS, operator_name
from .passes import Passes, extent_of, is_constant

__all__ = ["Body", "Place", "Values", "Writer", "declarations"]

_BINARY = "{0} contract {T} {1}, {2}"
_CALL = "call contract {T} @llvm.{0}.{S}({T} {1})"
_CALL2 = "call contract {T} @llvm.{0}.{S}({T} {1}, {T} {2})"
_COMPARE = "fcmp {0} {T} {1}, {2}"
_LOGIC = "{0} {M} {1}, {2}"

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
    "invert": ("xor", "{0} {M} {1}, {true}"),
    "where": ("select", "{0} {M} {1}, {T} {2}, {T} {3}"),
}

# The indices of a value at one place of a tensor, by what it extends along.
Place = Mapping[Extent, str]


@dataclass(frozen=True)
class Body:
    """What the functions of one kernel have in common.

    Attributes:
        graph: the rule.
        passes: when it computes what.
        formats: the storage of each tensor.
        roles: the tensors that the kernel has.
        real: ``"float"`` or ``"double"``, what it computes in.
        maximize: use the negative gradient.
        prefix: what the names of its functions begin with.
    """

    graph: Graph
    passes: Passes
    formats: Mapping[str, Format]
    roles: Sequence[str]
    real: str
    maximize: bool
    prefix: str = ""

    @property
    def itemsize(self) -> int:
        """Bytes of a real."""
        return 8 if self.real == "double" else 4

    # The names of what a function is given

    @property
    def given(self) -> list[str]:
        """The addresses that every function of the kernel is given."""
        roles = [
            f"ptr noalias {'readonly ' * (role == 'grad')}%role{index}"
            for index, role in enumerate(self.roles)
        ]
        buffers = enumerate(self.passes.buffers)
        kept = [f"ptr noalias %kept{index}" for index, _ in buffers]
        return [*roles, "ptr noalias readonly %values", *kept]

    def role(self, name: str) -> str:
        """A tensor's address."""
        return f"%role{self.roles.index(name)}"

    def kept(self, node: fx.Node) -> str:
        """The address of what an interlude computes."""
        return f"%kept{self.passes.buffer(node)}"

    def part(self, node: fx.Node) -> str:
        """The address of a chunk's part of a sum."""
        return f"%part{self.passes.parts.index(node)}"


class Writer:
    """A function in the making: its code, and the scalars that it begins with.

    Args:
        body: what the functions of the kernel have in common.
        code: what is written to.
        lanes: how many values are computed at once, as a vector.
    """

    def __init__(self, body: Body, code: Code, lanes: int = 1) -> None:
        self.body, self.code, self.lanes = body, code, lanes
        self.real, self.mask = self._kind(body.real), self._kind("i1")
        self.suffix = _suffix(body.real, lanes)
        self.scalars: dict[fx.Node, str] = {}
        for index, node in enumerate(body.graph.arguments()):
            address = code.item("%values", str(index), body.itemsize)
            self.scalars[node] = self.load_for_all(address)

    def _kind(self, scalar: str) -> str:
        return scalar if self.lanes == 1 else f"<{self.lanes} x {scalar}>"

    def load(self, address: str) -> str:
        """A value."""
        align = f"align {self.body.itemsize}"
        return self.code.emit(f"load {self.real}, ptr {address}, {align}")

    def load_for_all(self, address: str) -> str:
        """A value that all lanes have."""
        value = self.code.emit(f"load {self.body.real}, ptr {address}")
        return self.for_all(value)

    def save(self, value: str, address: str) -> None:
        """Store a value."""
        align = f"align {self.body.itemsize}"
        self.code.emit(f"store {self.real} {value}, ptr {address}, {align}", void=True)

    def at(self, base: str, index: str) -> str:
        """The address of a real in an array."""
        return self.code.item(base, index, self.body.itemsize)

    def for_all(self, value: str) -> str:
        """A real, for all lanes."""
        return value if self.lanes == 1 else self._spread(self.body.real, value)

    def _spread(self, scalar: str, value: str) -> str:
        kind = self._kind(scalar)
        one = self.code.emit(f"insertelement {kind} poison, {scalar} {value}, i64 0")
        order = f"<{self.lanes} x i32> zeroinitializer"
        return self.code.emit(f"shufflevector {kind} {one}, {kind} poison, {order}")

    def number(self, value: float) -> str:
        """A constant."""
        if self.body.real == "float":
            with np.errstate(over="ignore"):
                value = float(np.float32(value))
        return self._constant(self.body.real, f"0x{struct.pack('>d', value).hex()}")

    def truth(self) -> str:
        """The constant that is true."""
        return self._constant("i1", "true")

    def _constant(self, kind: str, text: str) -> str:
        if self.lanes == 1:
            return text
        return f"<{', '.join([f'{kind} {text}'] * self.lanes)}>"

    def of_first(self, count: str, value: str) -> str:
        """A value in the first ``count`` lanes, 0 in the others."""
        kind = f"<{self.lanes} x i64>"
        lanes = ", ".join(f"i64 {lane}" for lane in range(self.lanes))
        counts = self._spread("i64", count)
        is_first = self.code.emit(f"icmp slt {kind} <{lanes}>, {counts}")
        choice = f"{self.real} {value}, {self.real} {self.number(0.0)}"
        return self.code.emit(f"select {self.mask} {is_first}, {choice}")

    def over_lanes(self, value: str) -> str:
        """The sum over all lanes."""
        total, real = "", self.body.real
        for lane in range(self.lanes):
            one = self.code.emit(f"extractelement {self.real} {value}, i64 {lane}")
            total = self.code.emit(f"fadd {real} {total}, {one}") if total else one
        return total

    def plus(self, x: str, y: str) -> str:
        """A term of a sum, whose terms may be added in any order."""
        return self.code.emit(f"fadd reassoc contract {self.real} {x}, {y}")

    def over_count(self, value: str, count: str) -> str:
        """A sum as a mean. Of many at once it is a product: division takes long."""
        real = self.body.real
        count = self.code.emit(f"uitofp i64 {count} to {real}")
        if self.lanes == 1:
            return self.code.emit(f"fdiv contract {real} {value}, {count}")
        share = self.for_all(self.code.emit(f"fdiv contract {real} 1.0, {count}"))
        return self.code.emit(f"fmul contract {self.real} {value}, {share}")


class Values:
    """The values of a graph at one place of a tensor."""

    def __init__(self, writer: Writer, place: Place) -> None:
        self.writer, self.place = writer, place
        self._known: dict[fx.Node, str] = dict(writer.scalars)
        self._addresses: dict[str, str] = {}

    def of(self, operand: Any) -> str:
        """A value: known, constant, or loaded."""
        writer = self.writer
        if not isinstance(operand, fx.Node):
            return writer.number(float(operand))
        if operand not in self._known:
            self._known[operand] = self._loaded(operand)
        return self._known[operand]

    def compute(self, node: fx.Node) -> str:
        """The value of an operator."""
        word, text = _INSTRUCTIONS[operator_name(node.target)]
        operands = [self.of(operand) for operand in node.args]
        if word == "fdiv" and self._is_scalar(node.args[1]):
            word = "fdiv arcp"  # a product with the reciprocal, taken before the loop
        writer = self.writer
        kinds = {"T": writer.real, "M": writer.mask, "S": writer.suffix}
        instruction = text.format(word, *operands, **kinds, true=writer.truth())
        self._known[node] = writer.code.emit(instruction)
        return self._known[node]

    def _is_scalar(self, operand: Any) -> bool:
        """Whether a value is the same at all places."""
        return not isinstance(operand, fx.Node) or operand in self.writer.scalars

    def store(self, names: Sequence[str]) -> None:
        """Write outputs; all are read before the first is written."""
        writer, body = self.writer, self.writer.body
        values = [self.of(body.graph.outputs[name]) for name in names]
        for name, value in zip(names, values, strict=True):
            format = body.formats[name]
            format.store(writer.code.emit, writer.real, value, self._address(name))

    def keep(self, node: fx.Node) -> None:
        """Write what is computed here and used elsewhere; a truth value as 1 or 0."""
        writer, value = self.writer, self._known[node]
        if _is_mask(node):
            value = writer.code.emit(f"uitofp {writer.mask} {value} to {writer.real}")
        index = self.place[extent_of(node)]
        writer.save(value, writer.at(writer.body.kept(node), index))

    def _loaded(self, node: fx.Node) -> str:
        writer, body = self.writer, self.writer.body
        if is_constant(node):
            dtype = np.float64 if body.real == "double" else np.float32
            return writer.number(float(np.finfo(dtype).eps))
        names = [name for name, known in body.graph.tensors.items() if known is node]
        if not names:
            is_whole = extent_of(node) is Extent.WHOLE
            load = writer.load_for_all if is_whole else writer.load
            place = self.place[extent_of(node)]
            value = load(writer.at(body.kept(node), place))
            if not _is_mask(node):
                return value
            zero = writer.number(0.0)
            return writer.code.emit(f"fcmp une {writer.real} {value}, {zero}")
        (name,) = names
        format = body.formats[name]
        value = format.load(writer.code.emit, writer.real, self._address(name))
        if body.maximize and name == "grad":
            value = writer.code.emit(f"fneg {writer.real} {value}")
        return value

    def _address(self, name: str) -> str:
        if name not in self._addresses:
            body = self.writer.body
            index = self.place[body.graph.extent(name)]
            self._addresses[name] = self.writer.code.item(
                body.role(name), index, body.formats[name].itemsize
            )
        return self._addresses[name]


def _is_mask(node: fx.Node) -> bool:
    return operator_name(node.target) in MASKS


def _suffix(real: str, lanes: int) -> str:
    """What LLVM appends to the name of a function of such values."""
    suffix = "f64" if real == "double" else "f32"
    return suffix if lanes == 1 else f"v{lanes}{suffix}"


def declarations(text: str) -> str:
    """The intrinsic functions that some instructions call."""
    called = set(re.findall(r"call contract (.*?) @llvm\.(\w+)\.(\w+)\(", text))
    twice = {word for word, form in _INSTRUCTIONS.values() if form is _CALL2}
    return "".join(
        f"declare {kind} @llvm.{word}.{suffix}"
        f"({', '.join([kind] * (2 if word in twice else 1))})\n"
        for kind, word, suffix in sorted(called)
    )
