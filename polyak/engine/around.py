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
from .batching import batched
from .jit import Library
from .kernel import Kernel
from .regions import Call
from .stands import mapped
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
        given: dict[fx.Node, Tensor] = {}  # by the leaves
        placed: list[Tensor] = []  # what the kernels read of that
        for member, calls in zip(self._members, self.kernel.calls, strict=False):
            rooms = [
                {node: self._room(stack, call.tensors[node]) for node in call.computed}
                for call in calls
            ]
            if any(rooms):
                walk().run(self.table.address, member, *chunks)
            for call, room in zip(calls, rooms, strict=True):
                stacked = {node: (room | given)[node] for node in call.tensors}
                result = given[call.node] = _called(call, stacked, scalars)
                if call.is_read:
                    spread = self._spread(stack, call, result)
                    placed.append(self._placed(stack, call.result, spread))
        walk().advance(self.table.address, stack.first, stack.last)
        walk().run(self.table.address, self._members[-1], *chunks)

    def _room(self, stack: Stack, name: str) -> Tensor:
        shape = (stack.last - stack.first, *stack.shape)
        empty = torch.empty(shape, dtype=self._dtype, device="cpu")
        return self._placed(stack, name, empty)

    def _spread(self, stack: Stack, call: Call, result: Tensor) -> Tensor:
        """What a leaf gave, as large as the parameters, and as the kernel reads it."""
        (count, *given), due = result.shape or (0,), list(stack.shape)
        missing = len(due) - len(given)
        fits = all(n in (1, of) for n, of in zip(given, due[missing:], strict=False))
        if count != stack.last - stack.first or missing < 0 or not fits:
            raise RuntimeError(
                f"{getattr(call.node.target, '__name__', 'a leaf')} gave a tensor of "
                f"shape {tuple(result.shape)} for {stack.last - stack.first} "
                f"parameters of shape {tuple(due)}: polyak.leaf takes functions whose "
                "result broadcasts to a parameter's shape"
            )
        aligned = result.reshape(count, *[1] * missing, *given)
        plain = aligned.to("cpu", self._dtype).resolve_neg()
        return plain.expand(count, *due).contiguous()

    def _placed(self, stack: Stack, name: str, whole: Tensor) -> Tensor:
        """Let the table's entries of a name be the parts of a tensor."""
        row = len(self.kernel.roles) + self.kernel.memory.index(name)
        parts = np.arange(stack.last - stack.first)
        addresses = whole.data_ptr() + whole[0].nbytes * parts
        self.table.arrays["pointers"][row, stack.first : stack.last] = addresses
        return whole


def _called(
    call: Call, stacked: Mapping[fx.Node, Tensor], scalars: Mapping[fx.Node, Any]
) -> Tensor:
    """What a leaf makes of each parameter's tensors."""
    function: Any = call.node.target

    def leaf(*tensors: Tensor) -> Tensor:
        known = {**scalars, **dict(zip(stacked, tensors, strict=True))}
        args, kwargs = mapped(
            call.node.meta["given"],
            lambda value: known[value] if isinstance(value, fx.Node) else value,
        )
        result = function(*args, **kwargs)
        if isinstance(result, Tensor):
            return result
        return torch.tensor(result, dtype=torch.float64, device="cpu")

    tensors = list(stacked.values())
    if call.node.meta["batched"]:
        return leaf(*tensors)
    together: Tensor | None = None
    if len(tensors[0]) > 1:
        together = batched(call.node, leaf, *tensors)
    if together is not None:
        return together
    return torch.stack([leaf(*parts) for parts in zip(*tensors, strict=True)])
