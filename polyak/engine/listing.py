"""A kernel as a person would write it: the same operations, with names that speak."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from torch import fx

from .formats import Format
from .graph import Graph
from .operators import operator_name

__all__ = ["listing"]

_BINARY: dict[str, ast.operator] = {
    "add": ast.Add(),
    "sub": ast.Sub(),
    "mul": ast.Mult(),
    "div": ast.Div(),
    "floordiv": ast.FloorDiv(),
    "mod": ast.Mod(),
    "pow": ast.Pow(),
    "and": ast.BitAnd(),
    "or": ast.BitOr(),
}
_COMPARE: dict[str, ast.cmpop] = {
    "lt": ast.Lt(),
    "le": ast.LtE(),
    "gt": ast.Gt(),
    "ge": ast.GtE(),
    "eq": ast.Eq(),
    "ne": ast.NotEq(),
}
_UNARY: dict[str, ast.unaryop] = {
    "neg": ast.USub(),
    "pos": ast.UAdd(),
    "invert": ast.Invert(),
}


def listing(
    name: str,
    graph: Graph,
    formats: Mapping[str, Format],
    real: str,
    *,
    maximize: bool,
) -> str:
    """The kernel's loop, and what is computed before it, as Python text.

    Args:
        name: the optimizer's.
        graph: the rule as it was read.
        formats: the storage of each tensor.
        real: the type that the kernel computes in.
        maximize: the gradient is negated.
    """
    writer = _Writer(graph, maximize)
    stored = {
        role: value
        for role, value in graph.outputs.items()
        if role in formats and value is not graph.tensors[role]
    }
    results = writer.results(stored)
    loop = "\n    ".join([*writer.inside, *results]) or "pass"
    storage = ", ".join(f"{role} {format.name}" for role, format in formats.items())
    before = "".join(f"{line}\n" for line in writer.before)
    return (
        f"# {name}: {storage}\n"
        + (f"# once a step, in float64\n{before}" if before else "")
        + f"# for each number, in {real}\nfor i in range(n):\n    {loop}\n"
    )


class _Writer:
    """Writes expressions; what is used more than once gets a line of its own."""

    def __init__(self, graph: Graph, maximize: bool) -> None:
        self.graph, self.maximize = graph, maximize
        self.before: list[str] = []
        self.inside: list[str] = []
        self.named: dict[fx.Node, ast.expr] = {}
        self.arguments = set(graph.arguments())
        self.uses: dict[fx.Node, int] = {}
        live = [value for value in graph.outputs.values() if isinstance(value, fx.Node)]
        counted: set[fx.Node] = set()
        for node in live:
            self.uses[node] = self.uses.get(node, 0) + 1
        while live:
            node = live.pop()
            if node in counted:
                continue
            counted.add(node)
            for operand in node.all_input_nodes:
                self.uses[operand] = self.uses.get(operand, 0) + 1
                live.append(operand)
        for name, node in graph.tensors.items():
            self.named[node] = _parse(
                f"-{name}[i]" if maximize and name == "grad" else f"{name}[i]"
            )
        for name, node in graph.hyperparameters.items():
            self.named[node] = _parse(name)

    def results(self, stored: Mapping[str, Any]) -> list[str]:
        """The stores, which come last: they use what was there before any of them."""
        lines: list[str] = []
        for index, (role, value) in enumerate(stored.items()):
            text = ast.unparse(self.expression(value))
            written = "|".join(list(stored)[:index])
            if written and re.search(rf"\b({written})\[i\]", text):
                self.inside.append(f"x{len(self.inside)} = {text}")
                text = f"x{len(self.inside) - 1}"
            lines.append(f"{role}[i] = {text}")
        return lines

    def expression(self, value: Any) -> ast.expr:
        if not isinstance(value, fx.Node):
            return ast.Constant(value)
        if value in self.named:
            return self.named[value]
        expression = self._operation(value)
        hoisted = value in self.arguments
        if not hoisted and (self.uses.get(value, 0) < 2 or value in self.graph.scalars):
            return expression
        lines, letter = (self.before, "s") if hoisted else (self.inside, "x")
        name = f"{letter}{len(lines)}"
        lines.append(f"{name} = {ast.unparse(expression)}")
        self.named[value] = ast.Name(name)
        return self.named[value]

    def _operation(self, node: fx.Node) -> ast.expr:
        word = operator_name(node.target)
        operands = [self.expression(operand) for operand in node.args]
        if word in _BINARY:
            return ast.BinOp(operands[0], _BINARY[word], operands[1])
        if word in _COMPARE:
            return ast.Compare(operands[0], [_COMPARE[word]], [operands[1]])
        if word in _UNARY:
            return ast.UnaryOp(_UNARY[word], operands[0])
        return ast.Call(ast.Name(word), operands, [])


def _parse(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body
