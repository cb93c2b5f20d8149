"""What the functions of one generated kernel have in common: names, loads, stores."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import fx

from ...extent import Extent
from ..graph import Graph
from ..operators import MASKS, operator_name
from ..passes import extent_of, is_constant
from .operators import ON_BLOCKS, ON_HOST, Expressions
from .text import TAKEN, identifiers, rounded

__all__ = ["Body", "Place", "Spot", "Values"]


class Spot(NamedTuple):
    """Where values of one extent are.

    Attributes:
        at: the address, made of a base.
        keep: the mask; None where there is one value.
    """

    at: str
    keep: str | None


# Where the values at one place of a tensor are, by what they extend along.
Place = Mapping[Extent, Spot]


class Body:
    """A rule, and the names that its kernel has for tensors and scalars.

    Args:
        graph: the rule.
        formats: Triton's name of each tensor's type.
        maximize: use the negative gradient.

    Attributes:
        real: the type that the kernel computes in.
        names: of the tensors.
        scalars: for each scalar of a row its name, and what it is made of.
    """

    def __init__(
        self, graph: Graph, formats: Mapping[str, str], *, maximize: bool
    ) -> None:
        self.graph, self.formats, self.maximize = graph, formats, maximize
        self.real = "float64" if "float64" in formats.values() else "float32"
        self.names = identifiers(dict.fromkeys((*graph.tensors, *formats)))
        self._known: dict[fx.Node, str] = {}
        self.scalars = self._name_scalars()
        epsilon = float(np.finfo(self.real).eps)
        for node in filter(is_constant, graph.nodes):
            self._known[node] = f"tl.full((), {epsilon!r}, tl.{self.real})"

    def _name_scalars(self) -> list[tuple[str, str]]:
        """Name the scalars: hyperparameters by themselves, the others s0, s1, ..."""
        graph, taken = self.graph, TAKEN | set(self.names.values())
        words = identifiers(graph.hyperparameters, taken)
        given = {node: name for name, node in graph.hyperparameters.items()}
        host = Expressions(ON_HOST, None, "", set())
        host.names = given
        named = []
        for index, node in enumerate(graph.arguments()):
            name = words[given[node]] if node in given else f"s{index}"
            self._known[node] = name
            named.append((name, host.text(node)))
        return named

    def scalar_names(self, used: Container[fx.Node] | None = None) -> list[str]:
        """Names of the scalars that functions take, if not of all."""
        nodes = zip(self.graph.arguments(), self.scalars, strict=True)
        return [name for node, (name, _) in nodes if used is None or node in used]

    def scalar_loads(self, used: Container[fx.Node] | None = None) -> list[str]:
        """The lines that load the row of scalars, if not all."""
        lines, names = [], self.scalar_names(used)
        for index, (scalar, meaning) in enumerate(self.scalars):
            if scalar not in names:
                continue
            truth = " != 0" if is_mask(self.graph.arguments()[index]) else ""
            note = "" if meaning == scalar else f"  # {meaning}"
            lines.append(f"{scalar} = tl.load(scalars + {index}){truth}{note}")
        return lines

    def expressions(self, shared: set[fx.Node]) -> Expressions:
        """A writer of expressions that knows the scalars."""
        literals = None if self.real == "float32" else f"tl.{self.real}"
        write = Expressions(ON_BLOCKS[self.real], literals, "x", shared)
        write.names.update(self._known)
        return write


class Values:
    """The values of a rule at one place of a tensor.

    Args:
        body: the kernel's.
        place: where they are.
        shared: the nodes that get a line of their own.

    Attributes:
        loads: the lines that load what is not computed here.
        once: those of them that load a single value.
    """

    def __init__(self, body: Body, place: Place, shared: set[fx.Node]) -> None:
        self.body, self.place = body, place
        self.write = body.expressions(shared)
        self.loads: list[str] = []
        self.once: list[str] = []

    def load(self, used: Iterable[fx.Node]) -> None:
        """Load the rule's tensors, as far as they are used, in the order they have."""
        body, used = self.body, set(used)
        for name, node in body.graph.tensors.items():
            if node in used:
                base, format = f"{body.names[name]}_at", body.formats[name]
                sign = "-" if body.maximize and name == "grad" else ""
                cast = "" if format == body.real else f".to(tl.{body.real})"
                text = self._load(base, extent_of(node))
                self._name(node, body.names[name], f"{sign}{text}{cast}")

    def load_kept(self, node: fx.Node, base: str, name: str) -> None:
        """Load what other programs may have written: not from this one's cache."""
        truth = " != 0" if is_mask(node) else ""
        text = self._load(base, extent_of(node), ', cache_modifier=".cg"')
        self._name(node, name, text + truth)

    def _load(self, base: str, extent: Extent, more: str = "") -> str:
        at, keep = self.place[extent]
        mask = f", mask={keep}" if keep else ""
        return f"tl.load({at.format(base)}{mask}{more})"

    def _name(self, node: fx.Node, name: str, text: str) -> None:
        lines = self.loads if self.place[extent_of(node)].keep else self.once
        lines.append(f"{name} = {text}")
        self.write.names[node] = name

    def text(self, value: Any) -> str:
        """The expression of a value."""
        return self.write.text(value)

    def store(self, name: str) -> str:
        """The line that stores an output."""
        body = self.body
        value = body.graph.outputs[name]
        text = self.text(value)
        if not isinstance(value, fx.Node):
            text = f"tl.full((), {text}, tl.{body.real})"
        at, keep = self.place[body.graph.extent(name)]
        stored = rounded(text, body.real, body.formats[name])
        return f"tl.store({at.format(f'{body.names[name]}_at')}, {stored}, mask={keep})"

    def keep(self, node: fx.Node, base: str) -> str:
        """The line that stores what is used elsewhere; a truth value as 1 or 0."""
        at, keep = self.place[extent_of(node)]
        cast = f".to(tl.{self.body.real})" if is_mask(node) else ""
        text = f"({self.text(node)}){cast}" if cast else self.text(node)
        mask = f", mask={keep}" if keep else ""
        return f"tl.store({at.format(base)}, {text}{mask})"


def is_mask(node: fx.Node) -> bool:
    """Whether a value is a truth value."""
    return node.op == "call_function" and operator_name(node.target) in MASKS
