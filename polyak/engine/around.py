"""Running a rule with leaves: kernels on stacks of parameters, and the leaves between.

Parameters of one shape and row of scalars share a stack, as many as stay in the cache
of a core. The kernel of a region writes what a leaf takes right into the stack, the
leaf is called once for all of them, under :func:`torch.vmap`, so that each is by itself
to it, and the next kernel reads what it gave.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from . import team
from .jit import Library
from .kernel import Kernel
from .regions import Call
from .table import Table
from .walk import walk

__all__ = ["Around", "Stack", "stacks"]

# As much of the parameters as is stacked at once: with what a leaf makes of it, it
# stays in the cache of a core.
BYTES = 2**18


@dataclass(frozen=True)
class Stack:
    """Columns of a table that go together: from ``first`` on, before ``last``.

    Attributes:
        shape: of each parameter.
    """

    first: int
    last: int
    shape: torch.Size


def stacks(params: Sequence[Tensor], cells: Sequence[int]) -> Iterator[Stack]:
    """Group neighbours of one shape and cell that are not too large together."""
    first = 0
    while first < len(params):
        param, last = params[first], first + 1
        most = first + max(1, BYTES // max(1, param.nbytes))
        while last < min(most, len(params)) and (
            (params[last].shape, cells[last]) == (param.shape, cells[first])
        ):
            last += 1
        yield Stack(first, last, param.shape)
        first = last


class Around:
    """The step of a bucket whose rule has leaves.

    Args:
        kernel: with the calls of the leaves.
        library: its machine code.
        table: what it works on.
        stacks: how the columns of the table go together.
        arguments: the scalars that the rows of the table have.
        traffic: how many bytes a step moves.
    """

    def __init__(
        self,
        kernel: Kernel,
        library: Library,
        table: Table,
        stacks: Sequence[Stack],
        arguments: Sequence[fx.Node],
        traffic: int,
    ) -> None:
        self.kernel, self.table, self.stacks = kernel, table, stacks
        self._members = [library[f"member{i}"] for i in range(len(kernel.calls) + 1)]
        self._dtype = torch.float64 if kernel.real == np.float64 else torch.float32
        ends = np.arange(len(table.arrays["row"]) + 1)
        self._chunks = np.searchsorted(table.arrays["chunk"][0], ends).tolist()
        self._arguments = arguments
        self._traffic = traffic / max(1, self._chunks[-1])  # of a chunk
        self._one_by_one: set[fx.Node] = set()

    def run(self, rows: Sequence[Sequence[float]]) -> None:
        """Update all parameters; those of a stack, when its leaves have succeeded.

        Args:
            rows: the scalars.
        """
        row_of = self.table.arrays["row"]
        named = [dict(zip(self._arguments, row, strict=True)) for row in rows]
        for stack in self.stacks:
            chunks = self._chunks[stack.first], self._chunks[stack.last]
            traffic = int(self._traffic * (chunks[1] - chunks[0]))
            self.table.set(threads=team.threads_for(traffic))
            if stack.shape.numel():
                self._update(stack, chunks, named[row_of[stack.first]])
            else:
                walk().advance(self.table.address, stack.first, stack.last)

    def _update(
        self, stack: Stack, chunks: tuple[int, int], scalars: Mapping[fx.Node, Any]
    ) -> None:
        held: dict[fx.Node, Tensor] = {}
        for member, calls in zip(self._members, self.kernel.calls, strict=False):
            taken = {
                name: self._room(stack, name)
                for call in calls
                for name in call.operands.values()
            }
            walk().run(self.table.address, member, *chunks)
            for call in calls:
                operands = [taken[name] for name in call.operands.values()]
                result = self._called(call, operands, scalars)
                held[call.node] = self._place(stack, call.result, result)
        walk().advance(self.table.address, stack.first, stack.last)
        walk().run(self.table.address, self._members[-1], *chunks)

    def _room(self, stack: Stack, name: str) -> Tensor:
        count = stack.last - stack.first
        return self._place(
            stack, name, torch.empty((count, *stack.shape), dtype=self._dtype)
        )

    def _place(self, stack: Stack, name: str, tensor: Tensor) -> Tensor:
        """Let the table's entries of a name be the parts of a tensor, which is kept."""
        count = stack.last - stack.first
        whole = tensor.to(self._dtype).expand(count, *stack.shape).contiguous()
        row = len(self.kernel.roles) + self.kernel.memory.index(name)
        addresses = whole.data_ptr() + whole[0].nbytes * np.arange(count)
        self.table.arrays["pointers"][row, stack.first : stack.last] = addresses
        return whole

    def _called(
        self, call: Call, stacked: Sequence[Tensor], scalars: Mapping[fx.Node, Any]
    ) -> Tensor:
        """What a leaf makes of each parameter's tensors."""

        def leaf(*tensors: Tensor) -> Tensor:
            known = {**scalars, **dict(zip(call.operands, tensors, strict=True))}
            given: Any = fx.node.map_arg(call.node.args, known.__getitem__)
            function: Any = call.node.target
            result: Tensor = function(*given[0], **given[1])
            return result

        if call.node.meta["batched"]:
            return leaf(*stacked)
        if len(stacked[0]) > 1 and call.node not in self._one_by_one:
            try:
                return torch.vmap(leaf)(*stacked)
            except RuntimeError:  # vmap's errors have no type of their own
                self._one_by_one.add(call.node)
        return torch.stack([leaf(*parts) for parts in zip(*stacked, strict=True)])
