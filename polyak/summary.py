"""What an optimizer holds: hyperparameters, engines, and memory to the byte."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor

from .explain import Served, explain, state_to_come
from .groups import named
from .optimizer import Optimizer
from .schema import Schema
from .slot import Group
from .tables import aligned, is_off, settings, shown

__all__ = ["ParameterSummary", "Summary", "summary"]

K = TypeVar("K")
State = dict[str, Any]

_FROZEN = "frozen"

_LEFT = ("name", "shape", "dtype", "device", "engine")


@dataclass(frozen=True)
class ParameterSummary:
    """A parameter and the memory that it needs.

    Attributes:
        name: its name where the optimizer has names, its number otherwise.
        group: index of its group.
        shape: its shape.
        dtype: its dtype.
        device: its device.
        engine: what updates it: ``"kernel 0"``, ``"eager: ..."`` with the reason,
            ``"frozen"``, or ``"torch.optim"`` and the like for a foreign optimizer.
        parameter_bytes: its own size.
        gradient_bytes: that of its gradient; where there is none yet, of one like it.
        slot_bytes: that of each state entry by name.
        device_bytes: all of these by device.
        is_new: some of its state is still to be made.
    """

    name: str
    group: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    engine: str
    parameter_bytes: int
    gradient_bytes: int
    slot_bytes: Mapping[str, int]
    device_bytes: Mapping[torch.device, int]
    is_new: bool

    @property
    def state_bytes(self) -> int:
        """The size of all its state."""
        return sum(self.slot_bytes.values())


@dataclass(frozen=True)
class Summary:
    """What :func:`summary` found; ``str()`` of it is the table.

    Attributes:
        optimizer: the optimizer's name.
        groups: the hyperparameters of each group.
        parameters: every parameter, in order.
        foresees: state that is not there yet is counted too.
        depth: the table has a row for each module of this depth.
    """

    optimizer: str
    groups: Sequence[Mapping[str, Any]]
    parameters: Sequence[ParameterSummary]
    foresees: bool
    depth: int | None = None

    @property
    def parameter_bytes(self) -> int:
        """The size of all parameters."""
        return sum(param.parameter_bytes for param in self.parameters)

    @property
    def gradient_bytes(self) -> int:
        """The size of all gradients."""
        return sum(param.gradient_bytes for param in self.parameters)

    @property
    def slot_bytes(self) -> dict[str, int]:
        """The size of each kind of state by name."""
        return _added(param.slot_bytes for param in self.parameters)

    @property
    def state_bytes(self) -> int:
        """The size of all state."""
        return sum(self.slot_bytes.values())

    @property
    def device_bytes(self) -> dict[torch.device, int]:
        """The size of everything by device."""
        return _added(param.device_bytes for param in self.parameters)

    @property
    def total_bytes(self) -> int:
        """The size of parameters, gradients and state."""
        return self.parameter_bytes + self.gradient_bytes + self.state_bytes

    def __str__(self) -> str:
        return "\n".join(
            [
                self._headline(),
                *(_said(index, group) for index, group in enumerate(self.groups)),
                "",
                self._table(),
                "",
                *self._totals(),
            ]
        )

    def _headline(self) -> str:
        numbers = sum(torch.Size(param.shape).numel() for param in self.parameters)
        parameters = _several(len(self.parameters), "parameter")
        groups = _several(len(self.groups), "group")
        return f"{self.optimizer}: {parameters} of {numbers:,} numbers in {groups}"

    def _table(self) -> str:
        slots = [name for name, size in self.slot_bytes.items() if size]
        header = ["group", "name", "shape", "dtype", "device", "parameter", "gradient"]
        header += [*slots, "engine"]
        rows = [_row(name, members, slots) for name, members in self._collapsed()]
        return aligned(header, rows, right=set(header) - set(_LEFT))

    def _collapsed(self) -> Iterator[tuple[str, list[ParameterSummary]]]:
        rows: dict[tuple[int, str], list[ParameterSummary]] = {}
        for param in self.parameters:
            parts = param.name.split(".")
            is_deeper = self.depth is not None and len(parts) > self.depth
            name = ".".join([*parts[: self.depth], "*"]) if is_deeper else param.name
            rows.setdefault((param.group, name), []).append(param)
        for (_, name), members in rows.items():
            yield (name if len(members) > 1 else members[0].name), members

    def _totals(self) -> Iterator[str]:
        slots = self.slot_bytes.items()
        kinds = ", ".join(f"{name} {_readable(size)}" for name, size in slots if size)
        yield f"parameters  {_readable(self.parameter_bytes)}"
        yield f"gradients   {_readable(self.gradient_bytes)}"
        yield f"state       {_readable(self.state_bytes)}" + (
            f": {kinds}" if kinds else ""
        )
        devices = self.device_bytes.items()
        places = ", ".join(f"{_readable(size)} on {device}" for device, size in devices)
        yield f"total       {_readable(self.total_bytes)}" + (
            f": {places}" if len(devices) > 1 else ""
        )
        new = sum(param.is_new for param in self.parameters)
        if new:
            yield f"The next step makes the state of {_several(new, 'parameter')}."
        if not (self.foresees or slots):
            yield f"{self.optimizer} has no state now; what it will make is not counted"


def summary(optimizer: torch.optim.Optimizer, *, depth: int | None = None) -> Summary:
    """Tell what an optimizer holds for each parameter, and the memory it takes.

    It is right before the first step too: state that polyak's optimizers are to make
    is counted without making it, and so are gradients that are to come (as dense ones).
    Nothing is changed. An optimizer on the ``"meta"`` device tells what it would need.

    Args:
        optimizer: one of polyak's, torch's or any other. For those without a rule
            (:class:`~polyak.LBFGS`, torch's), the state is counted as it is now.
        depth: a row for each module of this depth rather than for each parameter, by
            the names that the optimizer has: 1 for the model's own modules, 0 for the
            groups.

    Raises:
        TypeError: no optimizer.
        ValueError: a negative depth.

    >>> import polyak
    >>> model = torch.nn.Linear(100, 10)
    >>> optimizer = polyak.AdamW(model.named_parameters())
    >>> print(polyak.summary(optimizer))
    AdamW: 2 parameters of 1,010 numbers in 1 group
    group 0: lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01, ...
    <BLANKLINE>
    group  name    shape      dtype    device  parameter  gradient ...
        0  weight  (10, 100)  float32  cpu        4.0 kB    4.0 kB ...
        0  bias    (10,)      float32  cpu      40 bytes  40 bytes ...
    <BLANKLINE>
    parameters  4.0 kB
    gradients   4.0 kB
    state       8.1 kB: step 8 bytes, exp_avg 4.0 kB, exp_avg_sq 4.0 kB
    total       16.2 kB
    The next step makes the state of 2 parameters.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"summary takes an optimizer, but got {torch.typename(optimizer)}"
        )
    if depth is not None and depth < 0:
        raise ValueError(f"summary takes a depth of 0 or more, but got {depth}")
    groups = optimizer.param_groups
    places = [index for index, group in enumerate(groups) for _ in group["params"]]
    tellers = _tellers(optimizer)
    found: dict[Tensor, ParameterSummary] = {}
    with torch.no_grad():
        engines = _engines(optimizer)
        for index, (name, param), engine in zip(
            places, named(groups), engines, strict=True
        ):
            state = dict(optimizer.state.get(param, {}))
            is_frozen = param.grad is None and not param.requires_grad
            to_come = {} if is_frozen else tellers[index](param)
            runs = _FROZEN if is_frozen else engine
            counted = _counted(name, index, param, runs, state, to_come)
            found.setdefault(param, counted)
    return Summary(
        type(optimizer).__name__,
        [settings(group) for group in groups],
        list(found.values()),
        _has_rule(optimizer),
        depth,
    )


def _has_rule(optimizer: torch.optim.Optimizer) -> TypeGuard[Optimizer]:
    return isinstance(optimizer, Optimizer) and optimizer.has_rule


def _engines(optimizer: torch.optim.Optimizer) -> list[str]:
    if isinstance(optimizer, Optimizer):
        return [_engine(served) for served in explain(optimizer).served]
    owner = f"{type(optimizer).__name__}.step"
    return [owner for group in optimizer.param_groups for _ in group["params"]]


def _engine(served: Served) -> str:
    return f"kernel {served.kernel}" if served.why is None else f"eager: {served.why}"


def _tellers(optimizer: torch.optim.Optimizer) -> list[Callable[[Tensor], State]]:
    """For each group, what tells the state that the next step makes."""
    groups = optimizer.param_groups
    if not _has_rule(optimizer):
        return [lambda param: {}] * len(groups)
    return [
        partial(_to_come, optimizer.in_charge(group), group, schema)
        for group, schema in zip(groups, optimizer.schemas, strict=True)
    ]


def _to_come(owner: Optimizer, group: Group, schema: Schema, param: Tensor) -> State:
    """The state that the next step makes, without its memory."""
    missing = owner.missing_state(param, group, schema.present(group, param))
    return state_to_come(owner, group, param, missing)


def _counted(
    name: str, group: int, param: Tensor, engine: str, state: State, to_come: State
) -> ParameterSummary:
    home = param.device
    own = _by_device(param, home)
    grad = param if param.grad is None else param.grad
    gradient = {} if engine == _FROZEN else _by_device(grad, home)
    slots = {key: _by_device(value, home) for key, value in (state | to_come).items()}
    return ParameterSummary(
        name=name,
        group=group,
        shape=tuple(param.shape),
        dtype=param.dtype,
        device=home,
        engine=engine,
        parameter_bytes=sum(own.values()),
        gradient_bytes=sum(gradient.values()),
        slot_bytes={slot: sum(sizes.values()) for slot, sizes in slots.items()},
        device_bytes=_added([own, gradient, *slots.values()]),
        is_new=bool(to_come),
    )


def _by_device(value: Any, home: torch.device) -> dict[torch.device, int]:
    """The bytes of the tensors in a value; those without memory are to be at home."""
    if isinstance(value, Tensor):
        return {home if value.is_meta else value.device: _bytes(value)}
    if isinstance(value, Mapping):
        return _by_device([*value.values()], home)
    if isinstance(value, list | tuple):
        return _added(_by_device(part, home) for part in value)
    return {}


def _bytes(tensor: Tensor) -> int:
    if tensor.layout is torch.sparse_coo:
        return _bytes(tensor._indices()) + _bytes(tensor._values())
    return tensor.numel() * tensor.element_size()


def _added(counts: Iterable[Mapping[K, int]]) -> dict[K, int]:
    total: Counter[K] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


def _row(
    name: str, members: Sequence[ParameterSummary], slots: Sequence[str]
) -> list[str]:
    of_slots = _added(member.slot_bytes for member in members)
    first = members[0]
    return [
        str(first.group),
        name,
        str(first.shape) if len(members) == 1 else _several(len(members), "parameter"),
        _distinct(str(m.dtype).removeprefix("torch.") for m in members),
        _distinct(str(m.device) for m in members),
        _readable(sum(m.parameter_bytes for m in members)),
        _readable(sum(m.gradient_bytes for m in members)),
        *(_readable(of_slots[slot]) if slot in of_slots else "-" for slot in slots),
        _distinct(m.engine for m in members),
    ]


def _said(index: int, group: Mapping[str, Any]) -> str:
    values = (f"{k}={shown(v)}" for k, v in group.items() if not is_off(v))
    return f"group {index}: {', '.join(values)}"


def _distinct(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _several(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _readable(size: int) -> str:
    from rich.filesize import decimal

    return decimal(size)
