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
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor
from torch._C._autograd import _profiler_enabled

from . import checkpoint
from .bounds import Check, nearest
from .checkpoint import Hyperparams, LoadReport
from .copies import Copies
from .groups import checked_group, group_list, required
from .hooks import hooked
from .matching import Match
from .slot import Group
from .stages import HYPERPARAMETERS, PARAM_EMA, SETTINGS, Stages, asked
from .state import Stateful
from .swapping import holding
from .terms import ema  # noqa: F401  (for the example above)

__all__ = ["Optimizer", "required"]

Closure = Callable[[], Any]


class Optimizer(Stateful, Copies, torch.optim.Optimizer):
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

    bounds: ClassVar[Mapping[str, Check]] = {}
    constants: ClassVar[frozenset[str]] = frozenset()
    sparse_advice: ClassVar[str] = ""
    defaults: dict[str, Any]

    _plan: Any = None
    _stepping: bool = False
    _swapped: bool = False
    _takes_scaled: bool = False  # gradients, from a GradScaler

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
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
            self._takes_scaled = True
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
        if plan is not None and plan.repeat(self):
            return loss
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

    def refresh(self) -> None:
        """Let captured steps use the hyperparameters as they are now.

        A CUDA graph that holds a step reads tensors among the hyperparameters by
        itself. Numbers that were changed, by a scheduler or by hand, reach it by this
        call, between two replays, on the stream of the replays.

        Raises:
            RuntimeError: the change asks for another kernel: the step must be captured
                again.
        """
        from .engine.triton.captures import refresh

        with torch.no_grad():
            refresh(self)

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

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether a GradScaler calls every step and leaves unscaling to it."""
        return self._takes_scaled or self.clear_grads

    @_step_supports_amp_scaling.setter
    def _step_supports_amp_scaling(self, supports: bool) -> None:
        self._takes_scaled = supports

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
