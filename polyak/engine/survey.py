"""Looking over an optimizer: how the rule reads for each parameter, and who runs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..extent import Extent
from ..schema import Schema, skeleton
from ..slot import Group, number
from .eager import watched
from .fitness import Places, Tensors, objection, overlapping
from .formats import Format, format_of
from .kernel import Kernel, generate
from .phases import Matrix, matrix_of
from .reading import Reading, Situation, read
from .triton import regions
from .triton import source as triton
from .triton.devices import engine_of
from .triton.program import program_of
from .triton.staying import reader, stays, unreadable
from .watch import Change

if TYPE_CHECKING:
    from ..optimizer import Optimizer

__all__ = ["Hyperparameters", "Member", "Numbers", "Verdict", "kernel_for", "survey"]

Numbers = tuple[float, ...]

_SWITCHES = ("maximize", "foreach", "fused", "differentiable", "capturable")
_FIXED = (float, int, bool, str, type(None))


@dataclass(eq=False)
class Member:
    """A parameter that has a gradient, or state that waits for one.

    Attributes:
        grad: the gradient, if there is one, while a plan is made.
        group: index of the parameter's group.
        schema: the group's rule.
        state: the parameter's state, complete.
        present: the slots it has.
        first: the state was made in this step.
    """

    param: Tensor
    grad: Tensor | None
    group: int
    schema: Schema
    state: dict[str, Any]
    present: tuple[str, ...]
    first: bool

    def slots(self) -> list[Tensor]:
        """The state tensors, in the rule's order."""
        return [self.state[name] for name in self.schema.tensor_slots(self.present)]

    def extents(self) -> list[Extent]:
        """Along what each of them extends."""
        slots = self.schema.slots
        return [slots[name].extent for name in self.schema.tensor_slots(self.present)]

    def numbers(self) -> list[Any]:
        """The scalar slots and the step counter."""
        return [self.state[name] for name in self.schema.numbers(self.present)]

    def gradient(self) -> Tensor:
        """The gradient, while a plan is made; a tensor like it, if there is none."""
        return self.param if self.grad is None else self.grad


@dataclass(eq=False)
class Hyperparameters:
    """The hyperparameters of all groups.

    Attributes:
        fixed: no value of a group can change in place.
        schemas: the rules, by group.
        structure: what selects engines, slots and readings, by group.
        skeletons: the values that the rule takes, without their numbers, by group.
        numbers: those numbers, by group.
        floats: where among them a hyperparameter is that is a float, by group.
        decisive: values on which more than numbers depends, by group, where asked for.
    """

    fixed: bool
    schemas: list[Schema]
    structure: list[Any]
    skeletons: list[tuple[Any, ...]]
    numbers: list[Numbers]
    floats: list[dict[str, int]]
    decisive: dict[int, frozenset[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, optimizer: Optimizer) -> Hyperparameters:
        """Read them off an optimizer."""
        schemas = optimizer.schemas
        structure, skeletons, numbers, floats, fixed = [], [], [], [], True
        for group, schema in zip(optimizer.param_groups, schemas, strict=True):
            found: list[float] = []
            values = schema.values(group)
            fixed = fixed and all(map(_is_fixed, values.values()))
            read, shapes, places = reader(group, schema), [], {}
            for name, value in values.items():
                if type(value) is float:
                    places[name] = len(found)
                shapes.append(skeleton(value, found, read))
            shape = tuple(shapes)
            switches = tuple(group.get(switch) for switch in _SWITCHES)
            structure.append((schema, shape, switches, schema.present(group)))
            skeletons.append(shape)
            numbers.append(tuple(found))
            floats.append(places)
        return cls(fixed, schemas, structure, skeletons, numbers, floats)

    def after(
        self, changes: Iterable[Change], groups: Sequence[Group]
    ) -> Hyperparameters | None:
        """With other floats in place of floats; None if more than numbers changes."""
        numbers = list(self.numbers)
        for index, values in changes:
            if index not in self.decisive:
                decisive = self.schemas[index].decisive(groups[index])
                self.decisive[index] = decisive
            own, floats = list(numbers[index]), self.floats[index]
            for name, _, before, value in values:
                both = type(before) is float and type(value) is float
                if not both or name in self.decisive[index]:
                    return None
                if name in floats:
                    own[floats[name]] = value
            numbers[index] = tuple(own)
        return Hyperparameters(
            self.fixed,
            self.schemas,
            self.structure,
            self.skeletons,
            numbers,
            self.floats,
            self.decisive,
        )


def _is_fixed(value: Any) -> bool:
    """Whether a value cannot change while it is the same object."""
    if isinstance(value, tuple):
        return all(map(_is_fixed, value))
    return type(value) in _FIXED


@dataclass(frozen=True, eq=False)
class Verdict:
    """What is to happen with a parameter.

    Attributes:
        reading: the rule as it reads for it.
        why: why it must run eagerly; None where a kernel serves it.
        engine: whose kernel serves it.
        live: the scalars stay on the device.
    """

    member: Member
    reading: Reading
    why: str | None
    engine: str = "cpu"
    live: bool = False


def survey(
    optimizer: Optimizer, members: Sequence[Member], known: Hyperparameters
) -> Iterator[Verdict]:
    """Judge every member, in order."""
    readings: dict[Any, Reading] = {}
    places = Places()
    clashes = overlapping(_written(members), places)
    compiling, unread = torch.compiler.is_compiling(), watched()
    for member in members:
        schema = member.schema
        group = optimizer.param_groups[member.group]
        numbers = known.numbers[member.group]
        live = stays(group, member, numbers)
        blind = unread or live
        state = tuple(1.0 if blind else number(n) for n in member.numbers())
        first = member.first and schema.wants_first
        key = (member.group, member.present, first, state, live)
        if key not in readings:
            skeletons = known.skeletons[member.group]
            situation = Situation(member.present, first, skeletons, live)
            inputs = schema.inputs(numbers, state)
            readings[key] = read(schema, situation, inputs)[0]
        reading = readings[key]
        why = _judge(group, member, reading, places, clashes, compiling)
        if why is None:
            why = unreadable(member, reading.graph, numbers, live)
        if unread:
            why = "a dispatch mode must see every operation of the step"
        elif why is not None and member.grad is not None and group.get("fused"):
            raise RuntimeError(
                f"`fused=True` asks {schema.owner} for a kernel, but a parameter of "
                f"shape {tuple(member.param.shape)} cannot have one: {why}. Leave "
                "`fused` at None to let such parameters run eagerly."
            )
        engine = engine_of(member.param.device) or "eager"
        if member.grad is None and (engine != "cpu" or reading.graph.leaves):
            why = why or "its kernel leaves no tensor out"
        yield Verdict(member, reading, why, engine, live)


def _judge(
    group: Group,
    member: Member,
    reading: Reading,
    places: Places,
    clashes: set[Tensor],
    compiling: bool,
) -> str | None:
    graph = reading.graph
    if reading.objection is not None:
        return reading.objection
    slots = list(zip(member.slots(), member.extents(), strict=True))
    tensors = Tensors(member.param, member.gradient(), slots, member.numbers())
    if graph.has_rows and member.param.dim() < 2:
        return "the rule tells rows from columns, and the parameter has none"
    in_order = graph.has_rows or bool(graph.leaves)
    why = objection(group, tensors, places, compiling=compiling, in_order=in_order)
    if why is None and graph.leaves and member.param.is_complex():
        why = "the rule has a leaf, and the parameter is complex"
    if why is None and member.param in clashes:
        why = "its memory overlaps that of another tensor of the optimizer"
    return why


def _written(members: Iterable[Member]) -> Iterator[tuple[Tensor, list[Tensor]]]:
    for member in members:
        state = [value for value in member.state.values() if isinstance(value, Tensor)]
        yield member.param, [member.param, *state]


def kernel_for(optimizer: Optimizer, verdict: Verdict) -> tuple[Any, dict[str, Any]]:
    """The kernel that serves a member, and the storage of its tensors.

    Members with the same kernel and the same state have equal dtypes throughout.
    """
    member, schema = verdict.member, verdict.member.schema
    group = optimizer.param_groups[member.group]
    tensors = [member.param, *member.slots(), member.gradient()]
    names = ("param", *schema.tensor_slots(member.present), "grad")
    dtypes = tuple(tensor.dtype for tensor in tensors)
    maximize = bool(group.get("maximize"))
    case = (schema.owner, verdict.reading, names, dtypes, maximize)
    if verdict.engine == "cpu":
        return _kernel(*case, _small_matrix(verdict))
    held = schema.numbers(member.present) if verdict.live else None
    return _triton_kernel(*case, held, schema.counts_steps)


def _small_matrix(verdict: Verdict) -> Matrix | None:
    """What the kernel knows of the member's matrices, if they are many and small."""
    graph, param = verdict.reading.graph, verdict.member.param
    if not graph.has_rows or graph.leaves:
        return None
    return matrix_of(param.shape, 1 + param.is_complex())


@lru_cache(maxsize=256)
def _triton_kernel(
    owner: str,
    reading: Reading,
    names: tuple[str, ...],
    dtypes: tuple[torch.dtype, ...],
    maximize: bool,
    held: tuple[str, ...] | None,
    counts: bool,
) -> tuple[triton.TritonKernel, dict[str, triton.Stored]]:
    stored = [triton.FORMATS[dtype] for dtype in dtypes]
    formats = dict(zip(names, stored, strict=True))
    kernel = regions.generate(owner, reading.graph, formats, maximize=maximize)
    if held is not None:
        program = program_of(reading.graph, held, kernel, counts=counts)
        kernel = replace(kernel, program=program)
    return kernel, formats


@lru_cache(maxsize=256)
def _kernel(
    owner: str,
    reading: Reading,
    names: tuple[str, ...],
    dtypes: tuple[torch.dtype, ...],
    maximize: bool,
    matrix: Matrix | None,
) -> tuple[Kernel, dict[str, Format]]:
    formats: dict[str, Format] = {}
    for name, dtype in zip(names, dtypes, strict=True):
        format = format_of(dtype)
        assert format is not None, f"{dtype} was judged to have a kernel"
        formats[name] = format
    kernel = generate(owner, reading.graph, formats, maximize=maximize, matrix=matrix)
    return kernel, formats
