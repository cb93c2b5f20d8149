"""SparseAdam: Adam on the rows that a gradient has."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from ..bounds import above, between, each
from ..optimizer import Optimizer
from ..slot import Group
from ..stages import Stages
from ..terms import ema

__all__ = ["SparseAdam"]


class SparseAdam(Optimizer):
    r"""Adam for sparse gradients, such as those of ``nn.Embedding(sparse=True)``
    (`Kingma and Ba, 2015 <https://arxiv.org/abs/1412.6980>`_).

    On the rows that the gradient has, and with the step :math:`t` of the whole tensor:

    .. math::
        m_t      &= \beta_1\,m_{t-1} + (1 - \beta_1)\,g_t \\
        v_t      &= \beta_2\,v_{t-1} + (1 - \beta_2)\,g_t^2 \\
        \theta_t &= \theta_{t-1} - \gamma\,\frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\,
                    \frac{m_t}{\sqrt{v_t} + \epsilon}

    Rows without a gradient stay as they are, their moments too: Adam would let the
    moments decay and move the parameter by them.

    Args:
        params: tensors, (name, tensor) pairs, or dicts that define parameter groups.
        lr: step size :math:`\gamma > 0`.
        betas: :math:`\beta_1, \beta_2`, each in [0, 1).
        eps: :math:`\epsilon > 0`.
        maximize: go up the gradient.
        stages: what else a step does in the same pass: :class:`~polyak.Stages`.

    State: ``step``, an int; ``exp_avg`` (:math:`m`) and ``exp_avg_sq`` (:math:`v`),
    each like the parameter.

    Raises:
        ValueError: a value out of its range; a sparse or complex parameter.
        RuntimeError: a dense gradient.

    >>> w = torch.ones(3, 2, requires_grad=True)
    >>> w.grad = torch.tensor([[0.0, 0.0], [0.3, -4.0], [0.0, 0.0]]).to_sparse(1)
    >>> SparseAdam([w], lr=0.1).step()
    >>> w
    tensor([[1.0000, 1.0000],
            [0.9000, 1.1000],
            [1.0000, 1.0000]], requires_grad=True)
    """

    bounds = {
        "lr": above(0, "learning rate"),
        "betas": each(between(0, 1, "beta parameter at index {index}"), 2),
        "eps": above(0, "epsilon value"),
    }

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
        **stages: Unpack[Stages],
    ) -> None:
        defaults = dict(lr=lr, betas=betas, eps=eps, maximize=maximize)
        super().__init__(params, defaults, **stages)

    @staticmethod
    def rule(param, grad, exp_avg, exp_avg_sq, *, step, lr, betas, eps):
        beta1, beta2 = betas
        exp_avg = ema(exp_avg, grad, beta1)
        exp_avg_sq = ema(exp_avg_sq, grad * grad, beta2)
        step_size = lr * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
        param = param - step_size * exp_avg / (exp_avg_sq.sqrt() + eps)
        return param, exp_avg, exp_avg_sq

    def check_param(self, param: Tensor, position: list[int]) -> None:
        if param.is_sparse:
            raise ValueError(
                f"Sparse params at indices {[position]}: SparseAdam requires dense "
                "parameter tensors"
            )
        if param.is_complex():
            raise ValueError(
                f"Complex params at indices {[position]}: SparseAdam does not support "
                "complex parameters"
            )

    def check_gradient(self, param: Tensor, grad: Tensor, group: Group) -> None:
        if not grad.is_sparse:
            raise RuntimeError(
                "SparseAdam does not support dense gradients, please consider Adam "
                "instead"
            )

    def on_sparse(self, group: Group) -> str:
        return "rows"

    def loaded_step(self, param: Tensor, value: Any, group: Group | None = None) -> int:
        return int(value)
