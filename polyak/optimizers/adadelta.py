"""Adadelta: steps in the units of the parameter."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from ..bounds import at_least, between
from ..optimizer import Optimizer
from ..stages import Stages
from ..terms import ema

__all__ = ["Adadelta"]


class Adadelta(Optimizer):
    r"""Gradients scaled by the ratio of past steps to past gradients (`Zeiler, 2012
    <https://arxiv.org/abs/1212.5701>`_).

    .. math::
        g_t      &= \nabla f(\theta_{t-1}) + \lambda\,\theta_{t-1} \\
        v_t      &= \rho\,v_{t-1} + (1 - \rho)\,g_t^2 \\
        \delta_t &= \frac{\sqrt{u_{t-1} + \epsilon}}{\sqrt{v_t + \epsilon}}\,g_t \\
        u_t      &= \rho\,u_{t-1} + (1 - \rho)\,\delta_t^2 \\
        \theta_t &= \theta_{t-1} - \gamma\,\delta_t

    Args:
        params: tensors, (name, tensor) pairs, or dicts that define parameter groups.
        lr: factor :math:`\gamma \ge 0` of the step.
        rho: smoothing :math:`\rho` in [0, 1].
        eps: :math:`\epsilon \ge 0`, starts the steps and keeps them from vanishing.
        weight_decay: L2 penalty :math:`\lambda \ge 0`.
        foreach: False runs the eager engine.
        capturable: keep the step counter on the parameter's device.
        maximize: go up the gradient.
        differentiable: let autograd through the step.
        stages: what else a step does in the same pass: :class:`~polyak.Stages`.

    State: ``step``; ``square_avg`` (:math:`v`) and ``acc_delta`` (:math:`u`), each like
    the parameter.

    Raises:
        ValueError: a value out of its range.
        RuntimeError: a sparse gradient.

    >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> w.grad = torch.tensor([0.3, -4.0])
    >>> Adadelta([w], eps=1e-4).step()
    >>> w
    tensor([ 0.9686, -1.9684], requires_grad=True)
    """

    counts_steps = True
    bounds = {
        "lr": at_least(0, "learning rate"),
        "rho": between(0, 1, open_above=False),
        "eps": at_least(0, "epsilon value"),
        "weight_decay": at_least(0),
    }

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        **stages: Unpack[Stages],
    ) -> None:
        defaults = dict(
            lr=lr,
            rho=rho,
            eps=eps,
            weight_decay=weight_decay,
            maximize=maximize,
            capturable=capturable,
            foreach=foreach,
            differentiable=differentiable,
        )
        super().__init__(params, defaults, **stages)

    @staticmethod
    def rule(param, grad, square_avg, acc_delta, *, lr, rho, eps, weight_decay):
        if weight_decay:
            grad = grad + weight_decay * param
        square_avg = ema(square_avg, grad * grad, rho)
        delta = torch.sqrt(acc_delta + eps) / torch.sqrt(square_avg + eps) * grad
        return param - lr * delta, square_avg, ema(acc_delta, delta * delta, rho)
