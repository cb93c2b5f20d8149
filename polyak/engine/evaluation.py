"""The scalar program in native code, for all rows of a table at once.

It computes what :mod:`.scalars` does, bit for bit, or answers that Python must do it:
where a guard does not hold, and where a value is as large as 2**53 or no number. There
Python may have another answer: an error, a complex number, or an int.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Iterable
from typing import Any

from torch import fx

from .code import Code
from .graph import Graph
from .scalars import number_slots
from .stands import chosen
from .table import loads

__all__ = ["EXACT", "evaluation", "may_be_ints"]

_ARITHMETIC = {
    operator.add: "fadd",
    operator.sub: "fsub",
    operator.mul: "fmul",
    operator.truediv: "fdiv",
}
_COMPARISONS = {
    operator.lt: "olt",
    operator.le: "ole",
    operator.gt: "ogt",
    operator.ge: "oge",
    operator.eq: "oeq",
    operator.ne: "une",
}
_DIVISION = operator.truediv
_OTHERS = {operator.pow, operator.neg, operator.pos, operator.abs, chosen}
EXACT = 2.0**53  # below, an int is a float, exactly


def evaluation(graph: Graph, real: str) -> str | None:
    """``@prepare(table)``: 0 if the rows are evaluated, 1 if Python must do it.

    Args:
        graph: the rule.
        real: LLVM's type of the kernel's scalars.

    Returns:
        LLVM, or None where the rule makes something of scalars that is not in it.
    """
    scalars = [node for node in graph.nodes if node in graph.scalars]
    whole = _whole_numbers(scalars)
    if graph.leaves or whole is None:
        return None
    code = Code()
    code.write(loads("rows numbers arguments expected updated values inputs pow"))
    code.write(loads("number_is_double written dtypes"))
    fails = code.variable("i1", "false")
    with code.loop("0", "%rows") as row:
        first = code.multiply(row, "%numbers")
        _count(code, graph, first)
        program = _Program(code, fails, whole)
        _read(program, graph, row)
        for node in (*graph.hyperparameters.values(), *scalars):
            if node not in program.values:
                program.compute(node)
            if node in graph.guards:
                program.guard(node, graph.guards[node])
        _write_arguments(program, graph, code.multiply(row, "%arguments"), real)
        for index, name in enumerate(number_slots(graph)):
            at = code.item("%updated", code.add(first, str(index)), 8)
            value = program.number(graph.outputs[name])
            code.emit(f"store double {value}, ptr {at}", void=True)
        with code.loop("0", "%numbers") as place:
            _round(code, place, code.item("%updated", code.add(first, place), 8))
    failed = code.emit(f"load i1, ptr {fails}")
    code.write(f"%failed = zext i1 {failed} to i64")
    head = "define i64 @prepare(ptr %table) #2 {\nentry:"
    return f"{head}\n{code.text}\n  ret i64 %failed\n}}\n"


def _whole_numbers(scalars: list[fx.Node]) -> set[fx.Node] | None:
    """The nodes that are ints in Python, which have no zero with a sign.

    None if there is an operator that only Python has, or one whose result may be an int
    or a float.
    """
    whole = set[fx.Node]()
    for node in scalars:
        target: Any = node.target
        if target not in _ARITHMETIC.keys() | _COMPARISONS.keys() | _OTHERS:
            return None
        operands = node.args[1:] if target is chosen else node.args
        are_whole = {
            o in whole if isinstance(o, fx.Node) else type(o) is not float
            for o in operands
        }
        if target in _COMPARISONS or (are_whole == {True} and target is not _DIVISION):
            whole.add(node)
        if target is chosen and len(are_whole) > 1:
            return None
        if target is operator.pow and are_whole == {True}:
            return None
    return whole


def may_be_ints(
    graph: Graph, floats: Iterable[fx.Node], hyperparameters: Iterable[fx.Node]
) -> list[bool]:
    """Of which hyperparameters an int does what the equal float does.

    So it is where it is only compared, or meets a float: ints among themselves have no
    zero with a sign, and no rounding.

    Args:
        graph: the rule.
        floats: inputs that are floats always.
        hyperparameters: those asked about.
    """
    known = {*floats}

    def is_float(value: Any) -> bool:
        return value in known if isinstance(value, fx.Node) else type(value) is float

    for node in graph.nodes:
        target: Any = node.target
        is_division = target is _DIVISION
        meets_one = target in _ARITHMETIC and any(map(is_float, node.args))
        if node in graph.scalars and (is_division or meets_one):
            known.add(node)

    def is_harmless(user: fx.Node, node: fx.Node) -> bool:
        target: Any = user.target
        others = [value for value in user.args if value is not node]
        meets_one = target in _ARITHMETIC and any(map(is_float, others))
        return meets_one or target in _COMPARISONS

    return [
        all(is_harmless(user, node) for user in node.users if user in graph.scalars)
        for node in hyperparameters
    ]


def _read(program: _Program, graph: Graph, row: str) -> None:
    """The inputs of a row, from where the table says that they are."""
    code, strides = program.code, str(len(graph.hyperparameters))
    for index, node in enumerate(graph.hyperparameters.values()):
        first = code.emit(f"load ptr, ptr {code.item('%inputs', str(index), 8)}")
        stride_at = code.item("%inputs", code.add(strides, str(index)), 8)
        stride = code.emit(f"load i64, ptr {stride_at}")
        at = code.item(first, code.multiply(row, stride), 8)
        program.values[node] = code.emit(f"load double, ptr {at}")


def _write_arguments(program: _Program, graph: Graph, entry: str, real: str) -> None:
    """What the kernel takes, in its precision."""
    code, size = program.code, 4 if real == "float" else 8
    for index, node in enumerate(graph.arguments()):
        value = program.number(node)
        if real == "float":
            value = code.emit(f"fptrunc double {value} to float")
        at = code.item("%values", code.add(entry, str(index)), size)
        code.emit(f"store {real} {value}, ptr {at}", void=True)


def _count(code: Code, graph: Graph, first: str) -> None:
    """The step counter, if there is one, comes after the numbers among the slots."""
    slots = str(len(number_slots(graph)))
    with code.when(code.emit(f"icmp sgt i64 %numbers, {slots}")):
        at = code.add(first, slots)
        before = code.emit(f"load double, ptr {code.item('%expected', at, 8)}")
        after = code.emit(f"fadd double {before}, 1.0")
        place = code.item("%updated", at, 8)
        code.emit(f"store double {after}, ptr {place}", void=True)


def _round(code: Code, index: str, at: str) -> None:
    """What the tensor of a number holds of a value."""
    kind_at = code.item("%dtypes", code.add(code.add("%written", "1"), index), 8)
    kind = code.emit(f"load i64, ptr {kind_at}")
    is_narrow = code.emit(f"icmp ne i64 {kind}, %number_is_double")
    with code.when(is_narrow):
        value = code.emit(f"load double, ptr {at}")
        narrow = code.emit(f"fptrunc double {value} to float")
        rounded = code.emit(f"fpext float {narrow} to double")
        code.emit(f"store double {rounded}, ptr {at}", void=True)


class _Program:
    """The scalars of a row: numbers are ``double``, truth values ``i1``."""

    def __init__(self, code: Code, fails: str, whole: set[fx.Node]) -> None:
        self.code, self.fails, self.whole = code, fails, whole
        self.values: dict[fx.Node, str] = {}
        self.truths: dict[fx.Node, str] = {}

    def compute(self, node: fx.Node) -> None:
        """The value of a node whose operands have theirs."""
        target: Any = node.target
        if target in _COMPARISONS:
            x, y = map(self.number, node.args)
            test = f"fcmp {_COMPARISONS[target]} double {x}, {y}"
            self.truths[node] = self.code.emit(test)
            return
        if target is chosen:
            condition = self.truth(node.args[0])
            x, y = map(self.number, node.args[1:])
            text = f"select i1 {condition}, double {x}, double {y}"
        else:
            text = self._operation(target, [*map(self.number, node.args)])
        value = self.code.emit(text)
        if node in self.whole:
            value = self.code.emit(f"fadd double {value}, 0.0")  # -0.0 becomes 0.0
        self.values[node] = value
        size = self.code.emit(self._size(value))
        self._fail_if(self.code.emit(f"fcmp uge double {size}, {_literal(EXACT)}"))

    def _operation(self, target: Any, operands: list[str]) -> str:
        if target in _ARITHMETIC:
            return f"{_ARITHMETIC[target]} double {operands[0]}, {operands[1]}"
        if target is operator.pow:
            return f"call double %pow(double {operands[0]}, double {operands[1]})"
        if target is operator.neg:
            return f"fneg double {operands[0]}"
        if target is operator.abs:
            return self._size(operands[0])
        return f"select i1 true, double {operands[0]}, double {operands[0]}"

    def _size(self, value: str) -> str:
        """The absolute value: without the first bit."""
        bits = self.code.emit(f"bitcast double {value} to i64")
        size = self.code.emit(f"and i64 {bits}, {2**63 - 1}")
        return f"bitcast i64 {size} to double"

    def guard(self, node: fx.Node, due: bool | int) -> None:
        """Python must answer where a branch would be another."""
        if isinstance(due, bool):
            other = self.code.emit(f"icmp ne i1 {self.truth(node)}, {str(due).lower()}")
        else:
            test = f"fcmp une double {self.number(node)}, {_literal(float(due))}"
            other = self.code.emit(test)
        self._fail_if(other)

    def _fail_if(self, condition: str) -> None:
        before = self.code.emit(f"load i1, ptr {self.fails}")
        after = self.code.emit(f"or i1 {before}, {condition}")
        self.code.emit(f"store i1 {after}, ptr {self.fails}", void=True)

    def number(self, value: Any) -> str:
        """A value as a number: a truth value is 0 or 1."""
        if not isinstance(value, fx.Node):
            return _literal(float(value))
        if value in self.truths:
            return self.code.emit(f"uitofp i1 {self.truths[value]} to double")
        return self.values[value]

    def truth(self, value: Any) -> str:
        """Whether a value is true: a number is unless it is 0."""
        if value in self.truths:
            return self.truths[value]
        return self.code.emit(f"fcmp une double {self.number(value)}, 0.0")


def _literal(value: float) -> str:
    return f"0x{struct.pack('>d', value).hex()}"
