"""What a rule computes, for one choice of its branches."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from ..extent import Extent

__all__ = ["Graph", "RuleError", "Value"]

Value = fx.Node | float | int | bool


class RuleError(TypeError):
    """A rule that no engine can read. The message has its line and the remedy."""


@dataclass(frozen=True)
class Graph:
    """A rule as it was read.

    Attributes:
        nodes: the operators in order; each is a tensor or a scalar.
        scalars: the nodes made of scalars alone, with the value seen while tracing.
        tensors: the tensor inputs by name.
        hyperparameters: the scalar inputs by name, as ``betas[0]``.
        guards: the scalars that were branched on, with the outcome; an int where the
            rule needs the very number.
        outputs: by name (``param``, then each slot), the new value.
        leaves: the calls of opaque functions, in order.
    """

    nodes: list[fx.Node]
    scalars: dict[fx.Node, Any]
    tensors: dict[str, fx.Node]
    hyperparameters: dict[str, fx.Node]
    guards: dict[fx.Node, bool | int]
    outputs: dict[str, Value]
    leaves: list[fx.Node] = field(default_factory=list)

    def extent(self, name: str) -> Extent:
        """Along what a tensor extends that is given or returned."""
        node = self.tensors.get(name)
        return Extent.NUMBER if node is None else node.meta["extent"]

    @functools.cached_property
    def has_rows(self) -> bool:
        """Whether the rule tells a parameter's rows from its columns."""
        return any(
            node.meta["extent"] not in (Extent.NUMBER, Extent.WHOLE)
            for node in (*self.tensors.values(), *self.nodes)
            if node not in self.scalars
        )

    @functools.cached_property
    def given_to_leaves(self) -> list[fx.Node]:
        """The scalars that leaves take."""
        operands = (node for leaf in self.leaves for node in leaf.all_input_nodes)
        return [node for node in operands if node in self.scalars]

    def arguments(self) -> list[fx.Node]:
        """The scalars that a kernel takes: those that tensors are made of."""
        used = {
            operand: None
            for node in self.nodes
            if node not in self.scalars
            for operand in node.all_input_nodes
            if operand in self.scalars
        }
        for name, value in self.outputs.items():
            if name in self.tensors and value in self.scalars:
                used[value] = None
        return list(used)
