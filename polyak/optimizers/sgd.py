"""Stochastic gradient descent, with Polyak's and Nesterov's momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from torch import Tensor

from ..bounds import at_least
from ..optimizer import Optimizer
from ..slot import Group, Slot
from ..stages import Stages

__all__ = ["SGD"]


class SGD(Optimizer):
    r"""Gradient descent with the heavy ball (`Polyak, 1964
    <https://doi.org/10.1016/0041-5553(64)90137-5>`_).

    .. math::
        g_t      &= \nabla f(\theta_{t-1}) + \lambda\,\theta_{t-1} \\
        b_t      &= \mu\,b_{t-1} + (1 - \tau)\,g_t, \qquad b_1 = g_1 \\
        \theta_t &= \theta_{t-1} - \gamma\,b_t

    With ``nesterov`` the step is :math:`\gamma\,(g_t + \mu\,b_t)`, without momentum it
    is :math:`\gamma\,g_t`.

    Args:
        params: tensors, (name, tensor) pairs, or dicts that define parameter groups.
        lr: step size :math:`\gamma \ge 0`.
        momentum: :math:`\mu \ge 0`.
        dampening: :math:`\tau`, takes that share off the gradient in the momentum.
        weight_decay: L2 penalty :math:`\lambda \ge 0`.
        nesterov: look ahead (`Sutskever et al., 2013
            <https://proceedings.mlr.press/v28/sutskever13.html>`_).
        maximize: go up the gradient.
        foreach: False runs the eager engine.
        differentiable: let autograd through the step.
        fused: True demands a kernel, False runs the eager engine.
        stages: what else a step does in the same pass: :class:`~polyak.Stages`.

    State: ``momentum_buffer`` (:math:`b`), like the parameter, where there is momentum.
    Sparse gradients update their rows alone; with momentum or weight decay, which move
    every row, they are made dense.

    Raises:
        ValueError: a value out of its range; ``nesterov`` without momentum or with
            dampening.

    >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = SGD([w], lr=0.5, momentum=0.9)
    >>> for _ in range(2):
    ...     w.grad = torch.tensor([1.0, 0.0])
    ...     optimizer.step()
    >>> w
    tensor([-0.4500, -2.0000], requires_grad=True)
    """

    slots = {"momentum_buffer": Slot(when="momentum")}
    bounds = {
        "lr": at_least(0, "learning rate"),
        "momentum": at_least(0),
        "weight_decay": at_least(0),
    }

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **stages: Unpack[Stages],
    ) -> None:
        defaults = dict(
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )
        super().__init__(params, defaults, **stages)

    @staticmethod
    def rule(param, grad, momentum_buffer=None, *,
             first, lr, momentum, dampening, weight_decay, nesterov):  # fmt: skip
        if weight_decay:
            grad = grad + weight_decay * param
        if momentum_buffer is None:
            return param - lr * grad, None
        if first:
            momentum_buffer = grad
        else:
            momentum_buffer = momentum * momentum_buffer + (1 - dampening) * grad
        if nesterov:
            return param - lr * (grad + momentum * momentum_buffer), momentum_buffer
        return param - lr * momentum_buffer, momentum_buffer

    @classmethod
    def check_group(cls, group: Mapping[str, Any]) -> None:
        super().check_group(group)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError(
                "Nesterov momentum requires a momentum and zero dampening (SGD got "
                f"momentum={group['momentum']}, dampening={group['dampening']})"
            )

    def on_sparse(self, group: Group) -> str:
        return "dense" if group["momentum"] or group["weight_decay"] else "rows"
