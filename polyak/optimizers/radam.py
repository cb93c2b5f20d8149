"""RAdam: Adam that begins with momentum alone, until its steps have a variance."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from ..bounds import at_least, between, each
from ..optimizer import Optimizer
from ..stages import Stages
from ..terms import ema, where

__all__ = ["RAdam"]


def certainty(rho: Any) -> Any:
    """One over the variance of an adaptive step, but for a constant factor.

    At 5 and below, where steps are not adaptive, it is that of 5: nothing is divided by
    zero, no root is of a negative number.
    """
    rho = where(rho > 5, rho, 5)
    return (rho - 4) * (rho - 2) / rho


class RAdam(Optimizer):
    r"""Rectified Adam (`Liu et al., 2020 <https://arxiv.org/abs/1908.03265>`_): steps
    are adaptive once their variance is finite, and grow as it falls.

    .. math::
        g_t      &= \nabla f(\theta_{t-1}) + \lambda\,\theta_{t-1} \\
        m_t      &= \beta_1\,m_{t-1} + (1 - \beta_1)\,g_t \\
        v_t      &= \beta_2\,v_{t-1} + (1 - \beta_2)\,g_t^2 \\
        \rho_t   &= \rho_\infty - \frac{2\,t\,\beta_2^t}{1 - \beta_2^t}, \qquad
                    \rho_\infty = \frac{2}{1 - \beta_2} - 1 \\
        r_t      &= \sqrt{\frac{(\rho_t - 4)\,(\rho_t - 2)\,\rho_\infty}
                    {(\rho_\infty - 4)\,(\rho_\infty - 2)\,\rho_t}} \\
        \theta_t &= \theta_{t-1} - \gamma\,\frac{m_t}{1 - \beta_1^t} \cdot
                    \begin{cases}
                    r_t\,\sqrt{1 - \beta_2^t}\,/\,(\sqrt{v_t} + \epsilon)
                    & \text{if } \rho_t > 5 \\
                    1 & \text{else}
                    \end{cases}

    Args:
        params: tensors, (name, tensor) pairs, or dicts that define parameter groups.
        lr: step size :math:`\gamma \ge 0`.
        betas: :math:`\beta_1, \beta_2`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, keeps the denominator from zero.
        weight_decay: :math:`\lambda \ge 0`, an L2 penalty.
        decoupled_weight_decay: shrink the parameter itself, as
            :class:`~polyak.AdamW` does.
        foreach: False runs the eager engine.
        maximize: go up the gradient.
        capturable: keep the step counter on the parameter's device.
        differentiable: let autograd through the step.
        stages: what else a step does in the same pass: :class:`~polyak.Stages`.

    State: ``step``; ``exp_avg`` (:math:`m`) and ``exp_avg_sq`` (:math:`v`), each like
    the parameter.

    Raises:
        ValueError: a value out of its range.
        RuntimeError: a sparse gradient.

    The first steps, five with the default :math:`\beta_2`, are of momentum alone:

    >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> w.grad = torch.tensor([0.3, -4.0])
    >>> RAdam([w], lr=0.1).step()
    >>> w
    tensor([ 0.9700, -1.6000], requires_grad=True)
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
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **stages: Unpack[Stages],
    ) -> None:
        defaults = dict(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            decoupled_weight_decay=decoupled_weight_decay,
            differentiable=differentiable,
        )
        super().__init__(params, defaults, **stages)

    @staticmethod
    def rule(param, grad, exp_avg, exp_avg_sq, *,
             step, lr, betas, eps, weight_decay, decoupled_weight_decay):  # fmt: skip
        beta1, beta2 = betas
        if weight_decay and decoupled_weight_decay:
            param = param * (1 - lr * weight_decay)
        elif weight_decay:
            grad = grad + weight_decay * param
        exp_avg = ema(exp_avg, grad, beta1)
        exp_avg_sq = ema(exp_avg_sq, grad * grad, beta2)
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * step * beta2**step / (1 - beta2**step)
        rect = (certainty(rho) / certainty(rho_inf)) ** 0.5
        adaptive = rect * (1 - beta2**step) ** 0.5 / (exp_avg_sq.sqrt() + eps)
        update = where(rho > 5, adaptive * exp_avg, exp_avg)
        param = param - lr / (1 - beta1**step) * update
        return param, exp_avg, exp_avg_sq
