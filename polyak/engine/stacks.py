"""Stacks: parameters that are alike take their step in the eager engine as one.

Where no kernels serve around its leaves (:mod:`.around`), a rule is called by Python,
once for each parameter, and that call costs more than the mathematics of a small
matrix. Parameters with equal shapes, dtypes and numbers are therefore put into one
tensor, and the rule is called once, under :func:`torch.vmap`: every leaf still sees one
parameter, so that a norm is its norm.
What each parameter gets differs by rounding at most from what it would get alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..slot import Group, number
from . import eager
from .batching import batched
from .fitness import Places, overlapping

if TYPE_CHECKING:
    from .plan import EagerMember

__all__ = ["Stack", "gathered"]

# As much of the parameters as is stacked at once: with what a rule makes of it, it
# stays in the cache of a core.
BYTES = 2**20
# A larger parameter is alone: the copies would cost more than the calls.
LARGEST = 2**17


def gathered(groups: Sequence[Group], entries: Sequence[EagerMember]) -> list[Stack]:
    """Split parameters into stacks; those that are like no other are alone in theirs.

    Args:
        groups: the optimizer's groups.
        entries: the parameters, with their gradients.
    """
    owners = ((entry.member.param, _tensors(entry)) for entry in entries)
    clashes = overlapping(owners, Places())
    alike: dict[Any, list[EagerMember]] = {}
    for entry in entries:
        group = groups[entry.member.group]
        fits = entry.member.param not in clashes and _fits(group, entry)
        alike.setdefault(_kind(entry) if fits else entry, []).append(entry)
    return [Stack(part) for fellows in alike.values() for part in _parts(fellows)]


def _fits(group: Group, entry: EagerMember) -> bool:
    """Whether a parameter may share a stack at all."""
    return (
        bool(entry.reading.graph.leaves and entry.member.param.numel())
        and not entry.sparse
        and not group.get("differentiable")
        and not group.get("capturable")
        and group.get("foreach") is not False
        and all(map(_plain, _tensors(entry)))
        and not torch.compiler.is_compiling()
        and not eager.watched()
    )


def _kind(entry: EagerMember) -> Any:
    """What is equal for parameters that share a stack."""
    member = entry.member
    forms = tuple(map(_form, _tensors(entry)))
    return member.group, member.present, member.first, entry.reading, forms


def _tensors(entry: EagerMember) -> list[Tensor]:
    return [entry.member.param, *entry.member.slots()]


def _plain(tensor: Tensor) -> bool:
    kinds = (Tensor, torch.nn.Parameter)
    return type(tensor) in kinds and tensor.layout is torch.strided


def _form(tensor: Tensor) -> Any:
    return tensor.shape, tensor.dtype, tensor.device


def _parts(fellows: list[EagerMember]) -> Iterator[list[EagerMember]]:
    param = fellows[0].member.param
    size = max(1, param.numel() * param.element_size())
    count = max(1, BYTES // size) if size <= LARGEST else 1
    for start in range(0, len(fellows), count):
        yield fellows[start : start + count]


class Stack:
    """Parameters that are alike, or one alone.

    Attributes:
        entries: the parameters.
        group: the index of their group.
        reading: the rule as it reads for them.
    """

    def __init__(self, entries: list[EagerMember]) -> None:
        first = entries[0].member
        self.schema, self.entries = first.schema, entries
        self.group, self.reading = first.group, entries[0].reading
        self._targets = {"param": [entry.member.param for entry in entries]}
        for name in first.schema.tensor_slots(first.present):
            self._targets[name] = [entry.member.state[name] for entry in entries]
        self._numbers = {
            name: _Column([entry.member.state for entry in entries], name)
            for name in first.schema.numbers(first.present)
        }

    def states(self) -> list[tuple[float, ...]]:
        """The numbers of each parameter's state."""
        columns = [column.read() for column in self._numbers.values()]
        return list(zip(*columns, strict=True)) if columns else [()] * len(self.entries)

    def update(self, group: Group, injected: Sequence[Any]) -> None:
        """Apply the rule to all parameters and their state, in place.

        Args:
            group: their group.
            injected: the values that the schema's ``injected`` names.
        """
        if not self._update_together(group, injected):
            for entry in self.entries:
                self._update_alone(entry, group, injected)

    def _update_alone(self, entry: EagerMember, group: Group, injected: Any) -> None:
        member = entry.member
        assert member.param.grad is not None
        eager.update(
            self.schema,
            group,
            member.param,
            member.param.grad,
            member.state,
            present=member.present,
            first=member.first,
            by_rows=entry.by_rows,
            injected=injected,
        )

    def _update_together(self, group: Group, injected: Any) -> bool:
        """Call the rule once; False, with nothing done, where that is impossible.

        Nothing was written then: whatever else is wrong will be raised when each
        parameter is updated alone.
        """
        if len(self.entries) == 1 or eager.watched():
            return False
        states = self.states()
        grads: list[Any] = [param.grad for param in self._targets["param"]]
        if any(state != states[0] for state in states) or not self._alike(grads):
            return False
        held = dict(zip(self._numbers, states[0], strict=True))
        step = held.pop("step") + 1 if self.schema.counts_steps else None
        first = self.entries[0].member.first
        words = eager.keywords(
            self.schema,
            group,
            eager.as_numbers,
            step=step,
            first=first,
            injected=injected,
        )
        stacks = {name: torch.stack(parts) for name, parts in self._targets.items()}
        new: dict[str, Any] = {}

        def call(grad: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
            tensors = {name: eager.operand(part) for name, part in targets.items()}
            grad, _ = eager.gradient(group, grad, by_rows=False)
            new.update(eager.computed(self.schema, tensors, grad, held, words))
            return {name: eager.stored(targets[name], new[name]) for name in targets}

        results = batched(self.reading, call, torch.stack(grads), stacks)
        if results is None:
            return False
        for name, targets in self._targets.items():
            torch._foreach_copy_(targets, results[name].unbind())
        for name, column in self._numbers.items():
            column.write(step if name == "step" else new[name])
        return True

    def _alike(self, grads: list[Any]) -> bool:
        """Whether the gradients, and the parameters still, are of one form."""
        params = self._targets["param"]
        shape, dtype = params[0].shape, grads[0].dtype
        return all(
            param.shape == grad.shape == shape and grad.dtype is dtype and _plain(grad)
            for param, grad in zip(params, grads, strict=True)
        )


class _Column:
    """A number of the state, of all parameters of a stack."""

    def __init__(self, states: list[dict[str, Any]], name: str) -> None:
        self._states, self._name = states, name
        self._tensors = [state[name] for state in states]
        first = self._tensors[0]
        self._at_once = len(states) > 1 and all(
            type(value) is Tensor and value.dim() == 0 and value.dtype is first.dtype
            for value in self._tensors
        )

    def read(self) -> list[float]:
        if self._at_once:
            return torch.stack(self._tensors).tolist()
        return [number(state[self._name]) for state in self._states]

    def write(self, value: Any) -> None:
        if self._at_once:
            values = [torch.full_like(self._tensors[0], value)] * len(self._tensors)
            torch._foreach_copy_(self._tensors, values)
            return
        for state in self._states:
            eager.write_number(state, self._name, value)
