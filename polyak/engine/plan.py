"""The plan of a step: which engine runs which parameter, kept while nothing changes.

A plan is made from what an optimizer and its tensors are at one moment. Before each step
it is asked whether it still holds. That question is where a fused step on small tensors
spends its time, so it is asked in three ways, each cheap for what it covers:

- Python objects (the lists of parameters, the dictionaries of state and what is in them,
  the values in the groups) are compared by identity with those the plan was made from;
- tensors are looked at by native code: :meth:`.bucket.Bucket.holds`;
- a learning rate that changed touches the scalars alone, not the plan.

Whatever else changes, the plan is made anew: it costs some microseconds a parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ctypes import c_void_p, sizeof, string_at
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from operator import is_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..schema import Schema, skeleton
from ..slot import Group
from . import eager
from .bucket import Bucket, Member, Numbers
from .fitness import Tensors, objection, overlapping
from .formats import Format, format_of
from .kernel import Kernel, generate
from .reading import Reading, Situation, read

if TYPE_CHECKING:
    from ..optimizer import Optimizer

__all__ = ["Plan"]

_WORD = sizeof(c_void_p)
_SWITCHES = ("maximize", "foreach", "fused", "differentiable", "capturable")
_FIXED = (float, int, bool, str, type(None))


@dataclass(eq=False)
class EagerMember:
    """A parameter that the eager engine runs, and why.

    Attributes:
        passing: it is the gradient that stands apart, and the next one may not.
    """

    member: Member
    reason: str
    by_rows: bool
    passing: bool


@dataclass(eq=False)
class _Hyperparameters:
    """The hyperparameters of all groups, as the plan depends on them.

    Attributes:
        objects: the values themselves.
        fixed: none of them can change in place.
        structure: what selects engines, slots and readings.
        numbers: what the scalars are made of, by group.
    """

    objects: list[Any]
    fixed: bool
    structure: list[Any]
    skeletons: list[tuple[Any, ...]]
    numbers: list[Numbers]


class Plan:
    """Which engine runs which parameter of an optimizer, and all that is cached.

    Attributes:
        buckets: what the CPU engine runs.
        eager: what the eager engine runs, with the reasons.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.schema: Schema = optimizer.schema
        self.buckets: list[Bucket] = []
        self.eager: list[EagerMember] = []
        self._idle: list[Tensor] = []
        self._made: list[Tensor] = []
        self._keys = tuple(optimizer.defaults)
        try:
            self._make(optimizer)
        except BaseException:
            for param in self._made:
                optimizer.state.pop(param, None)
            raise
        self._remember(optimizer)
        self.brief = any(m.first for m in self.members()) and self.schema.wants_first

    def members(self) -> Iterator[Member]:
        """Every parameter with a gradient."""
        for bucket in self.buckets:
            yield from bucket.members
        for entry in self.eager:
            yield entry.member

    # Making

    def _make(self, optimizer: Optimizer) -> None:
        self._hyperparameters = self._observe(optimizer)
        members = list(self._collect(optimizer))
        readings = self._readings(members)
        compiling = torch.compiler.is_compiling()
        clashes = overlapping(_written(members))
        shelves: dict[Any, list[Member]] = {}
        for member, reading in zip(members, readings, strict=True):
            group = optimizer.param_groups[member.group]
            slots = self._slots(member)
            numbers = [member.state[n] for n in self.schema.numbers(member.present)]
            tensors = Tensors(member.param, member.grad, slots, numbers)
            why = objection(group, tensors, compiling)
            if why is None and reading.graph.leaves:
                why = f"the rule calls {', '.join(reading.graph.leaves)}, a leaf"
            if why is None and member.param in clashes:
                why = "its memory overlaps that of another tensor of the optimizer"
            if why is None:
                key = (reading, *self._key(member, group))
                shelves.setdefault(key, []).append(member)
                continue
            if group.get("fused"):
                raise RuntimeError(
                    f"`fused=True` asks {self.schema.owner} for a kernel, but a parameter "
                    f"of shape {tuple(member.param.shape)} cannot have one: {why}. Leave "
                    "`fused` at None to let such parameters run eagerly."
                )
            self._run_eagerly(optimizer, member, why)
        for (reading, *_), shelf in shelves.items():
            bucket = self._bucket(optimizer, reading, shelf)
            if bucket.holds():
                self.buckets.append(bucket)
                continue
            for member in shelf:
                self._run_eagerly(optimizer, member, "native code sees other tensors")

    def _run_eagerly(self, optimizer: Optimizer, member: Member, why: str) -> None:
        sparse = member.grad.is_sparse
        group = optimizer.param_groups[member.group]
        by_rows = sparse and optimizer.on_sparse(group) == "rows"
        passing = why.startswith("the gradient") and not sparse
        self.eager.append(EagerMember(member, why, by_rows, passing))

    def _observe(self, optimizer: Optimizer) -> _Hyperparameters:
        objects = list(self._values(optimizer))
        structure, skeletons, numbers = [], [], []
        for group in optimizer.param_groups:
            found: list[float] = []
            shape = tuple(
                skeleton(group[name], found) for name in self.schema.hyperparameters
            )
            switches = tuple(group.get(switch) for switch in _SWITCHES)
            structure.append((shape, switches, self.schema.present(group)))
            skeletons.append(shape)
            numbers.append(tuple(found))
        fixed = all(map(_is_fixed, objects))
        return _Hyperparameters(objects, fixed, structure, skeletons, numbers)

    def _values(self, optimizer: Optimizer) -> Iterator[Any]:
        keys = self._keys
        return (group.get(key) for group in optimizer.param_groups for key in keys)

    def _collect(self, optimizer: Optimizer) -> Iterator[Member]:
        schema = self.schema
        seen: set[Tensor] = set()
        for index, group in enumerate(optimizer.param_groups):
            present = schema.present(group)
            for param in group["params"]:
                if param in seen:
                    continue
                seen.add(param)
                grad = param.grad
                if grad is None:
                    self._idle.append(param)
                    continue
                optimizer.check_gradient(param, grad, group)
                first = self._complete(optimizer, param, group, present)
                state = optimizer.state.get(param, {})
                yield Member(param, grad, index, state, present, first)

    def _complete(
        self,
        optimizer: Optimizer,
        param: Tensor,
        group: Group,
        present: tuple[str, ...],
    ) -> bool:
        """Make the state that a parameter lacks; whether any slot was made."""
        missing = optimizer.missing_state(param, group, present)
        if not missing:
            return False
        made = optimizer.initial_state(param, group, missing)
        if param not in optimizer.state:
            self._made.append(param)
        optimizer.state[param].update(made)
        return any(name != "step" for name in missing)

    def _readings(self, members: Iterable[Member]) -> list[Reading]:
        known: dict[Any, Reading] = {}
        readings = []
        for member in members:
            state = tuple(
                float(member.state[name])
                for name in self.schema.numbers(member.present)
            )
            key = (member.group, member.present, member.first, state)
            if key not in known:
                known[key] = self._read(member, state)
            readings.append(known[key])
        return readings

    def _read(self, member: Member, state: Numbers) -> Reading:
        numbers = self._hyperparameters.numbers[member.group]
        first = member.first and self.schema.wants_first
        skeletons = self._hyperparameters.skeletons[member.group]
        situation = Situation(member.present, first, skeletons)
        return read(self.schema, situation, self.schema.inputs(numbers, state))[0]

    def _slots(self, member: Member) -> list[Tensor]:
        return [member.state[n] for n in self.schema.tensor_slots(member.present)]

    def _key(self, member: Member, group: Group) -> Iterator[Any]:
        """What must be equal for parameters to share a kernel."""
        yield bool(group.get("maximize"))
        yield member.param.dtype
        yield member.grad.dtype
        yield tuple(slot.dtype for slot in self._slots(member))
        for name in self.schema.numbers(member.present):
            yield member.state[name].dtype

    def _bucket(
        self, optimizer: Optimizer, reading: Reading, members: list[Member]
    ) -> Bucket:
        model = members[0]
        names = ("param", *self.schema.tensor_slots(model.present), "grad")
        tensors = (model.param, *self._slots(model), model.grad)
        dtypes = tuple(tensor.dtype for tensor in tensors)
        maximize = bool(optimizer.param_groups[model.group].get("maximize"))
        kernel, formats = _kernel(self.schema.owner, reading, names, dtypes, maximize)
        bucket = Bucket(self.schema, reading, kernel, formats, members)
        bucket.assign(self._hyperparameters.numbers)
        return bucket

    # Holding

    def _remember(self, optimizer: Optimizer) -> None:
        self._objects = _objects(optimizer)
        self._identity = _identity(self._objects)
        self._sizes = _sizes(optimizer)

    def holds(self, optimizer: Optimizer) -> bool:
        """Whether the plan is true of the optimizer and its tensors as they are now."""
        return (
            not self.brief
            and _sizes(optimizer) == self._sizes
            and _identity(_objects(optimizer)) == self._identity
            and all(param.grad is None for param in self._idle)
            and all(map(self._eager_holds, self.eager))
            and self._hyperparameters_hold(optimizer)
            and all(bucket.holds() for bucket in self.buckets)
            and not torch.compiler.is_compiling()
        )

    def _eager_holds(self, entry: EagerMember) -> bool:
        """An eager parameter stays so, unless it was its gradient that stood apart."""
        grad = entry.member.param.grad
        if grad is None or grad.is_sparse != entry.member.grad.is_sparse:
            return False
        entry.member.grad = grad
        return not entry.passing

    def _hyperparameters_hold(self, optimizer: Optimizer) -> bool:
        known = self._hyperparameters
        values = self._values(optimizer)
        if known.fixed and all(map(is_, values, known.objects)):
            return True
        now = self._observe(optimizer)
        if now.structure != known.structure:
            return False
        self._hyperparameters = now
        if now.numbers != known.numbers:
            for bucket in self.buckets:
                bucket.assign(now.numbers)
        return True

    # Running

    def run(self, optimizer: Optimizer) -> bool:
        """Do one step; False, with nothing done, if the plan must be made anew."""
        if not all(bucket.prepare() for bucket in self.buckets):
            return False
        for entry in self.eager:
            member = entry.member
            eager.update(
                self.schema,
                optimizer.param_groups[member.group],
                member.param,
                member.grad,
                member.state,
                present=member.present,
                first=member.first,
                by_rows=entry.by_rows,
            )
        for bucket in self.buckets:
            bucket.launch()
        if self.eager:
            self._remember(optimizer)
        return True


def _objects(optimizer: Optimizer) -> tuple[Any, ...]:
    """The Python objects that a plan depends on, in a fixed order."""
    state = optimizer.state
    return tuple(
        chain(
            chain.from_iterable([group["params"] for group in optimizer.param_groups]),
            state,
            state.values(),
            chain.from_iterable(map(dict.values, state.values())),
        )
    )


def _identity(objects: tuple[Any, ...]) -> bytes:
    """The addresses of a tuple's elements, as the tuple itself holds them.

    Tensors cannot be compared with ``==``, and ``is`` for each costs 0.03 microseconds:
    more than all else that a step does for a parameter.
    """
    return string_at(id(objects) + tuple.__basicsize__, len(objects) * _WORD)


def _sizes(optimizer: Optimizer) -> list[int]:
    return [len(group["params"]) for group in optimizer.param_groups]


def _is_fixed(value: Any) -> bool:
    """Whether a value cannot change while it is the same object."""
    if isinstance(value, tuple):
        return all(map(_is_fixed, value))
    return type(value) in _FIXED


def _written(members: Sequence[Member]) -> Iterator[tuple[Tensor, list[Tensor]]]:
    for member in members:
        slots = [v for v in member.state.values() if isinstance(v, Tensor)]
        yield member.param, [member.param, *slots]


@lru_cache(maxsize=None)
def _kernel(
    owner: str,
    reading: Reading,
    names: tuple[str, ...],
    dtypes: tuple[torch.dtype, ...],
    maximize: bool,
) -> tuple[Kernel, dict[str, Format]]:
    formats: dict[str, Format] = {}
    for name, dtype in zip(names, dtypes, strict=True):
        format = format_of(dtype)
        assert format is not None
        formats[name] = format
    return generate(owner, reading.graph, formats, maximize=maximize), formats
