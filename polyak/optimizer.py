"""The optimizer: parameters in groups, their state, and the step.

:class:`Optimizer` keeps the contract of :class:`torch.optim.Optimizer`, of which it is
a subclass by name: frameworks test with ``isinstance``. Its behaviour is its own.

An optimizer is a subclass with a *rule*: a pure function from a parameter, its gradient
and its state to the new parameter and the new state. The signature is the schema. Names
after ``param, grad`` are *slots*, the state tensors, made as zeros unless ``slots``
says otherwise. Keyword-only names are taken from the parameter's group, but for
``step``, the number of this step (1 at the first), and ``first``, whether the state is
new.

>>> class Lion(Optimizer):
...     def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
...         super().__init__(
...             params, dict(lr=lr, betas=betas, weight_decay=weight_decay)
...         )
...
...     @staticmethod
...     def rule(param, grad, exp_avg, *, lr, betas, weight_decay):
...         update = torch.sign(ema(exp_avg, grad, betas[0]))
...         param = (1 - lr * weight_decay) * param - lr * update
...         return param, ema(exp_avg, grad, betas[1])
>>> w = torch.tensor([1.0, -2.0], requires_grad=True)
>>> w.grad = torch.tensor([0.3, -0.1])
>>> Lion([w], lr=0.1).step()
>>> w.tolist()
[0.8999999761581421, -1.899999976158142]

Whatever the rule says is fused into one native kernel for all parameters
(:mod:`polyak.engine`); :func:`polyak.explain` shows it.
"""

from __future__ import annotations

import inspect
import pickle
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor
from torch._C._autograd import _profiler_enabled

from . import checkpoint
from .bounds import Check, nearest
from .checkpoint import Hyperparams, LoadReport
from .groups import checked_group, group_list, required
from .hooks import HOOK_KINDS, Hooks, hooked
from .matching import Match
from .schema import Schema, read_schema
from .slot import Group, Slot, number, zeros
from .stages import (
    HYPERPARAMETERS,
    PARAM_EMA,
    SETTINGS,
    Setting,
    Stages,
    asked,
    staged,
)
from .swapping import holding
from .terms import ema  # noqa: F401  (for the example above)

__all__ = ["Optimizer", "required"]

Closure = Callable[[], Any]

_STEP = Slot(number=True)


class Optimizer(Hooks, torch.optim.Optimizer):
    """The base of every optimizer.

    Args:
        params: tensors, or (name, tensor) pairs, or dicts that define parameter groups:
            the key ``"params"`` and values of their own for some hyperparameters.
        defaults: every hyperparameter with its default, or
            :data:`required` for one that each group must give.
        stages: what else a step does in the same pass: :class:`Stages`.

    A subclass writes:

    Attributes:
        rule: the update, a static method (see the module).
        slots: how slots come into being, where zeros will not do.
        counts_steps: keep the counter ``state["step"]``; by default where the rule
            takes ``step``.
        bounds: checks of hyperparameters (:mod:`polyak.bounds`), made for every group.
        constants: hyperparameters that a checkpoint does not change.
        sparse_advice: what to add to the refusal of sparse gradients.

    A user reads:

    Attributes:
        steps: how many steps this object has done.
        skipped_steps: how many it has left out, since a gradient was not finite.
        has_rule: its step applies a rule, or several.

    Raises:
        TypeError: params is a tensor, or holds what is none; an unknown stage.
        ValueError: no parameters, a non-leaf, an unknown or missing group key, a value
            out of its bounds.
    """

    rule: ClassVar[Callable[..., Any]]
    slots: ClassVar[Mapping[str, Slot]] = {}
    counts_steps: ClassVar[bool | None] = None
    bounds: ClassVar[Mapping[str, Check]] = {}
    constants: ClassVar[frozenset[str]] = frozenset()
    sparse_advice: ClassVar[str] = ""
    has_rule: ClassVar[bool] = False
    _schemas: ClassVar[dict[tuple[str, ...], Schema]] = {}

    state: defaultdict[Any, Any]
    param_groups: list[Group]
    defaults: dict[str, Any]

    steps: int = 0
    skipped_steps: int = 0
    clip_grad_norm = Setting(None)
    clip_grad_value = Setting(None)
    nonfinite = Setting("ignore")
    # A GradScaler sets them around the step of an optimizer that unscales by itself.
    grad_scale: Tensor | None
    found_inf: Tensor | None
    _plan: Any = None
    _stepping: bool = False
    _counts: bool = True  # the step that is being done
    _fresh: frozenset[Tensor] = frozenset()  # with state, and not updated yet
    _rehearsed: bool = False  # state was made at a rate of 0
    _swapped: bool = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if hasattr(cls, "rule"):
            schema = read_schema(cls.__name__, cls.rule, cls.slots, cls.counts_steps)
            cls._schemas = {(): schema}
            cls.has_rule = True
        if "step" in cls.__dict__ and not hasattr(cls.step, "hooked"):
            cls.step = hooked(cls.step)  # type: ignore[method-assign]

    def __init__(
        self, params: Any, defaults: dict[str, Any], **stages: Unpack[Stages]
    ) -> None:
        self._clear_hooks()
        self._warned_capturable_if_run_uncaptured = True
        self._check_names(stages)
        chosen = {k: v for k, v in stages.items() if k in HYPERPARAMETERS}
        self.defaults = defaults = {**defaults, **chosen}
        for name in stages.keys() & SETTINGS:
            setattr(self, name, stages[name])  # type: ignore[literal-required]
        self.state = defaultdict(dict)
        self.param_groups = []
        if not any(value is required for value in defaults.values()):
            self.check_group(defaults)
        if defaults.get("fused"):
            self._step_supports_amp_scaling = True
        if defaults.get("fused") and defaults.get("differentiable"):
            raise RuntimeError("`fused` does not support `differentiable`")
        if defaults.get("fused") and defaults.get("foreach"):
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        for group in group_list(params):
            self.add_param_group(group)

    def _check_names(self, names: Iterable[str]) -> None:
        for name in names:
            stages = {**HYPERPARAMETERS, **SETTINGS} if self.has_rule else {}
            if name not in stages:
                known = [*inspect.signature(type(self)).parameters, *stages]
                raise TypeError(
                    f"{type(self).__name__}.__init__() got an unexpected keyword "
                    f"argument {name!r}.{nearest(name, known)}"
                )

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
        return self

    @classmethod
    def _schema_with(cls, names: tuple[str, ...]) -> Schema:
        if names not in cls._schemas:
            cls._schemas[names] = staged(cls._schemas[()], names)
        return cls._schemas[names]

    @property
    def _any_slots(self) -> Schema:
        """The rule with every slot that a stage can ask for."""
        return self._schema_with(("ema_decay",))

    # Groups

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters, or raise and change nothing.

        Args:
            param_group: ``"params"``, and values of its own for some hyperparameters.
        """
        group = checked_group(
            type(self).__name__,
            param_group,
            self.defaults,
            self.param_groups,
            HYPERPARAMETERS if self._schemas else (),
        )
        self.check_group(group)
        self._check_complete(group)
        for index, param in enumerate(group["params"]):
            self.check_param(param, [len(self.param_groups), index])
        self.param_groups.append(group)

    def check_param(self, param: Tensor, position: list[int]) -> None:
        """Raise where the optimizer cannot update a parameter.

        Args:
            param: the tensor.
            position: its group's index, and its own in the group.
        """
        return

    def _check_complete(self, group: Group) -> None:
        names = self._schemas[()].hyperparameters if self._schemas else ()
        for name in names:
            if name not in group:
                raise TypeError(
                    f"{type(self).__name__}.rule takes {name!r}, which the groups "
                    "lack: put it into the defaults"
                )

    @classmethod
    def check_group(cls, group: Mapping[str, Any]) -> None:
        """Raise where a hyperparameter of a group is out of its bounds."""
        for name, check in cls.bounds.items():
            if name in group:
                check(cls.__name__, name, group[name])
        for name, check in HYPERPARAMETERS.items():
            if group.get(name) is not None:
                check(cls.__name__, name, group[name])

    # The step

    @hooked
    def step(self, closure: Closure | None = None) -> Any:
        """Do one step: update every parameter that has a gradient.

        Args:
            closure: computes the loss anew and returns it; called once, before the
                update, with gradients enabled.

        Returns:
            What the closure returned, or None.
        """
        if self._swapped:
            raise RuntimeError(
                f"{type(self).__name__}.step() was called inside swapped(), where the "
                "parameters are the averages: step after the block"
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        plan = self._plan
        if plan is None or not plan.holds(self):
            if not self.state and self._is_rehearsal():
                self.init_state()
                self._rehearsed = True
                self._counts = False
                return loss
            self._end_rehearsal()
            plan = self._make_plan()
        if not self._run(plan):
            ran = self._run(self._make_plan())
            assert ran, "a plan just made must run"
        return loss

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

    def _make_plan(self) -> Any:
        from .engine.plan import Plan

        self._plan = None
        # State made in inference mode could never be updated outside it.
        with torch.inference_mode(False), torch.no_grad():
            self._plan = Plan(self)
        return self._plan

    def _run(self, plan: Any) -> bool:
        if not plan.eager:
            return bool(plan.run(self))
        with torch.set_grad_enabled(bool(self.defaults.get("differentiable"))):
            return bool(plan.run(self))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters.

        Args:
            set_to_none: drop them; otherwise fill them with zeros, detached from the
                graph. A parameter without gradient is left out by ``step``; one with a
                gradient of zeros is still decayed and moved by its momentum.
        """
        if _profiler_enabled():
            name = f"Optimizer.zero_grad#{type(self).__name__}.zero_grad"
            with torch.autograd.profiler.record_function(name):
                self._zero_grad(set_to_none)
        else:
            self._zero_grad(set_to_none)

    def _zero_grad(self, set_to_none: bool) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                if set_to_none:
                    param.grad = None
                elif param.grad is not None:
                    if param.grad.grad_fn is not None:
                        param.grad.detach_()
                    else:
                        param.grad.requires_grad_(False)
                    param.grad.zero_()

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Evaluate with the averages: the parameters have their values in this block.

        They get their own back at its end, whatever happens in it. Parameters that were
        not updated yet are their own average. The averages are those of the stage
        ``ema_decay`` (:class:`Stages`), also in a ``state_dict()`` of the model that is
        taken in the block.

        Raises:
            RuntimeError: no averages are kept, or there was no step yet; a step inside
                of the block.
        """
        owner = type(self).__name__
        if not self.has_rule or "ema_decay" not in asked(self):
            raise RuntimeError(
                f"{owner} keeps no averages of its parameters: build it with "
                "ema_decay=0.999, or another decay"
            )
        kept = [
            param
            for group in self.param_groups
            if group.get("ema_decay") is not None
            for param in group["params"]
            if PARAM_EMA in self.state.get(param, ())
        ]
        if not kept:
            raise RuntimeError(f"{owner} has averaged nothing yet: do a step first")
        outer, self._swapped = self._swapped, True
        try:
            with holding(kept, [self.state[param][PARAM_EMA] for param in kept]):
                yield
        finally:
            self._swapped = outer

    # What engines ask

    def check_gradient(self, param: Tensor, grad: Tensor, group: Group) -> None:
        """Raise where the optimizer cannot use a gradient."""
        if grad.is_sparse and self.on_sparse(group) is None:
            raise RuntimeError(
                f"{type(self).__name__} does not support sparse gradients"
                f"{self.sparse_advice}"
            )

    def on_sparse(self, group: Group) -> str | None:
        """What to do with sparse gradients in a group.

        ``"rows"`` applies the rule to the rows that the gradient has, ``"dense"`` makes
        it dense first, None refuses it.
        """
        return None

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
        model = torch.view_as_real(param) if param.is_complex() else param
        slots = self._any_slots.slots
        for name in names:
            if name == "step":
                made[name] = self.loaded_step(param, 0.0, group)
                continue
            slot = slots[name]
            value = slot.init(model.detach(), group)
            if slot.number:
                made[name] = _as_number(param, value, group)
            else:
                made[name] = (
                    torch.view_as_complex(value) if param.is_complex() else value
                )
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
        elif slot.init is not zeros:  # ask it, without memory
            model = torch.empty_like(param, device="meta")
            model = torch.view_as_real(model) if param.is_complex() else model
            made = slot.init(model, group).shape
            shape = made[:-1] if param.is_complex() else made
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

    # State dicts

    def state_dict(self) -> dict[str, Any]:
        """The state and the groups, in torch's layout.

        Returns:
            ``{"state": {index: {slot: tensor}}, "param_groups": [group, ...]}``, with
            parameters by their index. The tensors are the live ones, not copies.
        """
        self._end_rehearsal()
        for prepare in list(self._optimizer_state_dict_pre_hooks.values()):
            prepare(self)
        state_dict = checkpoint.pack(self)
        for hook in list(self._optimizer_state_dict_post_hooks.values()):
            replaced = hook(self, state_dict)
            state_dict = state_dict if replaced is None else replaced
        return state_dict

    def load_state_dict(  # type: ignore[override]
        self,
        state_dict: dict[str, Any],
        *,
        strict: bool = True,
        match: Match = "auto",
        hyperparams: Hyperparams = "checkpoint",
    ) -> LoadReport:
        """Load a state dict of this optimizer or of torch's, or change nothing.

        How steps are computed (``foreach``, ``fused``, ``capturable``,
        ``differentiable``) stays as it is, and so do hyperparameters that the
        checkpoint lacks. State keeps its dtype, and shares no memory with the source.

        Args:
            state_dict: what :meth:`state_dict` returned, of any torch since 1.7 too.
            strict: raise where the two sides differ. False loads what fits, and leaves
                the state of other parameters as it is.
            match: how parameters are found: by ``"name"``, in any order and any group;
                by ``"position"``; or ``"auto"``: by name where the two sides share
                names, else by position.
            hyperparams: ``"checkpoint"`` takes those of the checkpoint, ``"current"``
                keeps those of this run; names, such as ``{"lr"}``, are of those that
                are kept.

        Returns:
            What did not fit; nothing if ``strict``.

        Raises:
            ValueError: groups that differ in number or size, parameters that one side
                lacks, state of another shape or another optimizer, values out of their
                bounds.
        """
        state_dict = state_dict.copy()
        for hook in list(self._optimizer_load_state_dict_pre_hooks.values()):
            replaced = hook(self, state_dict)
            state_dict = state_dict if replaced is None else replaced
        report = checkpoint.unpack(
            self, state_dict, strict=strict, match=match, hyperparams=hyperparams
        )
        for finish in list(self._optimizer_load_state_dict_post_hooks.values()):
            finish(self)
        return report

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

    # Copies

    def __getstate__(self) -> dict[str, Any]:
        # A scheduler's wrapper around `step` belongs to this object, not to a copy.
        own = ("_plan", "_stepping", "_swapped", "_counts", "step")
        return {key: value for key, value in self.__dict__.items() if key not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for kind in HOOK_KINDS:
            if kind not in self.__dict__:
                self._clear_hooks()
                break

    def __copy__(self) -> Optimizer:
        copy = type(self).__new__(type(self))
        copy.__setstate__(self.__getstate__())
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Optimizer:
        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        copy.__setstate__(deepcopy(self.__getstate__(), memo))
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        state = self.__getstate__()
        for kind in HOOK_KINDS:
            state[kind] = _picklable(state[kind], kind)
        return _new, (type(self),), state

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for index, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {index}")
            lines += [f"    {k}: {group[k]}" for k in sorted(group) if k != "params"]
        return "\n".join([*lines, ")"])

    # What torch's profiler calls after a step, to look at the optimizer.
    def _optimizer_step_code(self) -> None:
        return

    # torch wraps the class's `step` here; ours is wrapped where it is defined.
    def _patch_step_function(self) -> None:
        return


def _new(cls: type[Optimizer]) -> Optimizer:
    return cls.__new__(cls)


def _as_number(param: Tensor, value: Any, group: Group) -> Tensor:
    """A number of the state: a 0-d tensor, which torch keeps on the CPU."""
    device = param.device if group.get("capturable") else torch.device("cpu")
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().to(device, copy=True)
    return torch.tensor(number(value), dtype=_number_dtype(), device=device)


def _number_dtype() -> torch.dtype:
    double = torch.get_default_dtype() is torch.float64
    return torch.float64 if double else torch.float32


def _picklable(hooks: Any, kind: str) -> Any:
    kept = type(hooks)()
    for key, hook in hooks.items():
        try:
            pickle.dumps(hook)
        except (pickle.PicklingError, AttributeError, TypeError):
            warnings.warn(
                f"the pickle leaves out {hook!r} of {kind}: functions defined inside "
                "functions cannot be pickled. Register it again after loading.",
                stacklevel=4,
            )
        else:
            kept[key] = hook
    return kept
