"""Rates that fall, or rise, along a simple curve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch.optim import lr_scheduler as torch_lr

from .. import schedules
from ..schedules import Schedule
from ..schedules._checks import whole
from .formula import ScheduleLR
from .scheduler import Hyperparams, StateDict

__all__ = [
    "ConstantLR",
    "ExponentialLR",
    "LinearLR",
    "MultiStepLR",
    "PolynomialLR",
    "StepLR",
]


class StepLR(ScheduleLR[schedules.step], torch_lr.StepLR):
    r"""Multiply the learning rate by ``gamma`` every ``step_size`` epochs.

    .. math:: \eta_k = \eta_0 \gamma^{\lfloor k / s \rfloor}

    Args:
        optimizer: the optimizer whose rates it sets.
        step_size: :math:`s`, a whole number of epochs, 1 or more.
        gamma: :math:`\gamma \geq 0`.
        last_epoch: the last epoch that was done; -1 begins.
        verbose: print each rate that is set.

    Raises:
        ValueError: ``step_size`` or ``gamma`` out of range.

    >>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
    >>> StepLR(optimizer, step_size=30, gamma=0.5).value_at(90)
    [0.0125]
    """

    curve = schedules.step
    config = {"step_size": "size", "gamma": "gamma"}

    def __init__(
        self,
        optimizer: Any,
        step_size: int,
        gamma: float = 0.1,
        last_epoch: int = -1,
        verbose: bool | str = False,
    ) -> None:
        self.step_size = step_size
        self.gamma = gamma
        self._begin(optimizer, last_epoch, verbose)


class MultiStepLR(ScheduleLR[schedules.multistep], torch_lr.MultiStepLR):
    r"""Multiply the learning rate by ``gamma`` at each milestone.

    .. math:: \eta_k = \eta_0 \gamma^{|\{m : m \leq k\}|}

    Args:
        optimizer: the optimizer whose rates it sets.
        milestones: the epochs :math:`m`: whole numbers from 0, increasing. One that
            occurs twice counts twice.
        gamma: :math:`\gamma \geq 0`.
        last_epoch: the last epoch that was done; -1 begins.
        verbose: print each rate that is set.

    Raises:
        ValueError: milestones that are unsorted or negative; ``gamma`` out of range.
        TypeError: a milestone that is no whole number.

    >>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
    >>> MultiStepLR(optimizer, milestones=[30, 80], gamma=0.5).value_at(80)
    [0.025]
    """

    curve = schedules.multistep
    config = {"milestones": "milestones", "gamma": "gamma"}

    def __init__(
        self,
        optimizer: Any,
        milestones: Iterable[int],
        gamma: float = 0.1,
        last_epoch: int = -1,
        verbose: bool | str = False,
    ) -> None:
        given = list(milestones) if isinstance(milestones, Iterable) else milestones
        self._check("milestones", given)
        self.milestones = Counter(given)
        self.gamma = gamma
        self._begin(optimizer, last_epoch, verbose)

    def _make_schedule(self) -> schedules.multistep:
        return schedules.multistep(
            tuple(sorted(self.milestones.elements())), self.gamma
        )

    def _restore(self, state: StateDict, hyperparams: Hyperparams) -> None:
        if "milestones" in state:  # JSON has made text of the numbers
            counted = state["milestones"].items()
            state["milestones"] = Counter({int(k): count for k, count in counted})
        super()._restore(state, hyperparams)


class ConstantLR(ScheduleLR[Schedule], torch_lr.ConstantLR):
    r"""Multiply the learning rate by ``factor`` for the first ``total_iters`` epochs.

    .. math:: \eta_k = f \eta_0 \text{ for } k < n, \quad \eta_k = \eta_0 \text{ then}

    Args:
        optimizer: the optimizer whose rates it sets.
        factor: :math:`f`, from 0 to 1.
        total_iters: :math:`n`, 0 or more.
        last_epoch: the last epoch that was done; -1 begins.
        verbose: print each rate that is set.

    Raises:
        ValueError: ``factor`` outside [0, 1], or a negative ``total_iters``.

    >>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
    >>> scheduler = ConstantLR(optimizer, factor=0.5, total_iters=4)
    >>> scheduler.value_at(3), scheduler.value_at(4)
    ([0.05], [0.1])
    """

    curve = schedules.constant
    config = {"factor": "factor", "total_iters": None}

    def __init__(
        self,
        optimizer: Any,
        factor: float = 1.0 / 3,
        total_iters: int = 5,
        last_epoch: int = -1,
        verbose: bool | str = False,
    ) -> None:
        if not 0 <= factor <= 1:
            raise ValueError(
                "Constant multiplicative factor expected to be between 0 and 1. "
                f"ConstantLR got factor={factor}"
            )
        whole(0)("ConstantLR", "total_iters", total_iters)
        self.factor = factor
        self.total_iters = total_iters
        self._begin(optimizer, last_epoch, verbose)

    def _make_schedule(self) -> Schedule:
        if self.total_iters == 0:
            return schedules.constant()
        return schedules.constant(self.factor).until(self.total_iters) | (
            schedules.constant()
        )


class LinearLR(ScheduleLR[schedules.linear], torch_lr.LinearLR):
    r"""Change the learning rate's factor linearly over ``total_iters`` epochs.

    .. math:: \eta_k = \eta_0 \left(a + (b - a) \frac{\min(k, n)}{n}\right)

    Args:
        optimizer: the optimizer whose rates it sets.
        start_factor: :math:`a`, above 0 and at most 1.
        end_factor: :math:`b`, from 0 to 1.
        total_iters: :math:`n`, 0 or more.
        last_epoch: the last epoch that was done; -1 begins.
        verbose: print each rate that is set.

    Raises:
        ValueError: a factor out of range, or a negative ``total_iters``.

    >>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
    >>> LinearLR(optimizer, start_factor=0.5, total_iters=4).value_at(2)
    [0.07500000000000001]
    """

    curve = schedules.linear
    config = {"start_factor": "start", "end_factor": "end", "total_iters": "steps"}

    def __init__(
        self,
        optimizer: Any,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
        verbose: bool | str = False,
    ) -> None:
        if not 0 < start_factor <= 1:
            raise ValueError(
                "Starting multiplicative factor expected to be greater than 0 and less "
                f"or equal to 1. LinearLR got start_factor={start_factor}"
            )
        if not 0 <= end_factor <= 1:
            raise ValueError(
                "Ending multiplicative factor expected to be between 0 and 1. LinearLR "
                f"got end_factor={end_factor}"
            )
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        self._begin(optimizer, last_epoch, verbose)


class ExponentialLR(ScheduleLR[schedules.exponential], torch_lr.ExponentialLR):
    r"""Multiply the learning rate by ``gamma`` every epoch.

    .. math:: \eta_k = \eta_0 \gamma^k

    Args:
        optimizer: the optimizer whose rates it sets.
        gamma: :math:`\gamma \geq 0`.
        last_epoch: the last epoch that was done; -1 begins.
        verbose: print each rate that is set.

    Raises:
        ValueError: ``gamma`` out of range.

    >>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=1.0)
    >>> ExponentialLR(optimizer, gamma=0.5).value_at(3)
    [0.125]
    """

    curve = schedules.exponential
    config = {"gamma": "gamma"}

    def __init__(
        self,
        optimizer: Any,
        gamma: float,
        last_epoch: int = -1,
        verbose: bool | str = False,
    ) -> None:
        self.gamma = gamma
        self._begin(optimizer, last_epoch, verbose)


class PolynomialLR(ScheduleLR[schedules.polynomial], torch_lr.PolynomialLR):
    r"""Let the learning rate fall to zero along a polynomial.

    .. math:: \eta_k = \eta_0 \left(1 - \frac{\min(k, n)}{n}\right)^p

    Args:
        optimizer: the optimizer whose rates it sets.
        total_iters: :math:`n > 0`.
        power: :math:`p \geq 0`.
        last_epoch: the last epoch that was done; -1 begins.
        verbose: print each rate that is set.

    Raises:
        ValueError: ``total_iters`` or ``power`` out of range.

    >>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=1.0)
    >>> PolynomialLR(optimizer, total_iters=4, power=2.0).value_at(2)
    [0.25]
    """

    curve = schedules.polynomial
    config = {"total_iters": "steps", "power": "power"}

    def __init__(
        self,
        optimizer: Any,
        total_iters: int = 5,
        power: float = 1.0,
        last_epoch: int = -1,
        verbose: bool | str = False,
    ) -> None:
        self.total_iters = total_iters
        self.power = power
        self._begin(optimizer, last_epoch, verbose)
