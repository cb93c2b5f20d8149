"""Rprop: a step size for each number, resized by the signs of its gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from ..bounds import at_least
from ..optimizer import Optimizer
from ..slot import Group, Slot, number
from ..stages import Stages

__all__ = ["Rprop"]


def initial_step_size(param: Tensor, group: Group) -> Tensor:
    return torch.full_like(param, number(group["lr"]))


class Rprop(Optimizer):
    r"""Resilient backpropagation (`Riedmiller and Braun, 1993
    <https://doi.org/10.1109/ICNN.1993.298623>`_), for full batches.

    .. math::
        \eta_t   &= \begin{cases}
                    \eta_{t-1}\,\eta^+ & \text{if } g_{t-1}\,g_t > 0 \\
                    \eta_{t-1}\,\eta^- & \text{if } g_{t-1}\,g_t < 0 \\
                    \eta_{t-1}         & \text{else}
                    \end{cases} \quad \text{kept in } [\Gamma_{min}, \Gamma_{max}] \\
        g_t      &\gets 0 \quad \text{if } g_{t-1}\,g_t < 0 \\
        \theta_t &= \theta_{t-1} - \operatorname{sign}(g_t)\,\eta_t

    Args:
        params: tensors, (name, tensor) pairs, or dicts that define parameter groups.
        lr: first step size :math:`\eta_0 \ge 0`.
        etas: :math:`\eta^-, \eta^+`, with 0 < :math:`\eta^-` < 1 < :math:`\eta^+`.
        step_sizes: :math:`\Gamma_{min}, \Gamma_{max}`.
        capturable: keep the step counter on the parameter's device.
        foreach: False runs the eager engine.
        maximize: go up the gradient.
        differentiable: let autograd through the step.
        stages: what else a step does in the same pass: :class:`~polyak.Stages`.

    State: ``step``; ``prev`` (:math:`g_{t-1}`) and ``step_size`` (:math:`\eta`), each
    like the parameter.

    Raises:
        ValueError: a value out of its range.
        RuntimeError: a sparse gradient.

    >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> w.grad = torch.tensor([0.3, -4.0])
    >>> Rprop([w], lr=0.1).step()
    >>> w
    tensor([ 0.9000, -1.9000], requires_grad=True)
    """

    counts_steps = True
    slots = {"step_size": Slot(initial_step_size)}
    bounds = {"lr": at_least(0, "learning rate")}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **stages: Unpack[Stages],
    ) -> None:
        defaults = dict(
            lr=lr,
            etas=etas,
            step_sizes=step_sizes,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            capturable=capturable,
        )
        super().__init__(params, defaults, **stages)

    @staticmethod
    def rule(param, grad, prev, step_size, *, etas, step_sizes):
        shrink, grow = etas
        agreement = grad * prev
        grown = torch.where(agreement > 0, grow * step_size, step_size)
        resized = torch.where(agreement < 0, shrink * step_size, grown)
        step_size = torch.clamp(resized, *step_sizes)
        grad = torch.where(agreement < 0, 0.0, grad)
        return param - torch.sign(grad) * step_size, grad, step_size

    @classmethod
    def check_group(cls, group: Mapping[str, Any]) -> None:
        super().check_group(group)
        shrink, grow = group["etas"]
        if not 0 < shrink < 1 < grow:
            raise ValueError(
                f"Invalid eta values: {shrink}, {grow} (Rprop needs 0 < etas[0] < 1 < "
                "etas[1])"
            )
