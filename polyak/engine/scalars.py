"""The scalar program: what a rule makes of hyperparameters alone, once per step.

The program is a Python function generated from the graph. It works in float64, checks
the guards as it goes, and answers with the kernel's arguments and the new values of the
scalar slots; or with None where the rule would take another branch than the one the
graph was made for. It is the reference for :mod:`.evaluation`, which does the same in
native code.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx

from .graph import Graph
from .stands import chosen

__all__ = ["ScalarProgram", "number_slots", "scalar_program"]

_SIGNS = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.pow: "**",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.eq: "==",
    operator.ne: "!=",
}
_PREFIXES = {operator.neg: "-", operator.pos: "+", operator.abs: "abs"}

Evaluated = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class ScalarProgram:
    """``evaluate(*inputs)`` gives (kernel arguments, new scalar slots) or None."""

    inputs: tuple[str, ...]
    source: str
    evaluate: Callable[..., Evaluated | None]


def number_slots(graph: Graph) -> list[str]:
    """The slots that are numbers."""
    return [name for name in graph.outputs if name in graph.hyperparameters]


def scalar_program(graph: Graph, scalar_slots: tuple[str, ...] = ()) -> ScalarProgram:
    """Generate the scalar program of a graph.

    Args:
        graph: the traced rule.
        scalar_slots: the slots whose new value is a number, in order.
    """
    lines: list[str] = []

    def guard(node: fx.Node) -> None:
        if node not in graph.guards:
            return
        due = graph.guards[node]
        seen = f"bool({node})" if isinstance(due, bool) else str(node)
        lines.append(f"if {seen} != {due}: return None")

    for node in graph.hyperparameters.values():
        guard(node)
    for node in graph.nodes:
        if node in graph.scalars:
            lines.append(f"{node} = {_expression(node)}")
            guard(node)
    arguments = [str(node) for node in graph.arguments() if node in graph.scalars]
    slots = [_operand(graph.outputs[name]) for name in scalar_slots]
    lines.append(f"return {_tuple(arguments)}, {_tuple(slots)}")

    inputs = tuple(graph.hyperparameters)
    names = ", ".join(str(node) for node in graph.hyperparameters.values())
    source = f"def scalars({names}):\n    " + "\n    ".join(lines) + "\n"
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    return ScalarProgram(inputs, source, namespace["scalars"])


def _expression(node: fx.Node) -> str:
    operands = [_operand(operand) for operand in node.args]
    target: Any = node.target
    if target is chosen:
        return f"{operands[1]} if {operands[0]} else {operands[2]}"
    if target in _PREFIXES:
        return f"{_PREFIXES[target]}({operands[0]})"
    return f"{operands[0]} {_SIGNS[target]} {operands[1]}"


def _operand(operand: Any) -> str:
    if isinstance(operand, fx.Node):
        return str(operand)
    if operand != operand or operand in (float("inf"), float("-inf")):
        return f"float('{operand}')"
    return f"({operand!r})"


def _tuple(items: list[str]) -> str:
    return f"({', '.join(items)}{',' if items else ''})"
