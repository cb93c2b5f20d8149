"""The operators of a rule in Triton's words, and expressions made of them.

A table has one text for each core operator (:mod:`polyak.engine.operators`). Division
and root are those that round to nearest, as torch's are; the plain ones of float32 are
approximations.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from typing import Any

from torch import fx

from ..operators import operator_name

__all__ = ["ON_BLOCKS", "ON_HOST", "ON_NUMBERS", "Expressions", "parenthesised"]

_SIGNS = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "eq": "==",
    "ne": "!=",
    "and": "&",
    "or": "|",
}
_PLAIN = {
    **{name: f"{{0}} {sign} {{1}}" for name, sign in _SIGNS.items()},
    "neg": "-{0}",
    "pos": "{0}",
}
_SHARED = {
    **_PLAIN,
    "invert": "~{0}",
    "abs": "tl.abs({0})",
    "where": "tl.where({0}, {1}, {2})",
    "floor": "tl.floor({0})",
    "exp": "exponential({0})",
    "log": "logarithm({0})",
    "sin": "sine({0})",
    "cos": "cosine({0})",
    "tanh": "tanh({0})",
    "pow": "power({0}, {1})",
    "copysign": "copysign({0}, {1})",
}

# On blocks of numbers, by the type that is computed in.
ON_BLOCKS: Mapping[str, Mapping[str, str]] = {
    "float32": {
        **_SHARED,
        "div": "tl.div_rn({0}, {1})",
        "sqrt": "tl.sqrt_rn({0})",
    },
    "float64": {**_SHARED, "div": "{0} / {1}", "sqrt": "tl.sqrt({0})"},
}

# On the scalars of a step, where they are computed on the device.
ON_NUMBERS: Mapping[str, str] = {
    **ON_BLOCKS["float64"],
    "floordiv": "tl.floor({0} / {1})",
    "mod": "{0} - tl.floor({0} / {1}) * {1}",
}

# The same, as the host computes them.
ON_HOST: Mapping[str, str] = {
    **_PLAIN,
    "div": "{0} / {1}",
    "floordiv": "{0} // {1}",
    "mod": "{0} % {1}",
    "pow": "{0} ** {1}",
    "abs": "abs({0})",
    "where": "{1} if {0} else {2}",
}


class Expressions:
    """Texts of nodes. What is used more than once becomes a line of its own.

    Args:
        table: the operators.
        real: Triton's type of numbers that a call gets as literals; None in Python.
        letter: of the names that lines get.
        shared: the nodes that get a line.
    """

    def __init__(
        self,
        table: Mapping[str, str],
        real: str | None,
        letter: str,
        shared: set[fx.Node],
    ) -> None:
        self.table, self.real, self.letter, self.shared = table, real, letter, shared
        self.names: dict[fx.Node, str] = {}
        self.lines: list[str] = []

    def text(self, value: Any) -> str:
        """The expression of a node or a number."""
        if not isinstance(value, fx.Node):
            return _literal(value)
        if value in self.names:
            return self.names[value]
        made = self._operation(value)
        if value not in self.shared:
            return made
        name = f"{self.letter}{len(self.lines)}"
        self.lines.append(f"{name} = {made}")
        self.names[value] = name
        return name

    def _operation(self, node: fx.Node) -> str:
        word = self.table[operator_name(node.target)]
        operands = [self._operand(word, operand) for operand in node.args]
        return parenthesised(word.format(*operands))

    def _operand(self, word: str, operand: Any) -> str:
        text = self.text(operand)
        if isinstance(operand, fx.Node) or self.real is None or "(" not in word:
            return f"({text})"
        return f"tl.full((), {text}, {self.real})"


def parenthesised(text: str) -> str:
    """An expression without the parentheses that it does not need."""
    return ast.unparse(ast.parse(text, mode="eval"))


def _literal(value: Any) -> str:
    number = float(value)
    return repr(number) if math.isfinite(number) else f"float('{number}')"
