"""Adam: the gradient's running mean, over the root of its running mean square."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from ..bounds import at_least, between, each
from ..optimizer import Optimizer
from ..slot import Slot
from ..stages import Stages
from ..terms import ema

__all__ = ["Adam"]


class Adam(Optimizer):
    r"""Adaptive moment estimation (`Kingma and Ba, 2015
    <https://arxiv.org/abs/1412.6980>`_).

    .. math::
        g_t      &= \nabla f(\theta_{t-1}) + \lambda\,\theta_{t-1} \\
        m_t      &= \beta_1\,m_{t-1} + (1 - \beta_1)\,g_t \\
        v_t      &= \beta_2\,v_{t-1} + (1 - \beta_2)\,g_t^2 \\
        \theta_t &= \theta_{t-1} - \gamma\,\frac{m_t / (1 - \beta_1^t)}
                    {\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Args:
        params: tensors, (name, tensor) pairs, or dicts that define parameter groups.
        lr: step size :math:`\gamma \ge 0`.
        betas: :math:`\beta_1, \beta_2`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, keeps the denominator from zero.
        weight_decay: :math:`\lambda \ge 0`, an L2 penalty.
        amsgrad: divide by the largest :math:`v` so far (`Reddi et al., 2018
            <https://openreview.net/forum?id=ryQu7f-RZ>`_).
        foreach: False runs the eager engine.
        maximize: go up the gradient.
        capturable: keep the step counter on the parameter's device.
        differentiable: let autograd through the step.
        fused: True demands a kernel, False runs the eager engine.
        decoupled_weight_decay: shrink the parameter itself, as
            :class:`~polyak.AdamW` does.
        stages: what else a step does in the same pass: :class:`~polyak.Stages`.

    State: ``step``; ``exp_avg`` (:math:`m`), ``exp_avg_sq`` (:math:`v`) and, with
    ``amsgrad``, ``max_exp_avg_sq``, each like the parameter.

    Raises:
        ValueError: a value out of its range.
        RuntimeError: a sparse gradient.

    >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> w.grad = torch.tensor([0.3, -4.0])
    >>> Adam([w], lr=0.1).step()
    >>> w
    tensor([ 0.9000, -1.9000], requires_grad=True)
    """

    slots = {"max_exp_avg_sq": Slot(when="amsgrad")}
    bounds = {
        "lr": at_least(0, "learning rate"),
        "eps": at_least(0, "epsilon value"),
        "betas": each(between(0, 1, "beta parameter at index {index}"), 2),
        "weight_decay": at_least(0),
    }
    sparse_advice = ", please consider SparseAdam instead"

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **stages: Unpack[Stages],
    ) -> None:
        defaults = dict(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        super().__init__(params, defaults, **stages)

    @staticmethod
    def rule(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq=None, *,
             step, lr, betas, eps, weight_decay, decoupled_weight_decay):  # fmt: skip
        beta1, beta2 = betas
        if weight_decay and decoupled_weight_decay:
            param = param * (1 - lr * weight_decay)
        elif weight_decay:
            grad = grad + weight_decay * param
        exp_avg = ema(exp_avg, grad, beta1)
        v = exp_avg_sq = ema(exp_avg_sq, grad * grad, beta2)
        if max_exp_avg_sq is not None:
            v = max_exp_avg_sq = torch.maximum(max_exp_avg_sq, exp_avg_sq)
        denom = v.sqrt() / (1 - beta2**step) ** 0.5 + eps
        param = param - lr / (1 - beta1**step) * exp_avg / denom
        return param, exp_avg, exp_avg_sq, max_exp_avg_sq

    @classmethod
    def check_group(cls, group: Mapping[str, Any]) -> None:
        super().check_group(group)
        kinds = [isinstance(beta, Tensor) for beta in group["betas"]]
        if any(kinds) and not all(kinds):
            raise ValueError("betas must be either both floats or both Tensors")
        if group["foreach"] and not group["capturable"]:
            named = {"lr": group["lr"], "betas[0]": group["betas"][0]}
            for name, value in named.items():
                if isinstance(value, Tensor):
                    raise ValueError(
                        f"{name} as a Tensor is not supported for capturable=False and "
                        "foreach=True"
                    )
