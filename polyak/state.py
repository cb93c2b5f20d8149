"""The rule of an optimizer, and the state that it keeps for each parameter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor

from .custody import Custody
from .schema import Schema, read_schema
from .slot import Group, Slot, number, zeros
from .stages import Setting, asked, staged

if TYPE_CHECKING:
    from .optimizer import Optimizer

__all__ = ["Stateful"]

_STEP = Slot(number=True)


class Stateful:
    """What engines and checkpoints ask; a base of :class:`~polyak.Optimizer`.

    Attributes:
        has_rule: its step applies a rule, or several.
    """

    rule: ClassVar[Callable[..., Any]]
    slots: ClassVar[Mapping[str, Slot]] = {}
    counts_steps: ClassVar[bool | None] = None
    has_rule: ClassVar[bool] = False
    _schemas: ClassVar[dict[tuple[str, ...], Schema]] = {}

    clip_grad_norm = Setting(None)
    clip_grad_value = Setting(None)
    nonfinite = Setting("ignore")
    clear_grads = Setting(False)
    # A GradScaler sets them around the step of an optimizer that unscales by itself.
    grad_scale: Tensor | None
    found_inf: Tensor | None

    param_groups: list[Group]
    _custody: Custody
    _fresh: frozenset[Tensor] = frozenset()  # with state, and not updated yet
    _rehearsed: bool = False  # state was made at a rate of 0

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if hasattr(cls, "rule"):
            schema = read_schema(cls.__name__, cls.rule, cls.slots, cls.counts_steps)
            cls._schemas = {(): schema}
            cls.has_rule = True

    @property
    def schema(self) -> Schema:
        """The rule, with the stages that the groups ask for.

        Raises:
            NotImplementedError: the class has none.
        """
        if not self._schemas:
            raise NotImplementedError(
                f"{type(self).__name__} has no rule: write the static method "
                "rule(param, grad, *, lr), or override step."
            )
        return self._schema_with(asked(self))

    @property
    def schemas(self) -> list[Schema]:
        """The rule of each group; they differ in :class:`~polyak.Mixed` alone."""
        return [self.schema] * len(self.param_groups)

    def in_charge(self, group: Group) -> Optimizer:
        """The optimizer whose rule and checks a group has: itself, but in Mixed."""
        return cast("Optimizer", self)

    @classmethod
    def _schema_with(cls, names: tuple[str, ...]) -> Schema:
        if names not in cls._schemas:
            cls._schemas[names] = staged(cls._schemas[()], names)
        return cls._schemas[names]

    @property
    def _any_slots(self) -> Schema:
        """The rule with every slot that a stage can ask for."""
        return self._schema_with(("ema_decay",))

    # State

    @property
    def state(self) -> defaultdict[Any, Any]:
        """A dictionary for each parameter, with its slots by name."""
        state: defaultdict[Any, Any] = self._custody.show()
        return state

    @state.setter
    def state(self, state: Any) -> None:
        self._custody = Custody(state)

    def missing_state(
        self, param: Tensor, group: Group, present: tuple[str, ...]
    ) -> list[str]:
        """The names of the state that a parameter should have and has not."""
        state = self.state.get(param, {})
        due = ("step", *present) if self._any_slots.counts_steps else present
        return [name for name in due if state.get(name) is None]

    def initial_state(
        self, param: Tensor, group: Group, names: list[str]
    ) -> dict[str, Any]:
        """Fresh values for the state ``names`` of a parameter."""
        made: dict[str, Any] = {}
        slots = self._any_slots.slots
        for name in names:
            if name == "step":
                made[name] = self.loaded_step(param, 0.0, group)
                continue
            value = slots[name].begin(param.detach(), group)
            is_number = slots[name].number
            made[name] = _as_number(param, value, group) if is_number else value
        return made

    def check_slots(self, group: Group, label: str, saved: Mapping[str, Any]) -> None:
        """Raise where the saved state of a parameter is another optimizer's.

        Args:
            group: the parameter's group.
            label: what to call it in the error.
            saved: its state.
        """
        own = self._any_slots.slots.keys() if self._schemas else saved.keys()
        if own.isdisjoint(saved) and saved.keys() - {"step"}:
            raise ValueError(
                f"loaded state dict has {', '.join(saved)} for {label}, and "
                f"{type(self).__name__} has none of these: it is another optimizer's. "
                "polyak.convert_state keeps what the two share. Nothing was loaded."
            )

    def check_state(
        self, param: Tensor, group: Group, label: str, name: str, value: Any
    ) -> None:
        """Raise where a value cannot be the state ``name`` of a parameter.

        Args:
            param: the parameter.
            group: its group.
            label: what to call it in the error.
            name: the slot.
            value: what a checkpoint has for it.
        """
        if not self._schemas or not isinstance(value, Tensor):
            return
        slot = _STEP if name == "step" else self._any_slots.slots.get(name)
        if slot is None:
            return
        shape = param.shape
        if slot.number:
            shape = value.shape if value.numel() == 1 else torch.Size(())
        elif slot.init is not zeros or slot.per:  # ask it, without memory
            shape = slot.begin(torch.empty_like(param, device="meta"), group).shape
        if value.shape != shape:
            raise ValueError(
                f"loaded state dict has {name} of shape {tuple(value.shape)} for "
                f"{label}, where it is {tuple(shape)}. Is it the checkpoint of another "
                "model, or are the parameters in another order? Nothing was loaded."
            )

    def loaded_step(self, param: Tensor, value: Any, group: Group) -> Any:
        """A step counter of this optimizer's kind with the given value."""
        return _as_number(param, value, group)

    def loaded_number(self, param: Tensor, group: Group, name: str, value: Any) -> Any:
        """A value of a checkpoint for a slot: a tensor where the slot is a number."""
        slot = self._any_slots.slots.get(name) if self._schemas else None
        if slot is None or not slot.number or isinstance(value, Tensor):
            return value
        return _as_number(param, value, group)

    # State before the first step

    @torch.inference_mode(False)
    @torch.no_grad()
    def init_state(self) -> None:
        """Make the state that a first step would make, of every trainable parameter.

        State that is there is left alone. Distributed checkpoints need it before the
        first step: torch would do a step of its own. What a step does afterwards is
        what it would have done without.
        """
        made_for: list[Tensor] = []
        for group, schema in zip(self.param_groups, self.schemas, strict=True):
            owner = self.in_charge(group)
            for param in group["params"]:
                if not param.requires_grad:
                    continue
                present = schema.present(group, param)
                missing = owner.missing_state(param, group, present)
                if missing:
                    made = owner.initial_state(param, group, missing)
                    self.state.setdefault(param, {}).update(made)
                    made_for.append(param)
        self._fresh |= set(made_for)

    def _is_rehearsal(self) -> bool:
        """Whether the first step is at a rate of 0, on gradients of 0.

        torch's distributed checkpoints do such a step to see the state of an optimizer,
        and go on from what it leaves.
        """
        rates = (group.get("lr", 1.0) for group in self.param_groups)
        if not all(isinstance(rate, float | Tensor) and not rate for rate in rates):
            return False
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        given = [grad for grad in grads if grad is not None]
        return bool(given) and not any(g.is_sparse or g.any() for g in given)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _end_rehearsal(self) -> None:
        """Make state anew that was made at a rate of 0: some begins with the rate."""
        if not self._rehearsed:
            return
        self._rehearsed = False
        for group in self.param_groups:
            owner = self.in_charge(group)
            for param in self._fresh.intersection(group["params"]):
                state = self.state[param]
                state.update(owner.initial_state(param, group, list(state)))


def _as_number(param: Tensor, value: Any, group: Group) -> Tensor:
    """A number of the state: a 0-d tensor, which torch keeps on the CPU."""
    kept = group.get("capturable") or group.get("fused")
    device = param.device if kept else torch.device("cpu")
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().to(device, copy=True)
    return torch.tensor(number(value), dtype=_number_dtype(), device=device)


def _number_dtype() -> torch.dtype:
    double = torch.get_default_dtype() is torch.float64
    return torch.float64 if double else torch.float32
