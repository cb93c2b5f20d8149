"""Cosine annealing, without and with warm restarts."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch.optim import lr_scheduler as torch_lr

from .. import schedules
from ..bounds import at_least
from .formula import S, ScheduleLR, check_past_end
from .rates import Rate
from .scheduler import Hyperparams, StateDict

__all__ = ["CosineAnnealingLR", "CosineAnnealingWarmRestarts"]


class _CosineLR(ScheduleLR[S]):
    """Between each group's base rate and ``eta_min``."""

    eta_min: float

    def value_at(self, step: int) -> list[Rate]:
        """The learning rates at a step, one a group; nothing is changed."""
        low, factor = self.eta_min, self.schedule.value_at(step)
        return [low + (base - low) * factor for base in self.base_lrs]

    def _floor(self, index: int) -> float:
        return self.eta_min


class CosineAnnealingLR(_CosineLR[schedules.cosine], torch_lr.CosineAnnealingLR):
    r"""Let the learning rate fall along a cosine.

    From `SGDR: Stochastic Gradient Descent with Warm Restarts
    <https://arxiv.org/abs/1608.03983>`_, without the restarts:

    .. math::
        \eta_k = \eta_{min} + (\eta_0 - \eta_{min})
        \frac{1 + \cos(\pi k / T_{max})}{2}

    Args:
        optimizer: the optimizer whose rates it sets.
        T_max: the epoch at which ``eta_min`` is reached, above 0.
        eta_min: the lowest rate.
        last_epoch: the last epoch that was done; -1 begins.
        verbose: print each rate that is set.
        past_end: what follows ``T_max``: ``"periodic"`` climbs back along the cosine,
            as torch does; ``"clamp"`` stays there; ``"raise"`` refuses to step.

    Raises:
        ValueError: an argument out of range; a step past ``T_max`` where that is
            refused.

    >>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=1.0)
    >>> scheduler = CosineAnnealingLR(optimizer, T_max=10, past_end="clamp")
    >>> scheduler.value_at(0), scheduler.value_at(10), scheduler.value_at(15)
    ([1.0], [0.0], [0.0])
    """

    curve = schedules.cosine
    config = {"T_max": "steps", "eta_min": None, "past_end": None}
    _not_torchs = frozenset({"past_end"})

    def __init__(
        self,
        optimizer: Any,
        T_max: int,
        eta_min: float = 0.0,
        last_epoch: int = -1,
        verbose: bool | str = False,
        *,
        past_end: Literal["periodic", "clamp", "raise"] = "periodic",
    ) -> None:
        check_past_end(self, past_end, ("periodic", "clamp", "raise"))
        at_least(-math.inf)("CosineAnnealingLR", "eta_min", eta_min)
        self.T_max = T_max
        self.eta_min = eta_min
        self.past_end = past_end
        self._begin(optimizer, last_epoch, verbose)

    def _make_schedule(self) -> schedules.cosine:
        periodic = self.past_end == "periodic"
        return schedules.cosine(self.T_max, periodic=periodic)

    def value_at(self, step: int) -> list[Rate]:
        """The learning rates at a step, one a group; nothing is changed."""
        if self.past_end == "raise" and step > self.T_max:
            raise ValueError(
                f"Tried to step {step} times. CosineAnnealingLR ends at T_max="
                f"{self.T_max}: build it longer, or with past_end='clamp'"
            )
        return super().value_at(step)


class CosineAnnealingWarmRestarts(
    _CosineLR[schedules.cosine_restarts], torch_lr.CosineAnnealingWarmRestarts
):
    r"""Let the learning rate fall along a cosine, again and again.

    From `SGDR: Stochastic Gradient Descent with Warm Restarts
    <https://arxiv.org/abs/1608.03983>`_:

    .. math::
        \eta = \eta_{min} + (\eta_0 - \eta_{min})
        \frac{1 + \cos(\pi T_{cur} / T_i)}{2}

    where :math:`T_{cur}` counts the epochs since the last restart, and the i-th of the
    periods is :math:`T_i = T_0 T_{mult}^i` epochs long.

    Args:
        optimizer: the optimizer whose rates it sets.
        T_0: epochs until the first restart, 1 or more.
        T_mult: by what each period is longer than the last, 1 or more.
        eta_min: the lowest rate.
        last_epoch: the last epoch that was done; -1 begins.
        verbose: print each rate that is set.

    Raises:
        ValueError: an argument out of range.

    >>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=1.0)
    >>> scheduler = CosineAnnealingWarmRestarts(optimizer, T_0=10, T_mult=2)
    >>> scheduler.value_at(9)[0] < 0.03, scheduler.value_at(10), scheduler.value_at(20)
    (True, [1.0], [0.5])
    """

    curve = schedules.cosine_restarts
    config = {"T_0": "first", "T_mult": "mult", "eta_min": None}
    chainable = False

    def __init__(
        self,
        optimizer: Any,
        T_0: int,
        T_mult: int = 1,
        eta_min: float = 0.0,
        last_epoch: int = -1,
        verbose: bool | str = False,
    ) -> None:
        if not isinstance(T_0, int) or T_0 <= 0:
            raise ValueError(
                f"Expected positive integer T_0, but got {T_0!r} "
                "(CosineAnnealingWarmRestarts)"
            )
        if not isinstance(T_mult, int) or T_mult < 1:
            raise ValueError(
                f"Expected integer T_mult >= 1, but got {T_mult!r} "
                "(CosineAnnealingWarmRestarts)"
            )
        if not isinstance(eta_min, float | int):
            raise ValueError(
                f"Expected float or int eta_min, but got {eta_min} of type "
                f"{type(eta_min)} (CosineAnnealingWarmRestarts)"
            )
        self.T_0 = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        self._begin(optimizer, last_epoch, verbose)

    def step(self, epoch: float | None = None) -> None:
        """Go to the next epoch, or to a given one.

        Args:
            epoch: where to go, 0 or more; between two epochs too:
                ``scheduler.step(epoch + batch / batches)``.
        """
        if epoch is not None and not epoch >= 0:
            raise ValueError(
                f"Expected non-negative epoch, but got {epoch} "
                "(CosineAnnealingWarmRestarts.step)"
            )
        self._take_step(epoch, deprecated=False)

    def _advance(self, metrics: Any) -> None:
        self.last_epoch += 1
        self.T_cur += 1
        if self.T_cur >= self.T_i:
            self.T_cur -= self.T_i
            self.T_i *= self.T_mult

    def _place(self, step: float) -> None:
        self.last_epoch = math.floor(step)
        self.T_cur, self.T_i = self.schedule.position(step)

    def _restore(self, state: StateDict, hyperparams: Hyperparams) -> None:
        before = [state.get(name) for name in ("T_0", "T_mult")]
        super()._restore(state, hyperparams)
        if before != [self.T_0, self.T_mult]:  # the periods are this run's
            self._place(self.last_epoch)
            self._own = self._own_rates()

    def _own_rates(self) -> list[Rate]:
        factor = (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2
        return [self.eta_min + (b - self.eta_min) * factor for b in self.base_lrs]
