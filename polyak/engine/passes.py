"""The passes of a kernel over a tensor's numbers.

A kernel that only computes with each number makes one pass. A sum over numbers is known
when a pass has ended; what is made of it reaches the numbers in the next pass:

- in a *pass* the loop goes over all numbers: it adds up, and the last pass stores;
- in the *interlude* that follows, what extends along rows, columns or less is computed,
  from the sums and from state that is no larger.

What a pass needs of an earlier pass's numbers it computes again: reading twice costs
less than storing and reading.

Many small matrices go another way (:mod:`.phases`), within which there are passes, too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

from ..extent import Extent
from .graph import Graph, Value
from .operators import REDUCTIONS, operator_name

__all__ = [
    "Pass",
    "Passes",
    "changed",
    "extent_of",
    "grouped",
    "is_constant",
    "is_reduction",
    "needed",
    "scheduled",
    "split",
]


@dataclass(frozen=True)
class Pass:
    """A pass and its interlude.

    Attributes:
        sums: the reductions whose operand extends along all numbers.
        stored: names of the outputs that are stored in the pass.
        numbers: the nodes to compute for each number, in order.
        after: the nodes of the interlude, in order, ``sums`` among them: each reduction
            by itself, and together what follows each other and extends alike.
    """

    sums: list[fx.Node] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    numbers: list[fx.Node] = field(default_factory=list)
    after: list[list[fx.Node]] = field(default_factory=list)


@dataclass(frozen=True)
class Passes:
    """How a kernel goes over a tensor.

    Attributes:
        passes: in order; at least one.
        kept: what interludes compute for others.
        buffers: the memory for it: what is not needed at the same time shares one.
        small: names of the outputs that interludes compute; the last one stores them.
        has_rows: rows and columns are told apart.
    """

    passes: list[Pass]
    kept: list[fx.Node]
    buffers: list[list[fx.Node]]
    small: list[str]
    has_rows: bool

    @property
    def is_single(self) -> bool:
        """Whether all there is to do is to compute with each number by itself."""
        return len(self.passes) == 1 and not (self.kept or self.small or self.has_rows)

    @property
    def needs_matrices(self) -> bool:
        """Whether a chunk must have whole matrices."""
        return False

    @property
    def parts(self) -> list[fx.Node]:
        """The sums of which each chunk finds a part: those over everything first."""
        sums = [node for each in self.passes for node in each.sums]
        extents = (Extent.WHOLE, Extent.COLUMN)
        return [
            node for extent in extents for node in sums if extent_of(node) is extent
        ]

    @property
    def sums_columns(self) -> bool:
        """Whether a chunk finds parts of a sum for each column that it has."""
        return any(extent_of(node) is Extent.COLUMN for node in self.parts)

    def buffer(self, node: fx.Node) -> int:
        """The index of the buffer that a kept node has."""
        (index,) = [i for i, nodes in enumerate(self.buffers) if node in nodes]
        return index

    def memory(self, matrices: int, rows: int, columns: int) -> int:
        """How many numbers ``kept`` takes, for so many matrices."""
        owners = [nodes[0] for nodes in self.buffers]
        return _memory(owners, matrices, rows, columns)

    def memory_of_parts(self, matrices: int, columns: int) -> int:
        """How many numbers the parts of a chunk take that touches so many matrices."""
        return _memory(self.parts, matrices, 1, columns)


def extent_of(node: fx.Node) -> Extent:
    """Along what a tensor of a graph extends."""
    extent: Extent = node.meta["extent"]
    return extent


def is_reduction(node: fx.Node) -> bool:
    """Whether a node is a sum or a mean."""
    return node.op == "call_function" and operator_name(node.target) in REDUCTIONS


def is_constant(node: fx.Node) -> bool:
    """Whether a node is the same for all tensors of a kernel."""
    return node.op == "call_function" and operator_name(node.target) == "epsilon"


def split(graph: Graph) -> Passes:
    """Say what is computed in which pass, and what between them."""
    return scheduled(graph, changed(graph))


def changed(graph: Graph) -> dict[str, Value]:
    """The outputs that are to be stored."""
    return {
        name: value
        for name, value in graph.outputs.items()
        if name not in graph.hyperparameters and value is not graph.tensors.get(name)
    }


def needed(graph: Graph, roots: Iterable[object]) -> list[fx.Node]:
    """What must be computed for others, in order."""
    given = set(graph.tensors.values())
    live = _closure(graph, _nodes(roots), given)
    return [node for node in graph.nodes if node in live and node not in given]


def scheduled(
    graph: Graph,
    outputs: Mapping[str, Value],
    known: Iterable[fx.Node] = (),
    totals: Sequence[fx.Node] = (),
) -> Passes:
    """Say in which pass and interlude what is computed.

    Args:
        graph: the rule.
        outputs: what is to be stored, by name.
        known: what has been computed before.
        totals: the reductions that are to be computed beside.
    """
    given = {*graph.tensors.values(), *known}
    live = _closure(graph, [*_nodes(outputs.values()), *totals], given)
    nodes = [node for node in graph.nodes if node in live and node not in given]
    rank = _ranks(graph, nodes)
    large = [name for name in outputs if graph.extent(name) is Extent.NUMBER]
    ends = [rank.get(node, 0) for node in _nodes(outputs[name] for name in large)]
    ends += [rank[node] - 1 for node in nodes if _sums_numbers(node)]
    last = max(ends, default=0)
    passes = []
    for index in range(last + 1):
        after = [node for node in nodes if rank[node] == index + 1]
        after = [node for node in after if not _is_large(node)]
        sums = [node for node in after if _sums_numbers(node)]
        stored = large if index == last else []
        targets = [node.all_input_nodes[0] for node in sums]
        targets += _nodes(outputs[name] for name in stored)
        found = _closure(graph, targets, given, through=_is_large)
        numbers = [node for node in nodes if node in found and _is_large(node)]
        passes.append(Pass(sums, stored, numbers, grouped(after)))
    results = set(_nodes(outputs.values()))
    kept = [
        node
        for each in passes
        for group in each.after
        for node in group
        if is_reduction(node)
        or node in results
        or any(user in live and user not in group for user in node.users)
    ]
    small = [name for name in outputs if name not in large]
    at_the_end = [*_nodes(outputs[name] for name in small), *totals]
    in_passes = [_nodes(outputs[name] for name in each.stored) for each in passes]
    buffers = _buffers(_lives(passes, kept, in_passes, at_the_end))
    return Passes(passes, kept, buffers, small, graph.has_rows)


# A moment: how many passes have begun, and how many groups of the interlude.
_Moment = tuple[int, int]


def _lives(
    passes: list[Pass],
    kept: list[fx.Node],
    stored: list[list[fx.Node]],
    at_the_end: list[fx.Node],
) -> dict[fx.Node, tuple[_Moment, _Moment]]:
    """When each node that is kept is written first, and when it is read last."""
    born: dict[fx.Node, _Moment] = {}
    last: dict[fx.Node, _Moment] = {}

    def read(nodes: Iterable[fx.Node], moment: _Moment) -> None:
        last.update((x, moment) for node in nodes for x in node.all_input_nodes)

    for index, each in enumerate(passes):
        read(each.numbers, (index, 0))
        last.update((node, (index, 0)) for node in stored[index])
        for place, group in enumerate(each.after, 1):
            read(group, (index, place))
            for node in group:
                born[node] = index, 0 if node in each.sums else place
    last.update((node, (len(passes), 0)) for node in at_the_end)
    return {node: (born[node], last[node]) for node in kept}


def _buffers(
    lives: Mapping[fx.Node, tuple[_Moment, _Moment]],
) -> list[list[fx.Node]]:
    """Nodes that extend alike and live one after the other, together."""
    buffers: list[list[fx.Node]] = []
    for node in sorted(lives, key=lambda node: lives[node][0]):
        for nodes in buffers:
            is_free = lives[nodes[-1]][1] < lives[node][0]
            if is_free and extent_of(nodes[0]) is extent_of(node):
                nodes.append(node)
                break
        else:
            buffers.append([node])
    return buffers


def grouped(nodes: list[fx.Node]) -> list[list[fx.Node]]:
    """Each reduction by itself, and together what follows each other and is alike."""
    groups: list[list[fx.Node]] = []
    for node in nodes:
        if not (groups and _go_together(groups[-1][-1], node)):
            groups.append([])
        groups[-1].append(node)
    return groups


def _go_together(x: fx.Node, y: fx.Node) -> bool:
    alike = extent_of(x) is extent_of(y)
    return alike and not (is_reduction(x) or is_reduction(y))


def _memory(nodes: list[fx.Node], matrices: int, rows: int, columns: int) -> int:
    sizes = {
        Extent.ROW: matrices * rows,
        Extent.COLUMN: matrices * columns,
        Extent.MATRIX: matrices,
        Extent.WHOLE: 1,
    }
    return sum(sizes[extent_of(node)] for node in nodes)


def _nodes(values: Iterable[object]) -> list[fx.Node]:
    return [value for value in values if isinstance(value, fx.Node)]


def _is_large(node: fx.Node) -> bool:
    return extent_of(node) is Extent.NUMBER


def _sums_numbers(node: fx.Node) -> bool:
    return is_reduction(node) and _is_large(node.all_input_nodes[0])


def _closure(
    graph: Graph,
    roots: Iterable[fx.Node],
    given: Collection[fx.Node],
    through: Callable[[fx.Node], bool] = lambda node: True,
) -> set[fx.Node]:
    """The tensors that others are made of, and made of through such nodes alone."""
    found = set[fx.Node]()
    open_nodes = list(roots)
    while open_nodes:
        node = open_nodes.pop()
        if node not in found and node not in graph.scalars:
            found.add(node)
            if node not in given and through(node):
                open_nodes.extend(node.all_input_nodes)
    return found


def _ranks(graph: Graph, nodes: list[fx.Node]) -> dict[fx.Node, int]:
    """How many passes must have ended before a value is known."""
    rank: dict[fx.Node, int] = {}
    for node in nodes:
        known = max((rank.get(x, 0) for x in node.all_input_nodes), default=0)
        if _sums_numbers(node):
            known += 1
        elif not (_is_large(node) or is_constant(node)):
            known = max(known, 1)
        rank[node] = known
    return rank
