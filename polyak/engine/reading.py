"""Readings of a rule: each a graph with its scalar program, made once and kept."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from ..schema import NUMBER, Schema
from .graph import Graph
from .passes import split
from .regions import why_not_cut
from .scalars import Evaluated, ScalarProgram, scalar_program
from .trace import trace

__all__ = ["Reading", "Situation", "read"]


@dataclass(frozen=True)
class Situation:
    """What a reading depends on, apart from numbers.

    Attributes:
        present: the slots there are.
        first: the state was made in this step.
        skeletons: the hyperparameters without their numbers, in the schema's order.
        live: the numbers stay on a device.
    """

    present: tuple[str, ...]
    first: bool
    skeletons: tuple[Any, ...]
    live: bool = False


@dataclass(frozen=True, eq=False)
class Reading:
    """A graph and its scalar program."""

    graph: Graph
    program: ScalarProgram

    @functools.cached_property
    def is_elementwise(self) -> bool:
        """Whether all that the rule does is to compute with each number by itself."""
        return not self.graph.leaves and split(self.graph).is_single

    @functools.cached_property
    def objection(self) -> str | None:
        """Why no kernel can serve, whatever the parameter, or None."""
        return why_not_cut(self.graph) if self.graph.leaves else None


_readings: WeakKeyDictionary[Schema, dict[Situation, list[Reading]]] = (
    WeakKeyDictionary()
)
_lock = threading.RLock()


def read(
    schema: Schema, situation: Situation, inputs: Sequence[float]
) -> tuple[Reading, Evaluated]:
    """The reading of a rule that holds for these numbers, and what they evaluate to.

    Args:
        schema: the rule.
        situation: everything but numbers.
        inputs: slot numbers, the step where the rule wants it, what is injected, and
            the numbers of the hyperparameters, in this order.
    """
    with _lock:
        known = _readings.setdefault(schema, {}).setdefault(situation, [])
        for reading in known:
            evaluated = reading.program.evaluate(*inputs)
            if evaluated is not None:
                return reading, evaluated
        reading = _make(schema, situation, inputs)
        known.append(reading)
        evaluated = reading.program.evaluate(*inputs)
        assert evaluated is not None
        return reading, evaluated


def _make(schema: Schema, situation: Situation, inputs: Sequence[float]) -> Reading:
    numbers = iter(inputs)
    present = situation.present
    number_slots = tuple(name for name in present if schema.slots[name].number)
    slot_values = {name: next(numbers) for name in number_slots}
    scalars: dict[str, Any] = {"step": next(numbers)} if schema.wants_step else {}
    scalars |= {name: next(numbers) for name in schema.injected}
    static: dict[str, Any] = {"first": situation.first} if schema.wants_first else {}
    for name, shape in zip(schema.hyperparameters, situation.skeletons, strict=True):
        if _has_number(shape):
            scalars[name] = _fill(shape, numbers)
        else:
            static[name] = shape
    tensor_slots = schema.tensor_slots(present)
    graph = trace(
        schema.rule,
        ("param", "grad", *schema.slots),
        ("param", "grad", *tensor_slots),
        slot_values,
        scalars,
        static,
        extents={name: schema.slots[name].extent for name in tensor_slots},
        owner=f"{schema.owner}.rule",
        live=situation.live,
    )
    return Reading(graph, scalar_program(graph, number_slots))


def _has_number(shape: Any) -> bool:
    if isinstance(shape, tuple):
        return any(map(_has_number, shape))
    return shape is NUMBER


def _fill(shape: Any, numbers: Any) -> Any:
    if isinstance(shape, tuple):
        return tuple(_fill(part, numbers) for part in shape)
    return next(numbers) if shape is NUMBER else shape
