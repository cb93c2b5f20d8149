"""Pieces of generated source: names, calls, imports."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Callable, Collection, Iterable, Sequence

from torch import fx

from ..graph import Graph

__all__ = [
    "HEAD",
    "TAKEN",
    "called",
    "graph_shared",
    "graph_uses",
    "identifiers",
    "imported",
    "indented",
    "rounded",
    "shared",
]

HEAD = "import triton\nimport triton.language as tl\n{names}\n\n"

# What generated kernels call, by module.
_CALLED = {
    "numerics": (
        *("copysign", "cosine", "exponential", "logarithm", "number_at", "power"),
        *("put_number", "rounded_to_bfloat16", "sine", "tanh"),
    ),
    "sharing": (
        *("add_up", "added", "arrived", "chunk_of", "drawn", "matrices_of"),
        *("released", "spot", "steps_of", "tile_at", "wait"),
    ),
}
_WORDS = """
    tl triton float range len update BLOCK TILE TILES aligned alone begin block box
    chunk chunks chunks_at column column_piece column_pieces columns count counters
    done end entry first index keep keep_column keep_matrix keep_row kind last left
    matrices matrix matrix_piece memory mine number of_all of_column of_row piece
    pieces place row row_of row_piece row_pieces rows scalars shape shapes shapes_at
    skip start steps table tensor tensors tile turn unit units units_at values whole
"""
TAKEN = frozenset([*_WORDS.split(), *itertools.chain(*_CALLED.values())])
_NUMBERED = re.compile(r"([sxy]|all|kept|mean|own|part|pass|sum|total)\d+")


def imported(text: str) -> str:
    """The imports of what a text calls of this package."""
    lines = []
    for module, words in _CALLED.items():
        names = [name for name in words if re.search(rf"\b{name}\(", text)]
        if names:
            head = f"from polyak.engine.triton.{module} import"
            line = f"{head} {', '.join(names)}"
            if len(line) > 88:
                line = "\n".join(called(head + " ", names))
            lines.append(line)
    return "".join(f"\n{line}" for line in lines) + "\n" if lines else ""


def identifiers(names: Iterable[str], taken: Collection[str] = TAKEN) -> dict[str, str]:
    """Names in generated code, for each its own, and none that the code uses."""
    made: dict[str, str] = {}
    for name in names:
        word = name.replace("[", "_").replace("]", "")
        while word in taken or word in made.values() or _NUMBERED.fullmatch(word):
            word += "_"
        made[name] = word
    return made


def called(function: str, arguments: Sequence[str], end: str = "") -> list[str]:
    """A call, or the head of a definition, on as many lines as it needs."""
    text = ", ".join(arguments)
    if len(function) + len(text) < 76:
        return [f"{function}({text}){end}"]
    lines = textwrap.wrap(
        text.replace(": ", ":\0"), 76, break_long_words=False, break_on_hyphens=False
    )
    lines = [line.replace(":\0", ": ") for line in lines]
    return [f"{function}(", *indented(lines), f"){end}"]


def indented(lines: Iterable[str]) -> list[str]:
    """Lines of a body."""
    return [f"    {line}" for line in lines]


def rounded(value: str, real: str, format: str) -> str:
    """A number as it is stored: to half precision by way of float32, as in torch."""
    if format == real:
        return value
    if real == "float64" and format != "float32":
        value = f"({value}).to(tl.float32)"
    if format == "bfloat16":
        return f"rounded_to_bfloat16({value})"
    return f"({value}).to(tl.{format})"


def graph_shared(graph: Graph) -> set[fx.Node]:
    """The nodes that several others use, or several outputs."""
    return {node for node, count in graph_uses(graph).items() if count > 1}


def graph_uses(graph: Graph) -> dict[fx.Node, int]:
    """The nodes that the outputs are made of, and how often each is used."""
    given = set(graph.tensors.values())
    roots = (v for v in graph.outputs.values() if isinstance(v, fx.Node))
    return _uses(roots, lambda node: node not in given)


def shared(
    roots: Iterable[fx.Node], through: Callable[[fx.Node], bool] = lambda node: True
) -> set[fx.Node]:
    """The nodes that several others use, or several roots.

    Args:
        roots: what is computed in the end.
        through: whether a node's operands are computed beside it.
    """
    return {node for node, count in _uses(roots, through).items() if count > 1}


def _uses(
    roots: Iterable[fx.Node], through: Callable[[fx.Node], bool]
) -> dict[fx.Node, int]:
    live = list(roots)
    uses: dict[fx.Node, int] = {}
    for node in live:
        uses[node] = uses.get(node, 0) + 1
    seen: set[fx.Node] = set()
    while live:
        node = live.pop()
        if node in seen or not through(node):
            continue
        seen.add(node)
        for operand in node.args:
            if isinstance(operand, fx.Node):
                uses[operand] = uses.get(operand, 0) + 1
                live.append(operand)
    return uses
