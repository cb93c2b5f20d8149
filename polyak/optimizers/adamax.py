"""Adamax: Adam with the infinity norm."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from ..bounds import at_least, between, each
from ..optimizer import Optimizer
from ..stages import Stages
from ..terms import ema

__all__ = ["Adamax"]


class Adamax(Optimizer):
    r"""Adam whose scale is a decaying maximum (`Kingma and Ba, 2015, section 7.1
    <https://arxiv.org/abs/1412.6980>`_).

    .. math::
        g_t      &= \nabla f(\theta_{t-1}) + \lambda\,\theta_{t-1} \\
        m_t      &= \beta_1\,m_{t-1} + (1 - \beta_1)\,g_t \\
        u_t      &= \max(\beta_2\,u_{t-1},\ |g_t| + \epsilon) \\
        \theta_t &= \theta_{t-1} - \frac{\gamma}{1 - \beta_1^t}\,\frac{m_t}{u_t}

    Args:
        params: tensors, (name, tensor) pairs, or dicts that define parameter groups.
        lr: step size :math:`\gamma \ge 0`.
        betas: :math:`\beta_1, \beta_2`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, keeps the denominator from zero.
        weight_decay: L2 penalty :math:`\lambda \ge 0`.
        foreach: False runs the eager engine.
        maximize: go up the gradient.
        differentiable: let autograd through the step.
        capturable: keep the step counter on the parameter's device.
        stages: what else a step does in the same pass: :class:`~polyak.Stages`.

    State: ``step``; ``exp_avg`` (:math:`m`) and ``exp_inf`` (:math:`u`), each like the
    parameter.

    Raises:
        ValueError: a value out of its range.
        RuntimeError: a sparse gradient.

    >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> w.grad = torch.tensor([0.3, -4.0])
    >>> Adamax([w], lr=0.1).step()
    >>> w
    tensor([ 0.9000, -1.9000], requires_grad=True)
    """

    bounds = {
        "lr": at_least(0, "learning rate"),
        "betas": each(between(0, 1, "beta parameter at index {index}"), 2),
        "eps": at_least(0, "epsilon value"),
        "weight_decay": at_least(0),
    }

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **stages: Unpack[Stages],
    ) -> None:
        defaults = dict(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            capturable=capturable,
        )
        super().__init__(params, defaults, **stages)

    @staticmethod
    def rule(param, grad, exp_avg, exp_inf, *, step, lr, betas, eps, weight_decay):
        beta1, beta2 = betas
        if weight_decay:
            grad = grad + weight_decay * param
        exp_avg = ema(exp_avg, grad, beta1)
        exp_inf = torch.maximum(beta2 * exp_inf, abs(grad) + eps)
        param = param - lr / (1 - beta1**step) * exp_avg / exp_inf
        return param, exp_avg, exp_inf
