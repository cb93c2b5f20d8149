"""The scalar program on the device: for steps whose counter lives there.

What :mod:`polyak.engine.scalars` computes on the host, once for each row, a small
kernel computes here, a row for each tensor: it reads every number that the rule takes
from where it is (the counter, a learning rate that is a tensor, a number that the host
has put into the table), works in float64, writes the row for the kernel that follows,
and stores the new state. A captured graph that is replayed so advances by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import fx

from ..graph import Graph
from .operators import ON_NUMBERS, Expressions
from .source import Program, TritonKernel
from .text import HEAD, TAKEN, graph_shared, identifiers, imported, indented

__all__ = ["branches_hold", "branches_on", "leaves_take", "program_of", "values_of"]


def program_of(
    graph: Graph,
    held: Sequence[str],
    kernel: TritonKernel,
    *,
    counts: bool,
) -> Program:
    """Generate the program of a graph.

    Args:
        graph: the traced rule.
        held: the numbers of the state, the step counter last.
        kernel: the rule's, for which the rows are.
        counts: there is a step counter.
    """
    real, roles = kernel.real.name, len(kernel.roles)
    inputs = dict.fromkeys((*graph.hyperparameters, *(("step",) if counts else ())))
    names = identifiers(inputs, TAKEN | {"inputs", "inputs_at", "values"})
    write = Expressions(ON_NUMBERS, "tl.float64", "s", graph_shared(graph))
    write.names = {node: names[name] for name, node in graph.hyperparameters.items()}
    reads = []
    for index, (name, value) in enumerate(names.items()):
        place = f"tl.load(inputs + {index} * tensors, mask=keep, other=0)"
        stepped = " + 1.0" if name == "step" else ""
        reads.append(f"{value}_at = {place}")
        reads.append(f"{value} = number_at({value}_at, keep){stepped}")
    arguments = graph.arguments()
    rows = [
        f"tl.store(values + {index}, ({write.text(node)}).to(tl.{real}), mask=keep)"
        for index, node in enumerate(arguments)
    ]
    slots = held[:-1] if counts else held
    new = {name: _number(write, graph.outputs[name]) for name in slots}
    if counts:
        new["step"] = names["step"]
    stores = [
        f"put_number({names[name]}_at, {text}, keep)" for name, text in new.items()
    ]
    body = [
        "row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)",
        "count = tensors",
        "if skip is not None:",
        "    count = tl.where(tl.load(skip) == 0, tensors, 0)",
        "keep = row < count",
        "inputs = table + inputs_at + row",
        *reads,
        *write.lines,
        f"values = (table + {2 + roles} * tensors).to(tl.pointer_type(tl.{real}))",
        f"values += {len(arguments)} * row",
        *rows,
        *stores,
    ]
    text = "\n".join(
        [
            '@triton.jit(do_not_specialize=["tensors", "inputs_at"])',
            "def scalars(table, skip, tensors, inputs_at, BLOCK: tl.constexpr):",
            *indented(body),
        ]
    )
    source = f"# once a step, for each tensor\n{HEAD.format(names=imported(text))}"
    return Program(f"{source}{text}\n", tuple(names))


def _number(write: Expressions, value: Any) -> str:
    text = write.text(value)
    if isinstance(value, fx.Node):
        return text
    return f"tl.full((BLOCK,), {text}, tl.float64)"


def branches_on(graph: Graph, names: Sequence[str]) -> str | None:
    """The first of these inputs on which a branch of the rule depends."""
    return _made_of(graph, graph.guards, names)


def leaves_take(graph: Graph, names: Sequence[str]) -> str | None:
    """The first of these inputs of which a leaf takes what is made."""
    return _made_of(graph, graph.given_to_leaves, names)


def _made_of(
    graph: Graph, nodes: Iterable[fx.Node], names: Sequence[str]
) -> str | None:
    for node in nodes:
        sources = _sources(node)
        for name in names:
            if graph.hyperparameters.get(name) in sources:
                return re.sub(r"\[\d+\]$", "", name)
    return None


def _sources(node: fx.Node) -> set[fx.Node]:
    found, live = set(), [node]
    while live:
        node = live.pop()
        if node not in found:
            found.add(node)
            live.extend(node.all_input_nodes)
    return found


def values_of(graph: Graph, known: Mapping[str, float]) -> dict[fx.Node, Any]:
    """The scalars that can be computed of some inputs.

    Args:
        graph: the traced rule.
        known: the inputs that the host knows.
    """
    values: dict[fx.Node, Any] = {
        node: known[name]
        for name, node in graph.hyperparameters.items()
        if name in known
    }
    for node in graph.nodes:
        if node in graph.scalars and values.keys() >= set(node.all_input_nodes):
            target: Any = node.target
            operands: tuple[Any, ...] = node.args
            values[node] = target(*(values.get(x, x) for x in operands))
    return values


def branches_hold(graph: Graph, values: Mapping[fx.Node, Any]) -> bool:
    """Whether the rule takes the branches of the graph, as far as values are known."""
    return all(
        (bool(values[node]) if isinstance(due, bool) else values[node]) == due
        for node, due in graph.guards.items()
        if node in values
    )
