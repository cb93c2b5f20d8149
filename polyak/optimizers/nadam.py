"""NAdam: Adam with Nesterov's look ahead."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from ..bounds import at_least, between, each
from ..optimizer import Optimizer
from ..slot import Group, Slot
from ..stages import Stages
from ..terms import ema

__all__ = ["NAdam"]


def initial_mu_product(param: Tensor, group: Group) -> float:
    return 1.0


class NAdam(Optimizer):
    r"""Adam with Nesterov momentum (`Dozat, 2016
    <https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ>`_).

    .. math::
        g_t       &= \nabla f(\theta_{t-1}) + \lambda\,\theta_{t-1} \\
        m_t       &= \beta_1\,m_{t-1} + (1 - \beta_1)\,g_t \\
        v_t       &= \beta_2\,v_{t-1} + (1 - \beta_2)\,g_t^2 \\
        \mu_t     &= \beta_1\,(1 - \tfrac{1}{2}\,0.96^{\,t\,\psi}) \\
        \hat{m}_t &= \frac{\mu_{t+1}\,m_t}{1 - \prod_{i=1}^{t+1} \mu_i}
                     + \frac{(1 - \mu_t)\,g_t}{1 - \prod_{i=1}^{t} \mu_i} \\
        \theta_t  &= \theta_{t-1} - \gamma\,\frac{\hat{m}_t}
                     {\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Args:
        params: tensors, (name, tensor) pairs, or dicts that define parameter groups.
        lr: step size :math:`\gamma \ge 0`.
        betas: :math:`\beta_1, \beta_2`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, keeps the denominator from zero.
        weight_decay: :math:`\lambda \ge 0`, an L2 penalty.
        momentum_decay: :math:`\psi \ge 0`, how fast :math:`\mu_t` grows from about
            :math:`\beta_1 / 2` to :math:`\beta_1`.
        decoupled_weight_decay: shrink the parameter itself, as
            :class:`~polyak.AdamW` does.
        foreach: False runs the eager engine.
        maximize: go up the gradient.
        capturable: keep the step counter on the parameter's device.
        differentiable: let autograd through the step.
        stages: what else a step does in the same pass: :class:`~polyak.Stages`.

    State: ``step``; the number ``mu_product`` (:math:`\prod_{i=1}^{t} \mu_i`);
    ``exp_avg`` (:math:`m`) and ``exp_avg_sq`` (:math:`v`), each like the parameter.

    Raises:
        ValueError: a value out of its range.
        RuntimeError: a sparse gradient.

    >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> w.grad = torch.tensor([0.3, -4.0])
    >>> NAdam([w], lr=0.1, momentum_decay=0.0).step()
    >>> w
    tensor([ 0.8944, -1.8944], requires_grad=True)
    """

    slots = {"mu_product": Slot(initial_mu_product, number=True)}
    bounds = {
        "lr": at_least(0, "learning rate"),
        "eps": at_least(0, "epsilon value"),
        "betas": each(between(0, 1, "beta parameter at index {index}"), 2),
        "weight_decay": at_least(0),
        "momentum_decay": at_least(0),
    }

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
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
            momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
        )
        super().__init__(params, defaults, **stages)

    @staticmethod
    def rule(param, grad, mu_product, exp_avg, exp_avg_sq, *, step, lr, betas, eps,
             weight_decay, momentum_decay, decoupled_weight_decay):  # fmt: skip
        beta1, beta2 = betas
        if weight_decay and decoupled_weight_decay:
            param = param * (1 - lr * weight_decay)
        elif weight_decay:
            grad = grad + weight_decay * param
        exp_avg = ema(exp_avg, grad, beta1)
        exp_avg_sq = ema(exp_avg_sq, grad * grad, beta2)
        mu = beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay))
        mu_next = beta1 * (1 - 0.5 * 0.96 ** ((step + 1) * momentum_decay))
        mu_product = mu_product * mu
        ahead = mu_next / (1 - mu_product * mu_next) * exp_avg
        ahead = ahead + (1 - mu) / (1 - mu_product) * grad
        denom = exp_avg_sq.sqrt() / (1 - beta2**step) ** 0.5 + eps
        param = param - lr * ahead / denom
        return param, mu_product, exp_avg, exp_avg_sq
