"""What the schedulers compute, as formulas of the base rate and the epoch.

Written from the definitions, apart from polyak and from torch, and for one rate. The
composition is pure: the child whose turn it is, at the epoch counted from its own first
one; the product of the factors of a chain.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any

from tests.lr_scheduler.nodes import Node


def value(node: Node, base: float, epoch: int) -> float:
    """The learning rate that a scheduler gives at an epoch.

    Args:
        node: the scheduler; one without memory.
        base: the rate that it began from.
        epoch: 0 or more.
    """
    if node.name == "SequentialLR":
        milestones = node.arguments["milestones"]
        turn = bisect_right(milestones, epoch)
        begun = milestones[turn - 1] if turn else 0
        return value(node.children[turn], base, epoch - begun)
    if node.name == "ChainedScheduler":
        return base * math.prod(value(c, base, epoch) / base for c in node.children)
    return FORMULAS[node.name](base, epoch, **node.arguments)


def _lambda(base: float, k: int, lr_lambda: Any) -> float:
    return base * lr_lambda(k)


def _multiplicative(base: float, k: int, lr_lambda: Any) -> float:
    return base * math.prod(lr_lambda(j) for j in range(1, k + 1))


def _step(base: float, k: int, step_size: int, gamma: float = 0.1) -> float:
    return base * gamma ** (k // step_size)


def _multistep(base: float, k: int, milestones: Any, gamma: float = 0.1) -> float:
    return base * gamma ** sum(milestone <= k for milestone in milestones)


def _constant(
    base: float, k: int, factor: float = 1 / 3, total_iters: int = 5
) -> float:
    return base * factor if k < total_iters else base


def _linear(
    base: float,
    k: int,
    start_factor: float = 1 / 3,
    end_factor: float = 1.0,
    total_iters: int = 5,
) -> float:
    share = min(k / total_iters, 1) if total_iters else 1
    return base * ((1 - share) * start_factor + share * end_factor)


def _exponential(base: float, k: int, gamma: float) -> float:
    return base * gamma**k


def _polynomial(base: float, k: int, total_iters: int = 5, power: float = 1.0) -> float:
    return base * (1 - min(k, total_iters) / total_iters) ** power


def _cosine(base: float, k: int, T_max: int, eta_min: float = 0.0) -> float:
    return eta_min + (base - eta_min) * (1 + math.cos(math.pi * k / T_max)) / 2


def _restarts(
    base: float, k: int, T_0: int, T_mult: int = 1, eta_min: float = 0.0
) -> float:
    while k >= T_0:
        k, T_0 = k - T_0, T_0 * T_mult
    return _cosine(base, k, T_0, eta_min)


def _wave(base: float, k: int) -> float:
    return base * (1.5 + math.sin(k))


def _halve(base: float, k: int, every: int) -> float:
    return base * 0.5 ** (k // every)


FORMULAS: dict[str, Any] = {
    "LambdaLR": _lambda,
    "MultiplicativeLR": _multiplicative,
    "StepLR": _step,
    "MultiStepLR": _multistep,
    "ConstantLR": _constant,
    "LinearLR": _linear,
    "ExponentialLR": _exponential,
    "PolynomialLR": _polynomial,
    "CosineAnnealingLR": _cosine,
    "CosineAnnealingWarmRestarts": _restarts,
    "Wave": _wave,
    "Halve": _halve,
}


def has_formula(node: Node) -> bool:
    """Whether :func:`value` can evaluate the scheduler, the same for every group."""
    return node.names <= FORMULAS.keys() and not any(
        isinstance(part.arguments.get("lr_lambda"), list) for part in node.walk()
    )
