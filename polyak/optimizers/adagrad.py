"""Adagrad: the gradient over the root of the sum of all its squares."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from ..bounds import at_least
from ..optimizer import Optimizer
from ..slot import Group, Slot
from ..stages import Stages

__all__ = ["Adagrad"]


def initial_accumulator(param: Tensor, group: Group) -> Tensor:
    return torch.full_like(param, group["initial_accumulator_value"])


class Adagrad(Optimizer):
    r"""Adaptive subgradients (`Duchi, Hazan and Singer, 2011
    <https://jmlr.org/papers/v12/duchi11a.html>`_).

    .. math::
        g_t      &= \nabla f(\theta_{t-1}) + \lambda\,\theta_{t-1} \\
        s_t      &= s_{t-1} + g_t^2, \qquad s_0 = \tau \\
        \theta_t &= \theta_{t-1} - \frac{\gamma}{1 + (t - 1)\,\eta}\,
                    \frac{g_t}{\sqrt{s_t} + \epsilon}

    Args:
        params: tensors, (name, tensor) pairs, or dicts that define parameter groups.
        lr: step size :math:`\gamma \ge 0`.
        lr_decay: :math:`\eta \ge 0`.
        weight_decay: L2 penalty :math:`\lambda \ge 0`.
        initial_accumulator_value: :math:`\tau \ge 0`.
        eps: :math:`\epsilon \ge 0`, keeps the denominator from zero.
        foreach: False runs the eager engine.
        maximize: go up the gradient.
        differentiable: let autograd through the step.
        fused: True demands a kernel, False runs the eager engine.
        stages: what else a step does in the same pass: :class:`~polyak.Stages`.

    State: ``step``; ``sum`` (:math:`s`), like the parameter. Sparse gradients update
    their rows alone, which is what a dense gradient with zeros elsewhere does.

    Raises:
        ValueError: a value out of its range.
        RuntimeError: a sparse gradient with weight decay.

    >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
    >>> w.grad = torch.tensor([0.3, -4.0])
    >>> Adagrad([w], lr=0.1).step()
    >>> w
    tensor([ 0.9000, -1.9000], requires_grad=True)
    """

    slots = {"sum": Slot(initial_accumulator)}
    bounds = {
        "lr": at_least(0, "learning rate"),
        "lr_decay": at_least(0),
        "weight_decay": at_least(0),
        "initial_accumulator_value": at_least(0),
        "eps": at_least(0, "epsilon value"),
    }

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **stages: Unpack[Stages],
    ) -> None:
        defaults = dict(
            lr=lr,
            lr_decay=lr_decay,
            eps=eps,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            fused=fused,
        )
        super().__init__(params, defaults, **stages)

    @staticmethod
    def rule(param, grad, sum, *, step, lr, lr_decay, weight_decay, eps):
        if weight_decay:
            grad = grad + weight_decay * param
        sum = sum + grad * grad
        param = param - lr / (1 + (step - 1) * lr_decay) * grad / (sum.sqrt() + eps)
        return param, sum

    def share_memory(self) -> None:
        """Move the state to shared memory, making what there is none of yet.

        Processes that get the optimizer through :mod:`torch.multiprocessing`, with a
        model that is shared as well, then update the same state without locks
        (Hogwild).
        """
        with torch.inference_mode(False), torch.no_grad():
            for group in self.param_groups:
                for param in group["params"]:
                    self._share_state(param, group)

    def _share_state(self, param: Tensor, group: Group) -> None:
        missing = self.missing_state(param, group, self.schema.present(group))
        self.state[param].update(self.initial_state(param, group, missing))
        for value in self.state[param].values():
            if isinstance(value, Tensor):
                value.share_memory_()

    def check_gradient(self, param: Tensor, grad: Tensor, group: Group) -> None:
        if grad.is_sparse and group["weight_decay"]:
            raise RuntimeError(
                "weight_decay option is not compatible with sparse gradients (Adagrad "
                f"got weight_decay={group['weight_decay']}: set it to 0 in this group)"
            )

    def on_sparse(self, group: Group) -> str:
        return "rows"
