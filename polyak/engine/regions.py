"""The regions of a rule with leaves: what is fused before, between and after them.

A leaf takes and gives whole tensors. What it takes is computed by a kernel into memory
of its own, it is called, and the kernel of the next region reads what it gave. The last
region computes and stores everything that is returned: nothing is written before all
leaves have succeeded, and what is computed twice costs less than to keep it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import fx

from ..extent import Extent
from .graph import Graph, Value
from .passes import split

__all__ = ["Call", "Region", "cut", "why_not_cut"]


@dataclass(frozen=True)
class Call:
    """The call of a leaf.

    Attributes:
        node: the call in the graph.
        operands: the tensors that it is given, each with the name of its memory.
        result: the name of what it gives.
    """

    node: fx.Node
    operands: Mapping[fx.Node, str]
    result: str


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
    calls = [_call(graph, number, leaf) for number, leaf in enumerate(graph.leaves)]
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
            name: node for call in next_calls for node, name in call.operands.items()
        }
        if level == last:
            outputs = graph.outputs
        tensors = {**graph.tensors, **known}
        regions.append(
            Region(replace(graph, tensors=tensors, outputs=outputs), next_calls)
        )
    return regions


def _call(graph: Graph, number: int, leaf: fx.Node) -> Call:
    name = f"{_name(leaf)}{number}"
    tensors = [node for node in leaf.all_input_nodes if node not in graph.scalars]
    operands = {node: f"{name}_in{index}" for index, node in enumerate(tensors)}
    return Call(leaf, operands, name)


def _name(leaf: fx.Node) -> str:
    name = str(getattr(leaf.target, "__name__", ""))
    return name if name.isidentifier() else "leaf"


def why_not_cut(graph: Graph) -> str | None:
    """Why kernels cannot serve around the leaves, or None if they can."""
    names = ", ".join(map(_name, graph.leaves))
    for region in cut(graph):
        small = [
            node
            for call in region.calls
            for node in call.operands
            if node.meta["extent"] is not Extent.NUMBER
        ]
        if small or not split(region.graph).is_single:
            return f"the rule calls {names}, a leaf, and takes sums"
    return None
