"""The kernels of a rule with leaves: one a region, each with a text of its own.

As on the CPU (:mod:`polyak.engine.regions`), but that a kernel is given the memory of
what leaves take and give as arguments: it is not the same from step to step, and a
graph that captures the step keeps it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

from ..graph import Graph
from ..regions import Region, cut
from .operators import ON_HOST, Expressions
from .source import Stored, TritonKernel
from .source import generate as generate_region

__all__ = ["generate"]


def generate(
    name: str, graph: Graph, stored: Mapping[str, Stored], *, maximize: bool = False
) -> TritonKernel:
    """Generate the kernels of a traced rule.

    Args:
        name: the optimizer's.
        graph: the rule, without sums.
        stored: the storage of each tensor, in the order of the rule's arguments.
        maximize: use the negative gradient.

    Returns:
        That of the last region, or of the only one, with those before it.
    """
    regions = cut(graph)
    if len(regions) == 1:
        return generate_region(name, graph, stored, maximize=maximize)
    calls = tuple(region.calls for region in regions[:-1])
    memory = [word for call in itertools.chain(*calls) for word in call.memory()]
    *before, last = (
        generate_region(
            f"{name}.region{index}",
            region.graph,
            stored,
            maximize=maximize,
            memory=memory,
        )
        for index, region in enumerate(regions)
    )
    told = map(_with_calls, before, regions)
    return replace(last, before=tuple(told), calls=calls)


def _with_calls(kernel: TritonKernel, region: Region) -> TritonKernel:
    """A kernel that tells of the leaves after it; without work it is nothing else."""
    graph = region.graph
    write = Expressions(ON_HOST, None, "", set())
    write.names = {node: name for name, node in graph.hyperparameters.items()}
    calls = "".join(f"# {call.text(write.text)}" for call in region.calls)
    source = f"{kernel.source}\n\n" if graph.outputs else ""
    return replace(kernel, source=f"{source}# then, in torch\n{calls}")
