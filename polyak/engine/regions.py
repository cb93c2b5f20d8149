"""The regions of a rule with leaves: what is fused before, between and after them.

A leaf takes and gives whole tensors. What it takes is computed by a kernel into memory
of its own, it is called, and the kernel of the next region reads what it gave. What one
leaf gives to another is nobody else's business. The last region computes and stores
everything that is returned: nothing is written before all leaves have succeeded, and
what is computed twice costs less than to keep it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from ..extent import Extent
from .graph import Graph, Value
from .operators import MASKS, operator_name
from .passes import split
from .stands import mapped

__all__ = ["Call", "Region", "cut", "why_not_cut"]


@dataclass(frozen=True)
class Call:
    """The call of a leaf.

    Attributes:
        node: the call in the graph.
        tensors: those that it is given, with their names.
        computed: which of them a kernel computes; the others are given by leaves.
        result: the name of what it gives.
        is_read: a kernel reads that.
    """

    node: fx.Node
    tensors: Mapping[fx.Node, str]
    computed: tuple[fx.Node, ...]
    result: str
    is_read: bool

    def memory(self) -> list[str]:
        """The names of what a kernel writes and reads."""
        names = [self.tensors[node] for node in self.computed]
        return [*names, self.result] if self.is_read else names

    def text(self, of: Callable[[fx.Node], str]) -> str:
        """The call as a line of Python; scalars as the given function writes them."""

        def known(value: Any) -> Any:
            if not isinstance(value, fx.Node):
                return value
            return _Text(self.tensors.get(value) or of(value))

        args, kwargs = mapped(self.node.meta["given"], known)
        words = [*map(repr, args)]
        words += [f"{key}={value!r}" for key, value in kwargs.items()]
        name = getattr(self.node.target, "__name__", "leaf")
        return f"{self.result} = {name}({', '.join(words)})\n"


class _Text(str):
    """A text that stands for itself within a list or a tuple."""

    def __repr__(self) -> str:
        return self


@dataclass(frozen=True)
class Region:
    """What one kernel computes.

    Attributes:
        graph: the rule, where results of leaves are tensors that it is given, and what
            the next leaves take are outputs.
        calls: the leaves that come after it.
    """

    graph: Graph
    calls: list[Call]


def cut(graph: Graph) -> list[Region]:
    """Cut a rule into regions; without leaves it is one."""
    calls = _calls(graph)
    depth: dict[fx.Node, int] = {}
    for node in graph.nodes:
        before = max((depth.get(x, 0) for x in node.all_input_nodes), default=0)
        depth[node] = before + (node in graph.leaves)
    last = max((depth[call.node] for call in calls), default=0)
    regions = []
    for level in range(last + 1):
        known = {call.result: call.node for call in calls if depth[call.node] <= level}
        next_calls = [call for call in calls if depth[call.node] == level + 1]
        outputs: dict[str, Value] = {
            call.tensors[node]: node for call in next_calls for node in call.computed
        }
        if level == last:
            outputs = graph.outputs
        tensors = {**graph.tensors, **known}
        regions.append(
            Region(replace(graph, tensors=tensors, outputs=outputs), next_calls)
        )
    return regions


def _calls(graph: Graph) -> list[Call]:
    """The leaves in order, with a name for all that they take and give."""
    taken = {*graph.tensors, *graph.hyperparameters}
    names: dict[fx.Node, str] = {}
    returned = list(graph.outputs.values())
    calls = []
    for number, leaf in enumerate(graph.leaves):
        name = names[leaf] = _new(f"{_name(leaf)}{number}", taken)
        nodes = [node for node in leaf.all_input_nodes if node not in graph.scalars]
        computed = tuple(node for node in nodes if node not in names)
        tensors = {
            node: names.get(node) or _new(f"{name}_in{index}", taken)
            for index, node in enumerate(nodes)
        }
        is_read = leaf in returned or any(x not in graph.leaves for x in leaf.users)
        calls.append(Call(leaf, tensors, computed, name, is_read))
    return calls


def _new(name: str, taken: set[str]) -> str:
    """A name that nothing else in the rule has."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _name(leaf: fx.Node) -> str:
    name = str(getattr(leaf.target, "__name__", ""))
    return name if name.isidentifier() else "leaf"


def why_not_cut(graph: Graph) -> str | None:
    """Why kernels cannot serve around the leaves, or None if they can."""
    names = ", ".join(map(_name, graph.leaves))
    for region in cut(graph):
        given = [node for call in region.calls for node in call.computed]
        if any(operator_name(node.target) in MASKS for node in given):
            return f"the rule calls {names}, a leaf, on truth values"
        small = any(node.meta["extent"] is not Extent.NUMBER for node in given)
        if small or not split(region.graph).is_single:
            return f"the rule calls {names}, a leaf, and takes sums"
    return None
