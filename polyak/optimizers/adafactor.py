"""Adafactor: the second moment of a matrix, kept as one row and one column."""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor

from ..bounds import at_least, at_most
from ..engine.trace import leaf
from ..optimizer import Optimizer
from ..slot import Group, Slot
from ..stages import Stages
from ..terms import lerp, where

__all__ = ["Adafactor"]

# So many numbers stay in the cache of a core from one operation to the next.
_BLOCK = 2**16


def is_factored(param: Tensor) -> bool:
    return param.dim() > 1


def is_whole(param: Tensor) -> bool:
    return param.dim() < 2


def row_zeros(param: Tensor, group: Group) -> Tensor:
    return param.new_zeros((*param.shape[:-1], 1))


def col_zeros(param: Tensor, group: Group) -> Tensor:
    return param.new_zeros((*param.shape[:-2], 1, param.shape[-1]))


@leaf
def rms(x: Tensor) -> Tensor:
    """The root of the mean square of all numbers."""
    norm: Tensor = torch.linalg.vector_norm(x)
    return norm.div(max(1, x.numel()) ** 0.5)


@leaf
def row_mean_square(x: Tensor) -> Tensor:
    """The mean square of each row."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square().div_(max(1, x.shape[-1]))


@leaf
def col_mean_square(x: Tensor) -> Tensor:
    """The mean square of each column."""
    # torch's norm over columns is slow, its sum is not; block by block, the squares
    # stay in the cache.
    rows, columns = x.shape[-2:]
    parts = x.split(max(1, _BLOCK // max(1, columns)), dim=-2)
    sums = [part.square().sum(-2, keepdim=True) for part in parts]
    total = sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)
    return total.div_(max(1, rows))


@leaf
def normalized(
    grad: Tensor, variance: Tensor, col_var: Tensor | None, eps1: float | None
) -> Tensor:
    """A gradient over the root of its second moment, or over ``eps1`` where less."""
    eps1 = torch.finfo(grad.dtype).eps if eps1 is None else eps1
    most = 1 / eps1 if eps1 else math.inf
    if col_var is None:
        return variance.rsqrt().clamp_max_(most).mul_(grad)
    rows = variance / variance.mean(-2, keepdim=True).clamp_min_(eps1)
    return (rows.rsqrt_() * col_var.rsqrt()).clamp_max_(most).mul_(grad)


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
        RuntimeError: a sparse gradient, or a complex parameter.

    >>> w = torch.tensor([1.0, -1.0], requires_grad=True)
    >>> w.grad = torch.tensor([0.3, -4.0])
    >>> Adafactor([w], lr=0.1).step()
    >>> w
    tensor([ 0.9000, -0.9000], requires_grad=True)
    """

    slots = {
        "row_var": Slot(row_zeros, of=is_factored),
        "col_var": Slot(col_zeros, of=is_factored),
        "variance": Slot(of=is_whole),
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
        weight = step**beta2_decay
        if variance is None:
            row_var = lerp(row_var, row_mean_square(grad), weight)
            col_var = lerp(col_var, col_mean_square(grad), weight)
            update = normalized(grad, row_var, col_var, eps1)
        else:
            variance = lerp(variance, grad * grad, weight)
            update = normalized(grad, variance, None, eps1)
        rate = where(lr * step**0.5 < 1, lr, step**-0.5)
        length = rate * rms(param).clamp(min=eps2) / (rms(update) / d).clamp(min=1)
        if weight_decay:
            param = param * (1 - lr * weight_decay)
        param = torch.addcmul(param, length, update, value=-1)
        return param, row_var, col_var, variance

    def check_gradient(self, param: Tensor, grad: Tensor, group: Group) -> None:
        super().check_gradient(param, grad, group)
        if param.is_complex():
            raise RuntimeError("Adafactor does not support complex parameters")
