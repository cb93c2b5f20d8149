"""Muon: momentum, orthogonalized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

from torch import Tensor

from ..bounds import at_least, at_most, each
from ..engine.leaves import leaf
from ..linalg import QUINTIC, newton_schulz
from ..optimizer import Optimizer
from ..slot import Group
from ..stages import Stages
from ..terms import lerp

__all__ = ["Muon"]


def _steps(owner: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{owner} needs an integer for {name}, got {value!r}")
    if value >= 100:
        raise ValueError(
            "Number of steps must be less than 100 for computational efficiency: "
            f"{owner} got {name}={value}"
        )


def _adjustment(owner: str, name: str, value: Any) -> None:
    if value not in (None, "original", "match_rms_adamw"):
        raise ValueError(
            f"Adjust learning rate function {value} is not supported: {owner} needs "
            f"'original' or 'match_rms_adamw' for {name}"
        )


@leaf(batched=True)
def orthogonalized(
    update: Tensor,
    ns_coefficients: Sequence[float],
    ns_steps: int,
    eps: float,
    adjust_lr_fn: str | None,
) -> Tensor:
    """Updates as matrices with singular values near one, scaled by their shape."""
    matrix = update.flatten(2)
    _, rows, columns = matrix.shape
    if adjust_lr_fn == "match_rms_adamw":
        scale = 0.2 * max(rows, columns) ** 0.5
    else:
        scale = max(1, rows / max(columns, 1)) ** 0.5
    # Where there are units for bfloat16 it is several times faster, as in torch; a CPU
    # is slower with it.
    low = matrix.device.type != "cpu" and matrix.element_size() == 4
    matrix = matrix.bfloat16() if low else matrix
    found = newton_schulz(matrix, ns_coefficients, steps=ns_steps, eps=eps)
    found = found.to(update.dtype).view(update.shape)
    return found if scale == 1 else found * scale


class Muon(Optimizer):
    r"""Momentum, orthogonalized by Newton and Schulz's iteration (`Jordan et al., 2024
    <https://kellerjordan.github.io/posts/muon/>`_).

    For the weights of hidden layers: matrices, and the filters of convolutions, which
    are taken as matrices with a row for each output. Give biases, gains, embeddings and
    the last layer to :class:`~polyak.AdamW`.

    .. math::
        m_t      &= \mu\,m_{t-1} + (1 - \mu)\,g_t \\
        u_t      &= \mu\,m_t + (1 - \mu)\,g_t
                    \quad \text{or, without Nesterov,} \quad m_t \\
        \theta_t &= (1 - \gamma\lambda)\,\theta_{t-1}
                    - \gamma\,s\,\operatorname{NS}(u_t)

    NS is :func:`polyak.linalg.newton_schulz`, and :math:`s` depends on the matrix's
    :math:`n` rows and :math:`m` columns: :math:`\sqrt{\max(1, n/m)}` by
    ``"original"``, :math:`0.2\sqrt{\max(n, m)}` by ``"match_rms_adamw"``, after which
    AdamW's ``lr`` and ``weight_decay`` fit (`Liu et al., 2025
    <https://arxiv.org/abs/2502.16982>`_).

    Args:
        params: tensors, (name, tensor) pairs, or dicts that define parameter groups.
        lr: step size :math:`\gamma \ge 0`.
        weight_decay: :math:`\lambda \ge 0`, shrinks the parameter itself.
        momentum: :math:`\mu \ge 0`.
        nesterov: look ahead by one step of momentum.
        ns_coefficients: the three coefficients of the iteration.
        eps: :math:`\epsilon \ge 0`, keeps the norm that it divides by from zero.
        ns_steps: how many iterations, at most 99.
        adjust_lr_fn: ``"original"``, the default, or ``"match_rms_adamw"``.
        stages: what else a step does in the same pass: :class:`~polyak.Stages`.

    State: ``momentum_buffer`` (:math:`m`), like the parameter.

    torch iterates in bfloat16 everywhere. Here it is float32 on a CPU, where that is
    the faster of the two, and bfloat16 on other devices.

    Raises:
        ValueError: a value out of its range; a parameter that is a vector or a number.
        RuntimeError: a sparse gradient, or a complex parameter.

    >>> w = torch.tensor([[3.0, 0.0], [0.0, 1.0]], requires_grad=True)
    >>> w.grad = torch.tensor([[0.0, 2.0], [-2.0, 0.0]])
    >>> Muon([w], lr=0.1, weight_decay=0.0).step()
    >>> w
    tensor([[ 3.0000, -0.1108],
            [ 0.1108,  1.0000]], requires_grad=True)
    """

    bounds = {
        "lr": at_least(0, "Learning rate", should=True),
        "weight_decay": at_least(0, "weight decay", should=True),
        "momentum": at_least(0, "momentum", should=True),
        "ns_coefficients": each(at_most(float("inf")), 3),
        "eps": at_least(0),
        "ns_steps": _steps,
        "adjust_lr_fn": _adjustment,
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = QUINTIC,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        **stages: Unpack[Stages],
    ) -> None:
        defaults = dict(
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_coefficients=ns_coefficients,
            eps=eps,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
        )
        super().__init__(params, defaults, **stages)

    @staticmethod
    def rule(param, grad, momentum_buffer, *, lr, weight_decay, momentum, nesterov,
             ns_coefficients, eps, ns_steps, adjust_lr_fn):  # fmt: skip
        momentum_buffer = lerp(momentum_buffer, grad, 1 - momentum)
        update = momentum_buffer
        if nesterov:
            update = lerp(grad, momentum_buffer, momentum)
        update = orthogonalized(update, ns_coefficients, ns_steps, eps, adjust_lr_fn)
        if weight_decay:
            param = param * (1 - lr * weight_decay)
        return param - lr * update, momentum_buffer

    def check_param(self, param: Tensor, position: list[int]) -> None:
        if param.dim() < 2:
            group, index = position
            raise ValueError(
                "Muon takes matrices, and what has more dimensions, whereas parameter "
                f"{index} of group {group} has the shape {tuple(param.shape)}: give it "
                "to AdamW, in an optimizer of its own"
            )

    def check_gradient(self, param: Tensor, grad: Tensor, group: Group) -> None:
        super().check_gradient(param, grad, group)
        if param.is_complex():
            raise RuntimeError("Muon does not support complex parameters")
