r"""Stages: what a step does besides the rule, in the same pass over memory.

A stage is a keyword of every optimizer that has a rule, or a key of its groups, which
makes another rule of it: one with more slots and hyperparameters, read and fused as any
rule is.

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
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import torch
from torch import Tensor

from .bounds import Check, between
from .schema import Schema
from .slot import Group, Slot
from .terms import lerp

__all__ = ["PARAM_EMA", "STAGES", "Stages", "asked", "staged"]

PARAM_EMA = "param_ema"
_LOW = (torch.bfloat16, torch.float16)


class Stages(TypedDict, total=False):
    r"""The keywords of every optimizer that has a rule; a group may have its own.

    Keys:
        ema_decay: :math:`d` in [0, 1]: keep an exponential moving average of each
            parameter, as state ``param_ema``, and evaluate with it in
            :meth:`~polyak.Optimizer.swapped`. None, the default, keeps none.

            .. math:: a_t = d\,a_{t-1} + (1 - d)\,\theta_t, \qquad a_0 = \theta_0

            It advances whenever the parameter is updated: not in a step that a
            :class:`~torch.amp.GradScaler` skips, nor without gradient. Of parameters in
            half precision it is in float32, and of the new values before they are
            rounded.
    """

    ema_decay: float | None


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        check: raises for a value that the hyperparameter cannot have.
        apply: makes the rule with the stage.
    """

    check: Check
    apply: Callable[[Schema], Schema]


def asked(groups: list[Group]) -> tuple[str, ...]:
    """The stages that some group asks for."""
    return tuple(
        name for name in STAGES if any(group.get(name) is not None for group in groups)
    )


def staged(schema: Schema, names: tuple[str, ...]) -> Schema:
    """A rule with stages."""
    for name in names:
        schema = STAGES[name].apply(schema)
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
    )


STAGES: Mapping[str, Stage] = {
    "ema_decay": Stage(between(0, 1, open_above=False), _with_ema)
}
