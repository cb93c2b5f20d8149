"""Running a rule with leaves: kernels on stacks of parameters, and the leaves between.

Parameters of one shape and row of scalars share a *stack*: a leaf is called once for
all of them, under :func:`torch.vmap`, so that each is by itself to it. Stacks that the
same launches serve make a *wave*. The kernel of a region writes what the leaves take
right into the memory of the wave, they are called, stack by stack, and the next kernel
reads what they gave. An engine brings the launches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from .batching import batched
from .regions import Call
from .stands import mapped
from .table import Table
from .walk import walk

__all__ = ["Around", "Launch", "Scalars", "Stack", "Wave", "stacks", "waves"]

# As much of the parameters as is stacked at once on a CPU: with what a leaf makes of
# it, it stays in the cache of a core.
BYTES = 2**18

# What the scalars of a rule are, in one row.
Scalars = Mapping[fx.Node, Any]


@dataclass(frozen=True)
class Stack:
    """Columns of a table that go together: from ``first`` on, before ``last``.

    Attributes:
        shape: of each parameter.
    """

    first: int
    last: int
    shape: torch.Size

    @property
    def count(self) -> int:
        """How many parameters."""
        return self.last - self.first

    @property
    def numbers(self) -> int:
        """How many numbers they have."""
        return self.count * self.shape.numel()


def stacks(params: Sequence[Tensor], cells: Sequence[int], most: int) -> list[Stack]:
    """Group neighbours of one shape and cell that are not too large together.

    Args:
        params: in the order of the table.
        cells: of each.
        most: bytes of the parameters of a stack, where it has several.
    """
    made, first = [], 0
    while first < len(params):
        param, last = params[first], first + 1
        end = first + max(1, most // max(1, param.nbytes))
        while last < min(end, len(params)) and (
            (params[last].shape, cells[last]) == (param.shape, cells[first])
        ):
            last += 1
        made.append(Stack(first, last, param.shape))
        first = last
    return made


class Wave:
    """Neighbouring stacks, served by the same launches.

    Attributes:
        first: the first column of them all.
        last: the column after the last one.
        busy: the stacks that have numbers.
        sizes: how many, of each of these.
        shapes: of each of these, as a tensor.
    """

    def __init__(self, *stacks: Stack) -> None:
        self.first, self.last = stacks[0].first, stacks[-1].last
        self.busy = [stack for stack in stacks if stack.numbers]
        self.sizes = [stack.numbers for stack in self.busy]
        self.shapes = [torch.Size((s.count, *s.shape)) for s in self.busy]

    def memory(
        self, make: Callable[..., Tensor], **kind: Any
    ) -> tuple[Tensor, list[Tensor]]:
        """Memory for all numbers, and the part of each stack."""
        if len(self.shapes) == 1:
            whole = make(self.shapes[0], **kind)
            return whole, [whole]
        whole = make(sum(self.sizes), **kind)
        parts = zip(whole.split(self.sizes), self.shapes, strict=True)
        return whole, [part.view(shape) for part, shape in parts]


def waves(stacks: Iterable[Stack], most: int) -> list[Wave]:
    """Let neighbours share their launches.

    Args:
        stacks: all of a table.
        most: numbers of a wave, where it has several stacks.
    """
    made: list[list[Stack]] = []
    room = 0
    for stack in stacks:
        if not made or stack.numbers > room:
            made.append([])
            room = most
        made[-1].append(stack)
        room -= stack.numbers
    return [Wave(*together) for together in made]


# Runs the kernel of a region, by its number, over the columns of a wave. It is given
# the memory that the kernel works on, by name: one tensor after another.
Launch = Callable[[int, Wave, Mapping[str, Tensor]], None]


class Around:
    """The step of a bucket whose rule has leaves.

    Args:
        calls: the leaves that are called after each region but the last.
        table: what native code knows of the tensors.
        waves: how the columns of the table go together.
        home: where the tensors are.
        dtype: what the kernels compute in.

    Attributes:
        done: how many columns have taken the step that is being done.
    """

    def __init__(
        self,
        calls: Sequence[Sequence[Call]],
        table: Table,
        waves: Sequence[Wave],
        home: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.calls, self.table, self.waves = calls, table, waves
        self._kind: dict[str, Any] = {"dtype": dtype, "device": home}
        self.done = 0

    def run(
        self, rows: Sequence[Scalars], launch: Launch, *, blank: bool = False
    ) -> None:
        """Update all parameters; those of a wave, when its leaves have succeeded.

        Args:
            rows: the scalars.
            launch: runs the kernels.
            blank: a launch may leave its memory as it is: let that be zeros, which
                leaves bear best.
        """
        row_of = self.table.arrays["row"]
        make = torch.zeros if blank else torch.empty
        self.done = 0
        for wave in self.waves:
            if wave.busy:
                numbers = [rows[row_of[stack.first]] for stack in wave.busy]
                memory = self._around(wave, numbers, launch, make)
                launch(len(self.calls), wave, memory)
            walk().advance(self.table.address, wave.first, wave.last)
            self.done = wave.last

    def _around(
        self,
        wave: Wave,
        numbers: Sequence[Scalars],
        launch: Launch,
        make: Callable[..., Tensor],
    ) -> dict[str, Tensor]:
        """All regions but the last; what the last one reads of the leaves."""
        given: list[dict[fx.Node, Tensor]] = [{} for _ in wave.busy]
        placed: dict[str, Tensor] = {}
        for region, calls in enumerate(self.calls):
            rooms: dict[str, Tensor] = {}
            parts: dict[str, list[Tensor]] = {}
            for call in calls:
                for node in call.computed:
                    name = call.tensors[node]
                    rooms[name], parts[name] = wave.memory(make, **self._kind)
            if rooms:
                launch(region, wave, placed | rooms)
            for call in calls:
                results = []
                for index, known in enumerate(given):
                    taken = {
                        node: known[node] if node in known else parts[name][index]
                        for node, name in call.tensors.items()
                    }
                    result = known[call.node] = _called(call, taken, numbers[index])
                    results.append(result)
                if call.is_read:
                    whole = [
                        self._spread(call, shape, result)
                        for shape, result in zip(wave.shapes, results, strict=True)
                    ]
                    placed[call.result] = _joined(whole)
        return placed

    def _spread(self, call: Call, shape: torch.Size, result: Tensor) -> Tensor:
        """What a leaf gave, as large as the parameters, and as the kernel reads it."""
        (due_count, *due), (count, *given) = shape, result.shape or (0,)
        missing = len(due) - len(given)
        fits = all(n in (1, of) for n, of in zip(given, due[missing:], strict=False))
        if count != due_count or missing < 0 or not fits:
            raise RuntimeError(
                f"{getattr(call.node.target, '__name__', 'a leaf')} gave a tensor of "
                f"shape {tuple(result.shape)} for {due_count} parameters of shape "
                f"{tuple(due)}: polyak.leaf takes functions whose result broadcasts "
                "to a parameter's shape"
            )
        aligned = result.reshape(count, *[1] * missing, *given)
        plain = aligned.to(**self._kind).resolve_neg()
        return plain.expand(shape).contiguous()


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors one after another; one by itself stays where it is."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part.flatten() for part in parts])


def _called(call: Call, stacked: Mapping[fx.Node, Tensor], numbers: Scalars) -> Tensor:
    """What a leaf makes of each parameter's tensors."""
    function: Any = call.node.target
    tensors = [*stacked.values()]

    def leaf(*tensors: Tensor) -> Tensor:
        known = {**numbers, **dict(zip(stacked, tensors, strict=True))}
        args, kwargs = mapped(
            call.node.meta["given"],
            lambda value: known[value] if isinstance(value, fx.Node) else value,
        )
        result = function(*args, **kwargs)
        if isinstance(result, Tensor):
            return result
        home = tensors[0].device
        return torch.full((), result, dtype=torch.float64, device=home)

    if call.node.meta["batched"]:
        return leaf(*tensors)
    together: Tensor | None = None
    if len(tensors[0]) > 1:
        together = batched(call.node, leaf, *tensors)
    if together is not None:
        return together
    return torch.stack([leaf(*parts) for parts in zip(*tensors, strict=True)])
