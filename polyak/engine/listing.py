"""A kernel as a person would write it: the same operations, with names that speak."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import fx

from ..extent import Extent
from .formats import Format
from .graph import Graph
from .operators import operator_name
from .passes import Pass, Passes, extent_of, is_reduction
from .regions import Call, Region

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
    regions: Sequence[tuple[Region, Passes]],
    formats: Mapping[str, Format],
    real: str,
    *,
    maximize: bool,
) -> str:
    """The kernel's loops, and what is computed before them, as Python text.

    Args:
        name: the optimizer's.
        regions: the rule as it was cut, and when the kernel computes what.
        formats: the storage of each tensor.
        real: the type that the kernel computes in.
        maximize: the gradient is negated.
    """
    lines: list[str] = []
    scalars: dict[fx.Node, ast.expr] = {}
    loops: list[str] = []
    for region, passes in regions:
        writer = _Writer(region.graph, passes, maximize, lines, scalars)
        if region.graph.outputs:  # or leaves give each other all that they take
            loops += writer.loops()
        loops += map(writer.call, region.calls)
    storage = ", ".join(f"{role} {format.name}" for role, format in formats.items())
    before = "".join(f"{line}\n" for line in lines)
    return (
        f"# {name}: {storage}\n"
        + (f"# once a step, in float64\n{before}" if before else "")
        + f"# {'for each number' if len(loops) == 1 else 'pass by pass'}, in {real}\n"
        + "".join(loops)
    )


class _Writer:
    """Writes loops, and what comes before them: the scalars.

    The indices are i for rows and j for columns; i for numbers where there are none.
    """

    def __init__(
        self,
        graph: Graph,
        passes: Passes,
        maximize: bool,
        before: list[str],
        scalars: dict[fx.Node, ast.expr],
    ) -> None:
        self.graph, self.passes = graph, passes
        self.before, self.scalars = before, scalars
        for name, node in graph.hyperparameters.items():
            scalars[node] = _parse(name)
        self.arguments = set(graph.arguments())
        self.tensors = {
            node: _parse("-" * (maximize and name == "grad") + name + self._index(node))
            for name, node in graph.tensors.items()
        }
        for number, node in enumerate(passes.kept):
            word = operator_name(node.target) if is_reduction(node) else "y"
            self.tensors[node] = _parse(f"{word}{number}{self._index(node)}")

    def _index(self, node: fx.Node) -> str:
        """Where a value is: single numbers are nowhere."""
        letters = {Extent.ROW: "i", Extent.COLUMN: "j"}
        letters[Extent.NUMBER] = "i, j" if self.passes.has_rows else "i"
        letter = letters.get(extent_of(node))
        return f"[{letter}]" if letter else ""

    def loops(self) -> Iterator[str]:
        """All of a region."""
        for index, each in enumerate(self.passes.passes):
            yield self.numbers(each, index)
            yield from map(self.interlude, each.after)
        yield from self.small()

    def call(self, call: Call) -> str:
        """The call of a leaf."""
        loop = _Loop(self, [], set())
        return call.text(lambda node: ast.unparse(loop.expression(node)))

    def numbers(self, this: Pass, index: int) -> str:
        """The loop of a pass."""
        if index and not (this.sums or this.stored):
            return ""
        at = "[i, j]" if self.passes.has_rows else "[i]"
        outputs = {f"{name}{at}": self.graph.outputs[name] for name in this.stored}
        operands = [node.all_input_nodes[0] for node in this.sums]
        loop = _Loop(self, [*outputs.values(), *operands], set(this.numbers))
        for node, operand in zip(this.sums, operands, strict=True):
            text = ast.unparse(loop.expression(operand))
            loop.lines.append(f"{ast.unparse(self.tensors[node])} += {text}")
        loop.store(outputs)
        head = "for i, j in numbers:" if self.passes.has_rows else "for i in range(n):"
        lines = "\n    ".join(loop.lines) or "pass"
        means = [node for node in this.sums if operator_name(node.target) == "mean"]
        divided = "".join(
            f"{ast.unparse(self.tensors[node])} /= {_count(node)}\n" for node in means
        )
        return f"{head}\n    {lines}\n{divided}"

    def interlude(self, group: Sequence[fx.Node]) -> str:
        """The loop of what is computed after a pass."""
        (node, *_) = group
        if is_reduction(node):
            (operand,) = node.all_input_nodes
            if extent_of(operand) is Extent.NUMBER:
                return ""
            loop = _Loop(self, [operand], set())
            word, value = operator_name(node.target), loop.expression(operand)
            name = ast.unparse(self.tensors[node])
            return f"{name} = {word}({ast.unparse(value)})\n"
        kept = [node for node in group if node in self.passes.kept]
        loop = _Loop(self, kept, set(group))
        loop.store({ast.unparse(self.tensors[node]): node for node in kept})
        return self._over(extent_of(node), loop.lines)

    def small(self) -> Iterator[str]:
        """The loops that store what extends along rows or columns."""
        for extent in (Extent.ROW, Extent.COLUMN):
            names = [
                name for name in self.passes.small if self.graph.extent(name) is extent
            ]
            if names:
                at = "[i]" if extent is Extent.ROW else "[j]"
                outputs = {f"{name}{at}": self.graph.outputs[name] for name in names}
                loop = _Loop(self, list(outputs.values()), set())
                loop.store(outputs)
                yield self._over(extent, loop.lines)

    def _over(self, extent: Extent, lines: Sequence[str]) -> str:
        heads = {Extent.ROW: "for i in rows:", Extent.COLUMN: "for j in columns:"}
        head = heads.get(extent)
        if head is None:
            return "".join(f"{line}\n" for line in lines)
        body = "\n    ".join(lines)
        return f"{head}\n    {body}\n"


def _count(node: fx.Node) -> str:
    counts = {Extent.ROW: "n_columns", Extent.COLUMN: "n_rows"}
    return counts.get(extent_of(node), "n")


class _Loop:
    """Writes the expressions of a loop; what is used more than once gets a line."""

    def __init__(
        self, writer: _Writer, values: Sequence[Any], own: set[fx.Node]
    ) -> None:
        self.writer, self.own = writer, own
        self.lines: list[str] = []
        self._named: dict[fx.Node, ast.expr] = {}
        self._count = 0
        live = [value for value in values if isinstance(value, fx.Node)]
        self._uses = Counter(live)
        counted: set[fx.Node] = set()
        while live:
            node = live.pop()
            if node in counted or node not in own:
                continue
            counted.add(node)
            operands = [x for x in node.args if isinstance(x, fx.Node)]
            self._uses.update(operands)
            live.extend(operands)

    def store(self, outputs: Mapping[str, Any]) -> None:
        """The stores, which come last: they use what was there before any of them."""
        targets = list(outputs)
        found = [self.expression(value, top=True) for value in outputs.values()]
        texts = [ast.unparse(expression) for expression in found]
        for index, text in enumerate(texts):
            if any(re.search(rf"(?<!\w){re.escape(t)}", text) for t in targets[:index]):
                texts[index] = self._line(text)
        self.lines += [f"{a} = {b}" for a, b in zip(targets, texts, strict=True)]

    def _line(self, text: str) -> str:
        self.lines.append(f"x{self._count} = {text}")
        self._count += 1
        return f"x{self._count - 1}"

    def expression(self, value: Any, *, top: bool = False) -> ast.expr:
        writer = self.writer
        if not isinstance(value, fx.Node):
            return ast.Constant(value)
        for names in (self._named, writer.scalars):
            if value in names:
                return names[value]
        if value in writer.tensors and not (top and value in self.own):
            return writer.tensors[value]
        expression = self._operation(value)
        if value in writer.arguments:
            writer.before.append(f"s{len(writer.before)} = {ast.unparse(expression)}")
            writer.scalars[value] = ast.Name(f"s{len(writer.before) - 1}")
            return writer.scalars[value]
        if value in writer.graph.scalars or self._uses[value] < 2:
            return expression
        self._named[value] = ast.Name(self._line(ast.unparse(expression)))
        return self._named[value]

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
