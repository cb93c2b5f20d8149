"""The polar factor of a matrix by products alone: Newton and Schulz's iteration."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["QUINTIC", "newton_schulz"]

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Keller Jordan's coefficients, the steepest at zero that stay near one."""

# Of |b| over |c|, from which on a square is not completed.
_STEEP = 8
# A Gram matrix drifts from that of the product: it is made anew after this many steps.
_DRIFT = 5
# Rounding in half precision is too coarse for the Gram matrix to be iterated on.
_WIDE = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def newton_schulz(
    matrix: Tensor,
    coefficients: Sequence[float] = QUINTIC,
    *,
    steps: int = 5,
    eps: float = 1e-7,
) -> Tensor:
    r"""Bring all singular values of a matrix near one.

    .. math::
        X_0 = \frac{M}{\max(\lVert M \rVert_F, \epsilon)}, \qquad
        X_{k+1} = \left(a I + b\,G_k + c\,G_k^2\right) X_k, \quad G_k = X_k X_k^H

    Each step replaces every singular value :math:`\sigma` by
    :math:`a\sigma + b\sigma^3 + c\sigma^5` and leaves the singular vectors as they are.
    With :math:`(1.5, -0.5, 0)`, which is Newton's iteration as Schulz wrote it, and
    with :math:`(1.875, -1.25, 0.375)` it converges to the factor :math:`U V^H` of
    :math:`M = U \Sigma V^H` (`Higham, Functions of Matrices, 2008, chapter 8
    <https://doi.org/10.1137/1.9780898717778>`_). The default does not converge: it
    lifts small values fast, and in five steps it brings all from 0.002 to 1 between
    0.68 and 1.21, which is what Muon asks for (`Jordan, 2024
    <https://kellerjordan.github.io/posts/muon/>`_).

    Args:
        matrix: one matrix, or many along leading dimensions; real or complex.
        coefficients: :math:`a, b, c`.
        steps: how many, from 0 to 99.
        eps: :math:`\epsilon \ge 0`, keeps the norm from zero.

    Returns:
        The last :math:`X`, in the matrix's shape and dtype.

    Raises:
        ValueError: no matrix, not three coefficients, or another number of steps.

    The smaller side is the one that :math:`G` is made of. Where the other is at least
    twice as long, the steps are done on :math:`G` and on the product of their factors,
    and :math:`M` is multiplied once in the end: about twice as fast, with rounding
    errors ten to sixty times larger for ill-conditioned matrices. Not so in half
    precision, which cannot bear that.

    >>> m = torch.tensor([[3.0, 0.0], [0.0, -0.5]])
    >>> newton_schulz(m, (1.5, -0.5, 0.0), steps=12).round(decimals=4)
    tensor([[ 1.,  0.],
            [ 0., -1.]])
    """
    if matrix.dim() < 2:
        raise ValueError(
            f"newton_schulz needs a matrix, got a tensor of shape {tuple(matrix.shape)}"
        )
    if len(coefficients) != 3:
        raise ValueError(
            "Coefficients must be a tuple of exactly 3 values: newton_schulz got "
            f"{len(coefficients)}"
        )
    steps = operator.index(steps)
    if not 0 <= steps < 100:
        raise ValueError(
            "Number of steps must be less than 100 for computational efficiency, and "
            f"not negative: newton_schulz got {steps}"
        )
    return _whole(matrix, (*coefficients,), steps, eps)


def _whole(matrix: Tensor, *arguments: Any) -> Tensor:
    """The iteration; of a stack that vmap made, all matrices at once."""
    if not torch.is_grad_enabled() and torch._C._functorch.is_batchedtensor(matrix):
        return _Stack.apply(matrix, *arguments)  # type: ignore[no-any-return, no-untyped-call]
    return _iterate(matrix, *arguments)


class _Stack(torch.autograd.Function):
    """What vmap is to do: it would take each fused product apart."""

    @staticmethod
    def forward(matrix: Tensor, *arguments: Any) -> Tensor:
        return _iterate(matrix, *arguments)

    @staticmethod
    def setup_context(*_: Any) -> None:
        return

    @staticmethod
    def vmap(
        info: Any, dims: tuple[int, ...], matrix: Tensor, *arguments: Any
    ) -> tuple[Tensor, int]:
        return _whole(matrix.movedim(dims[0], 0), *arguments), 0


def _iterate(
    matrix: Tensor, coefficients: tuple[float, ...], steps: int, eps: float
) -> Tensor:
    rows, columns = matrix.shape[-2:]
    if not matrix.numel():
        return matrix.clone()
    if rows > columns:
        return _iterate(matrix.mH, coefficients, steps, eps).mH
    norm = torch.linalg.matrix_norm(matrix, keepdim=True)
    x: Tensor = (matrix / norm.clamp(min=eps)).reshape(-1, rows, columns)
    if type(x) is not Tensor:  # a diagonal of a sharded tensor may be a copy
        for _ in range(steps):
            x = _step_by_products(x, coefficients)
    elif columns < 2 * rows or matrix.dtype not in _WIDE:
        for _ in range(steps):
            x = _step(x, coefficients)
    else:
        while steps > 0:
            x = _steps_on_gram(x, coefficients, min(steps, _DRIFT))
            steps -= _DRIFT
    return x.view(matrix.shape)


def _step(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    factor, scale = _factor(torch.bmm(x, x.mH), coefficients)
    return torch.baddbmm(x, factor, x, beta=0, alpha=scale)


def _step_by_products(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    a, b, c = coefficients
    gram = torch.bmm(x, x.mH)
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) if c else b * gram
    return torch.baddbmm(x, factor, x, beta=a)


def _factor(gram: Tensor, coefficients: Sequence[float]) -> tuple[Tensor, float]:
    r"""The polynomial :math:`a + bG + cG^2`, as a matrix and what to multiply it by.

    It is :math:`c\,((G + h)^2 + a/c - h^2)` with :math:`h = b/2c`: besides a product,
    only diagonals are touched. ``gram`` may be overwritten.
    """
    a, b, c = coefficients
    if c == 0:  # no product is due; on a CPU alpha=0 is wrong besides, in bfloat16
        return _plus(b * gram, a), 1.0
    if abs(b) >= _STEEP * abs(c):  # h would be large, and more so its square
        return _plus(torch.baddbmm(gram, gram, gram, beta=b, alpha=c), a), 1.0
    half = b / (2 * c)
    square = _plus(gram, half)
    return _plus(torch.bmm(square, square), a / c - half * half), c


def _plus(matrix: Tensor, number: float) -> Tensor:
    """Add a multiple of the identity, in place."""
    matrix.diagonal(dim1=-2, dim2=-1).add_(number)
    return matrix


def _steps_on_gram(x: Tensor, coefficients: Sequence[float], steps: int) -> Tensor:
    """Several steps: the product of their factors is gathered, and applied once."""
    gram = torch.bmm(x, x.mH)
    gathered: Tensor | None = None
    for left in range(steps, 0, -1):
        factor, scale = _factor(gram.clone(), coefficients)
        gathered = scale * (factor if gathered is None else factor @ gathered)
        if left > 1:
            gram = scale * scale * (factor @ gram @ factor)
    return x if gathered is None else gathered @ x
