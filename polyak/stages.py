r"""Stages: what a step does besides the rule, in the same pass over memory.

A stage makes another rule of an optimizer's: one with more slots and arguments, read
and fused as any rule is. :class:`Stages` are the keywords that ask for them.

>>> import polyak
>>> w = torch.tensor([1.0, 2.0], requires_grad=True)
>>> optimizer = polyak.SGD([w], lr=1.0, ema_decay=0.75)
>>> w.grad = torch.tensor([4.0, 0.0])
>>> print(polyak.explain(optimizer, kernel=True).kernels[0].listing)
# SGD: param float32, param_ema float32, grad float32
# once a step, in float64
s0 = 1 - ema_decay
# for each number, in float32
for i in range(n):
    x0 = param[i] - lr * grad[i]
    param[i] = x0
    param_ema[i] = param_ema[i] + s0 * (x0 - param_ema[i])
<BLANKLINE>
>>> optimizer.step()
>>> with optimizer.swapped():
...     print(w.detach())
tensor([0., 2.])
>>> w.detach()
tensor([-3.,  2.])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor

from .bounds import Check, above, between, one_of
from .schema import Schema
from .slot import Group, Slot
from .terms import lerp

if TYPE_CHECKING:
    from .optimizer import Optimizer
    from .state import Stateful

__all__ = [
    "HYPERPARAMETERS",
    "PARAM_EMA",
    "SETTINGS",
    "Setting",
    "Stages",
    "asked",
    "staged",
]

PARAM_EMA = "param_ema"
_LOW = (torch.bfloat16, torch.float16)


class Stages(TypedDict, total=False):
    r"""The keywords of every optimizer that has a rule.

    Keys:
        ema_decay: :math:`d` in [0, 1]: keep an exponential moving average of each
            parameter, as state ``param_ema``, and evaluate with it in
            :meth:`~polyak.Optimizer.swapped`. A hyperparameter: a group may have its
            own, and schedulers may set it. None, the default, keeps none.

            .. math:: a_t = d\,a_{t-1} + (1 - d)\,\theta_t, \qquad a_0 = \theta_0

            It advances whenever the parameter is updated: not in a step that is left
            out, nor without gradient. Of parameters in half precision it is in float32,
            and of the new values before they are rounded.
        clip_grad_norm: :math:`c > 0`: the gradients of all parameters, as one vector,
            are used as if they were no longer than this, as after
            :func:`torch.nn.utils.clip_grad_norm_`:

            .. math:: g \leftarrow g \min(1, c / (\lVert g \rVert_2 + 10^{-6}))
        clip_grad_value: :math:`c > 0`: each number of a gradient is used as if it were
            in :math:`[-c, c]`, after the norm was clipped.
        nonfinite: what to do if a gradient has an infinite number or a NaN:
            ``"ignore"`` computes with it, ``"skip"`` leaves the step out and counts it
            in :attr:`~polyak.Optimizer.skipped_steps`, ``"raise"`` raises RuntimeError.
            Parameters and state stay as they were.
        clear_grads: True drops all gradients at the end of a step, as
            :meth:`~polyak.Optimizer.zero_grad` does: after the post hooks, which still
            see them, and also if the step was left out; not if it raised. A GradScaler
            leaves unscaling to such a step. It would not call others on gradients that
            overflowed, and these would stay.

    All but the first are attributes of the optimizer too, and may be set at any time. A
    checkpoint does not have them. The gradients themselves are not written to.
    """

    ema_decay: float | None
    clip_grad_norm: float | None
    clip_grad_value: float | None
    nonfinite: Literal["ignore", "skip", "raise"]
    clear_grads: bool


HYPERPARAMETERS: Mapping[str, Check] = {"ema_decay": between(0, 1, open_above=False)}

SETTINGS: Mapping[str, Check] = {
    "clip_grad_norm": above(0),
    "clip_grad_value": above(0),
    "nonfinite": one_of("ignore", "skip", "raise"),
    "clear_grads": one_of(False, True),
}


class Setting:
    """An attribute of an optimizer that selects a stage; checked when it is set."""

    def __init__(self, default: Any) -> None:
        self.default = default

    def __set_name__(self, owner: type[Stateful], name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Stateful | None, kind: type[Stateful]) -> Any:
        if optimizer is None:
            return self
        return optimizer.__dict__.get(self.name, self.default)

    def __set__(self, optimizer: Optimizer, value: Any) -> None:
        owner = type(optimizer).__name__
        if not optimizer.has_rule:
            raise AttributeError(f"{owner} has no rule, and so no {self.name}")
        if value is not None:
            SETTINGS[self.name](owner, self.name, value)
        value = self.default if value is None else value
        held = optimizer.__dict__.get(self.name, self.default)
        if (value == self.default) != (held == self.default):
            optimizer._plan = None  # it is of another rule
        optimizer.__dict__[self.name] = value


def asked(optimizer: Stateful) -> tuple[str, ...]:
    """The stages that an optimizer or one of its groups asks for."""
    wanted = {
        "ema_decay": any(
            group.get("ema_decay") is not None for group in optimizer.param_groups
        ),
        "clip_grad_value": optimizer.clip_grad_value is not None,
        "grad_factor": (
            optimizer.clip_grad_norm is not None
            or getattr(optimizer, "grad_scale", None) is not None
        ),
    }
    return tuple(name for name, is_wanted in wanted.items() if is_wanted)


def staged(schema: Schema, names: tuple[str, ...]) -> Schema:
    """A rule with stages: of those that change the gradient, the last comes first."""
    for name in names:
        schema = _STAGES[name](schema)
    return schema


def _with_ema(schema: Schema) -> Schema:
    def rule(*arguments: Any, ema_decay: Any, **keywords: Any) -> Any:
        average = arguments[-1]
        results = schema.rule(*arguments[:-1], **keywords)
        results = results if isinstance(results, tuple) else (results,)
        if average is not None:
            average = lerp(average, results[0], 1 - ema_decay)
        return *results, average

    def begin(param: Tensor, group: Group) -> Tensor:
        return param.float() if param.dtype in _LOW else param.clone()

    slot = Slot(begin, when=lambda group: group.get("ema_decay") is not None)
    return replace(
        schema,
        rule=rule,
        slots={**schema.slots, PARAM_EMA: slot},
        hyperparameters=(*schema.hyperparameters, "ema_decay"),
        optional=schema.optional | {"ema_decay"},
        stage_slots=schema.stage_slots | {PARAM_EMA},
    )


def _with_value_clipped(schema: Schema) -> Schema:
    def rule(
        param: Any, grad: Any, *slots: Any, clip_grad_value: Any, **keywords: Any
    ) -> Any:
        grad = torch.clamp(grad, -clip_grad_value, clip_grad_value)
        return schema.rule(param, grad, *slots, **keywords)

    return replace(schema, rule=rule, injected=(*schema.injected, "clip_grad_value"))


def _with_factor(schema: Schema) -> Schema:
    """For the norm to be clipped, and for what a GradScaler has not unscaled."""

    def rule(
        param: Any, grad: Any, *slots: Any, grad_factor: Any, **keywords: Any
    ) -> Any:
        return schema.rule(param, grad * grad_factor, *slots, **keywords)

    return replace(schema, rule=rule, injected=(*schema.injected, "grad_factor"))


_STAGES: Mapping[str, Callable[[Schema], Schema]] = {
    "ema_decay": _with_ema,
    "clip_grad_value": _with_value_clipped,
    "grad_factor": _with_factor,
}
