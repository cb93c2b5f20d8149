"""AdamW: Adam that shrinks the weights themselves."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from ..stages import Stages
from .adam import Adam

__all__ = ["AdamW"]


class AdamW(Adam):
    r"""Adam with decoupled weight decay (`Loshchilov and Hutter, 2019
    <https://arxiv.org/abs/1711.05101>`_).

    .. math::
        g_t      &= \nabla f(\theta_{t-1}) \\
        m_t      &= \beta_1\,m_{t-1} + (1 - \beta_1)\,g_t \\
        v_t      &= \beta_2\,v_{t-1} + (1 - \beta_2)\,g_t^2 \\
        \theta_t &= (1 - \gamma\,\lambda)\,\theta_{t-1} - \gamma\,
                    \frac{m_t / (1 - \beta_1^t)}
                    {\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Args:
        params: tensors, (name, tensor) pairs, or dicts that define parameter groups.
        lr: step size :math:`\gamma \ge 0`.
        betas: :math:`\beta_1, \beta_2`, each in [0, 1).
        eps: :math:`\epsilon \ge 0`, keeps the denominator from zero.
        weight_decay: :math:`\lambda \ge 0`, decay per unit of ``lr``.
        amsgrad: divide by the largest :math:`v` so far (`Reddi et al., 2018
            <https://openreview.net/forum?id=ryQu7f-RZ>`_).
        maximize: go up the gradient.
        foreach: False runs the eager engine.
        capturable: keep the step counter on the parameter's device.
        differentiable: let autograd through the step.
        fused: True demands a kernel, False runs the eager engine.
        stages: what else a step does in the same pass: :class:`~polyak.Stages`.

    State: ``step``; ``exp_avg`` (:math:`m`), ``exp_avg_sq`` (:math:`v`) and, with
    ``amsgrad``, ``max_exp_avg_sq``, each like the parameter.

    Raises:
        ValueError: a value out of its range.
        RuntimeError: a sparse gradient.

    >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> w.grad = torch.tensor([0.3, 0.0])
    >>> AdamW([w], lr=0.1, weight_decay=0.5).step()
    >>> w
    tensor([ 0.8500, -1.9000], requires_grad=True)
    """

    constants = frozenset({"decoupled_weight_decay"})

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **stages: Unpack[Stages],
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            **stages,
        )
