"""RMSprop: the gradient over the root of its running mean square."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from ..bounds import at_least
from ..optimizer import Optimizer
from ..slot import Slot
from ..stages import Stages
from ..terms import ema

__all__ = ["RMSprop"]


class RMSprop(Optimizer):
    r"""Gradients over their running root mean square (`Hinton, 2012
    <https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf>`_).

    .. math::
        g_t      &= \nabla f(\theta_{t-1}) + \lambda\,\theta_{t-1} \\
        v_t      &= \alpha\,v_{t-1} + (1 - \alpha)\,g_t^2 \\
        \theta_t &= \theta_{t-1} - \gamma\,\frac{g_t}{\sqrt{v_t} + \epsilon}

    Centered (`Graves, 2013 <https://arxiv.org/abs/1308.0850>`_), the variance
    :math:`v_t - \bar g_t^2` stands in place of :math:`v_t`, with
    :math:`\bar g_t = \alpha\,\bar g_{t-1} + (1 - \alpha)\,g_t`. With momentum
    :math:`\mu`, the quotients are summed up in
    :math:`b_t = \mu\,b_{t-1} + g_t / (\sqrt{v_t} + \epsilon)`, and the step is
    :math:`\gamma\,b_t`.

    Args:
        params: tensors, (name, tensor) pairs, or dicts that define parameter groups.
        lr: step size :math:`\gamma \ge 0`.
        alpha: smoothing :math:`\alpha \ge 0`.
        eps: :math:`\epsilon \ge 0`, keeps the denominator from zero.
        weight_decay: L2 penalty :math:`\lambda \ge 0`.
        momentum: :math:`\mu \ge 0`.
        centered: divide by the deviation, not by the root mean square.
        capturable: keep the step counter on the parameter's device.
        foreach: False runs the eager engine.
        maximize: go up the gradient.
        differentiable: let autograd through the step.
        stages: what else a step does in the same pass: :class:`~polyak.Stages`.

    State: ``step``; ``square_avg`` (:math:`v`), with momentum ``momentum_buffer``
    (:math:`b`), centered ``grad_avg`` (:math:`\bar g`), each like the parameter.

    Raises:
        ValueError: a value out of its range.
        RuntimeError: a sparse gradient.

    >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> w.grad = torch.tensor([0.3, -4.0])
    >>> RMSprop([w], lr=0.05).step()
    >>> w
    tensor([ 0.5000, -1.5000], requires_grad=True)
    """

    counts_steps = True
    slots = {
        "momentum_buffer": Slot(when="momentum"),
        "grad_avg": Slot(when="centered"),
    }
    bounds = {
        "lr": at_least(0, "learning rate"),
        "alpha": at_least(0),
        "eps": at_least(0, "epsilon value"),
        "weight_decay": at_least(0),
        "momentum": at_least(0),
    }

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **stages: Unpack[Stages],
    ) -> None:
        defaults = dict(
            lr=lr,
            momentum=momentum,
            alpha=alpha,
            eps=eps,
            centered=centered,
            weight_decay=weight_decay,
            capturable=capturable,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
        )
        super().__init__(params, defaults, **stages)

    @staticmethod
    def rule(param, grad, square_avg, momentum_buffer=None, grad_avg=None, *,
             lr, alpha, eps, weight_decay, momentum):  # fmt: skip
        if weight_decay:
            grad = grad + weight_decay * param
        variance = square_avg = ema(square_avg, grad * grad, alpha)
        if grad_avg is not None:
            grad_avg = ema(grad_avg, grad, alpha)
            variance = square_avg - grad_avg * grad_avg
        update = grad / (variance.sqrt() + eps)
        if momentum_buffer is not None:
            momentum_buffer = update = momentum * momentum_buffer + update
        return param - lr * update, square_avg, momentum_buffer, grad_avg
