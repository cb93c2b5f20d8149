"""Adafactor: the second moment of a matrix, kept as one row and one column."""

from __future__ import annotations

import math
from typing import Any, Unpack

from torch import Tensor

from ..bounds import at_least, at_most
from ..optimizer import Optimizer
from ..slot import Slot
from ..stages import Stages
from ..terms import epsilon, lerp, where

__all__ = ["Adafactor"]


def is_matrix(param: Tensor) -> bool:
    return param.dim() > 1


def is_vector(param: Tensor) -> bool:
    return param.dim() < 2


def _epsilons(owner: str, name: str, value: Any) -> None:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"Invalid eps value: {value!r} ({owner} needs 2 numbers)")
    if value[0] is not None:
        at_least(0, "epsilon1", should=True)(owner, "eps[0]", value[0])
    at_least(0, "epsilon2", should=True)(owner, "eps[1]", value[1])


class Adafactor(Optimizer):
    r"""Adam's scale with sublinear memory (`Shazeer and Stern, 2018
    <https://arxiv.org/abs/1804.04235>`_).

    .. math::
        w_t      &= t^{\tau} \\
        r_t      &= (1 - w_t)\,r_{t-1} + w_t\,\operatorname{mean}_j g_{t,ij}^2 \\
        c_t      &= (1 - w_t)\,c_{t-1} + w_t\,\operatorname{mean}_i g_{t,ij}^2 \\
        v_t      &= r_t\,c_t / \max(\operatorname{mean}_i r_t,\ \epsilon_1) \\
        u_t      &= g_t / \max(\sqrt{v_t},\ \epsilon_1) \\
        \alpha_t &= \min(\gamma,\ t^{-1/2})\,
                    \max(\epsilon_2,\ \operatorname{RMS}(\theta_{t-1})) \\
        \theta_t &= (1 - \gamma\lambda)\,\theta_{t-1}
                    - \alpha_t\,\frac{u_t}{\max(1,\ \operatorname{RMS}(u_t) / d)}

    Rows and columns are the last two dimensions; further ones are taken one by one. Of
    vectors and numbers :math:`v` is kept itself, as the running mean of :math:`g^2`.

    Args:
        params: tensors, (name, tensor) pairs, or dicts that define parameter groups.
        lr: :math:`\gamma \ge 0`, the largest step, relative to the parameter's size.
        beta2_decay: :math:`\tau \le 0`, how fast the second moment's memory grows.
        eps: :math:`\epsilon_1, \epsilon_2 \ge 0`: the least root of a second moment,
            and the least size that a parameter is taken to have. None for the first is
            the spacing of numbers at one, in the precision computed in.
        d: :math:`d \ge 1`, the largest RMS of an update.
        weight_decay: :math:`\lambda \ge 0`, shrinks the parameter itself.
        foreach: False takes parameters one by one; else those alike are stacked.
        maximize: go up the gradient.
        stages: what else a step does in the same pass: :class:`~polyak.Stages`.

    State: ``step``; ``row_var`` (:math:`r`) and ``col_var`` (:math:`c`), or for vectors
    ``variance`` (:math:`v`).

    In half precision :math:`\epsilon_1` is float32's by default, since that is what is
    computed in; torch's is the parameter's, 0.008 in bfloat16, above most gradients.

    Raises:
        ValueError: a value out of its range.
        RuntimeError: a sparse gradient.

    >>> w = torch.tensor([1.0, -1.0], requires_grad=True)
    >>> w.grad = torch.tensor([0.3, -4.0])
    >>> Adafactor([w], lr=0.1).step()
    >>> w
    tensor([ 0.9000, -0.9000], requires_grad=True)
    """

    slots = {
        "row_var": Slot(per="row", of=is_matrix),
        "col_var": Slot(per="column", of=is_matrix),
        "variance": Slot(of=is_vector),
    }
    bounds = {
        "lr": at_least(0, "Learning rate", should=True),
        "beta2_decay": at_most(0, "beta2_decay", should=True),
        "eps": _epsilons,
        "d": at_least(1, "Clipping threshold d", should=True),
        "weight_decay": at_least(0, "weight_decay", should=True),
    }

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        **stages: Unpack[Stages],
    ) -> None:
        defaults = dict(
            lr=lr,
            beta2_decay=beta2_decay,
            eps=eps,
            d=d,
            weight_decay=weight_decay,
            foreach=foreach,
            maximize=maximize,
        )
        super().__init__(params, defaults, **stages)

    @staticmethod
    def rule(param, grad, row_var, col_var, variance, *,
             step, lr, beta2_decay, eps, d, weight_decay):  # fmt: skip
        eps1, eps2 = eps
        least = epsilon(grad) if eps1 is None else eps1
        most = 1 / least if eps1 != 0 else math.inf
        weight = step**beta2_decay
        square = grad * grad
        if variance is None:
            row_var = lerp(row_var, square.mean(-1, keepdim=True), weight)
            col_var = lerp(col_var, square.mean(-2, keepdim=True), weight)
            row = row_var.mean(-2, keepdim=True).clamp(min=least) / row_var
            scale = row.sqrt() * col_var.rsqrt()
        else:
            variance = lerp(variance, square, weight)
            scale = variance.rsqrt()
        update = scale.clamp(max=most) * grad
        rate = where(lr * step**0.5 < 1, lr, step**-0.5)
        size = param.square().mean().sqrt().clamp(min=eps2)
        excess = (update.square().mean().sqrt() / d).clamp(min=1)
        if weight_decay:
            param = param * (1 - lr * weight_decay)
        param = param - rate * size / excess * update
        return param, row_var, col_var, variance
