"""Averaged SGD: Polyak and Ruppert's average, kept beside the parameter."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from ..bounds import at_least
from ..optimizer import Optimizer
from ..slot import Group, Slot, number
from ..stages import Stages
from ..terms import where

__all__ = ["ASGD"]


def initial_eta(param: Tensor, group: Group) -> float:
    return number(group["lr"])


def initial_mu(param: Tensor, group: Group) -> float:
    return 1.0


class ASGD(Optimizer):
    r"""Averaged stochastic gradient descent (`Polyak and Juditsky, 1992
    <https://doi.org/10.1137/0330046>`_), as `Bottou <https://leon.bottou.org/projects/sgd>`_
    runs it.

    .. math::
        g_t          &= \nabla f(\theta_{t-1}) + \lambda_2\,\theta_{t-1} \\
        \theta_t     &= (1 - \lambda\,\eta_t)\,\theta_{t-1} - \eta_t\,g_t \\
        \bar\theta_t &= \bar\theta_{t-1} + \mu_t\,(\theta_t - \bar\theta_{t-1}) \\
        \eta_{t+1}   &= \frac{\gamma}{(1 + \lambda\,\gamma\,t)^\alpha}, \qquad
        \mu_{t+1}    = \frac{1}{\max(1,\ t - t_0)}

    Args:
        params: tensors, (name, tensor) pairs, or dicts that define parameter groups.
        lr: first step size :math:`\gamma \ge 0`.
        lambd: decay :math:`\lambda`.
        alpha: power :math:`\alpha` of the step size's decline.
        t0: the step :math:`t_0` after which averaging begins.
        weight_decay: L2 penalty :math:`\lambda_2 \ge 0`.
        foreach: False runs the eager engine.
        maximize: go up the gradient.
        differentiable: let autograd through the step.
        capturable: keep the step counter on the parameter's device.
        stages: what else a step does in the same pass: :class:`~polyak.Stages`.

    State: ``step``; the numbers ``eta`` (:math:`\eta`) and ``mu`` (:math:`\mu`); the
    average ``ax`` (:math:`\bar\theta`), like the parameter. Train with the parameters,
    evaluate with ``ax``.

    Raises:
        ValueError: a value out of its range.
        RuntimeError: a sparse gradient.

    >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = ASGD([w], lr=0.5, lambd=0.0, t0=0)
    >>> for _ in range(3):
    ...     w.grad = torch.tensor([1.0, 0.0])
    ...     optimizer.step()
    >>> w, optimizer.state[w]["ax"]
    (tensor([-0.5000, -2.0000], requires_grad=True), tensor([-0.2500, -2.0000]))
    """

    slots = {"eta": Slot(initial_eta, number=True), "mu": Slot(initial_mu, number=True)}
    bounds = {"lr": at_least(0, "learning rate"), "weight_decay": at_least(0)}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **stages: Unpack[Stages],
    ) -> None:
        defaults = dict(
            lr=lr,
            lambd=lambd,
            alpha=alpha,
            t0=t0,
            weight_decay=weight_decay,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            capturable=capturable,
        )
        super().__init__(params, defaults, **stages)

    @staticmethod
    def rule(param, grad, eta, mu, ax, *, step, lr, lambd, alpha, t0, weight_decay):
        if weight_decay:
            grad = grad + weight_decay * param
        param = (1 - lambd * eta) * param - eta * grad
        ax = where(mu == 1, param, ax + mu * (param - ax))
        eta = lr / (1 + lambd * lr * step) ** alpha
        mu = 1 / where(step > t0 + 1, step - t0, 1.0)
        return param, eta, mu, ax
