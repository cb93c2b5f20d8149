"""The learning rate of stochastic weight averaging."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal

from torch.optim import swa_utils as torch_swa

from .. import schedules
from ..bounds import at_least
from ..lr_scheduler.attachment import check_optimizer
from ..lr_scheduler.formula import ScheduleLR
from ..lr_scheduler.rates import Rate, for_groups, restored_on_error
from ..lr_scheduler.scheduler import Hyperparams, StateDict, kept
from ..schedules import Schedule
from ..slot import Group

__all__ = ["SWALR"]


class SWALR(ScheduleLR[Schedule], torch_swa.SWALR):
    r"""Anneal the learning rate to a constant one, and stay there.

    From `Averaging Weights Leads to Wider Optima and Better Generalization
    <https://arxiv.org/abs/1803.05407>`_. With :math:`\eta_0` the rate that is there
    when it begins, in epoch :math:`k` of :math:`n`

    .. math::
        \eta_k = \eta_{swa} + (\eta_0 - \eta_{swa})
        \begin{cases} (1 + \cos(\pi k / n)) / 2 & \text{cos} \\
        1 - k / n & \text{linear} \end{cases}

    Another scheduler may set the rate before, built first and stepped until then; or
    both are members of a :class:`~polyak.lr_scheduler.SequentialLR`.

    Args:
        optimizer: the optimizer whose rates it sets.
        swa_lr: :math:`\eta_{swa}`, for all groups or one a group; kept in the groups.
        anneal_epochs: :math:`n`, 0 or more.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        last_epoch: the last epoch that was done; -1 begins.
        verbose: print each rate that is set.

    Raises:
        ValueError: an argument out of range, or a list of another length than the
            groups.

    >>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=1.0)
    >>> scheduler = SWALR(optimizer, 0.2, anneal_epochs=4, anneal_strategy="linear")
    >>> [round(scheduler.value_at(k)[0], 6) for k in range(6)]
    [1.0, 0.8, 0.6, 0.4, 0.2, 0.2]
    """

    config = {"anneal_epochs": None, "_anneal_strategy": None}

    _continues = True

    def __init__(
        self,
        optimizer: Any,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        last_epoch: int = -1,
        verbose: bool | str = False,
    ) -> None:
        check_optimizer(self, optimizer)
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                "anneal_strategy must be one of 'cos' or 'linear', instead got "
                f"{anneal_strategy!r} (SWALR)"
            )
        flag = isinstance(anneal_epochs, bool)
        if flag or not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(
                "anneal_epochs must be equal or greater than 0, got "
                f"{anneal_epochs!r} (SWALR)"
            )
        groups = optimizer.param_groups
        swa_lrs = for_groups("SWALR", "swa_lr", swa_lr, groups)
        for rate in swa_lrs:
            at_least(0)("SWALR", "swa_lr", rate)
        self.anneal_epochs = anneal_epochs
        self._anneal_strategy = anneal_strategy
        with restored_on_error(groups, ["swa_lr"]):
            for group, rate in zip(groups, swa_lrs, strict=True):
                group["swa_lr"] = rate
            self._begin(optimizer, last_epoch, verbose)

    def _make_schedule(self) -> Schedule:
        if self.anneal_epochs and self._anneal_strategy == "cos":
            return schedules.cosine(self.anneal_epochs)
        return schedules.linear(1.0, 0.0, self.anneal_epochs)

    def value_at(self, step: int) -> list[Rate]:
        """The learning rates at a step, one a group; nothing is changed."""
        factor = self.schedule.value_at(step)
        return [
            group["swa_lr"] + (base - group["swa_lr"]) * factor
            for group, base in zip(
                self.optimizer.param_groups, self.base_lrs, strict=True
            )
        ]

    def _floor(self, index: int) -> float:
        return float(self.optimizer.param_groups[index]["swa_lr"])

    def _rate(
        self, index: int, own: Rate, before: Rate, move: float, found: Rate
    ) -> Rate:
        if float(own) == self._floor(index):  # it has arrived, whatever was there
            return own
        return super()._rate(index, own, before, move, found)

    def _regroup(self, groups: list[Group], origins: list[int | None]) -> None:
        for group in groups:
            if "swa_lr" not in group:
                others = [g["swa_lr"] for g in groups if "swa_lr" in g]
                if any(float(rate) != float(others[0]) for rate in others):
                    raise ValueError(
                        "SWALR anneals the groups to different rates, and a new one "
                        "says none: set its group['swa_lr']"
                    )
                group["swa_lr"] = kept(others[0])
        super()._regroup(groups, origins)

    def state_dict(self) -> StateDict:
        """Everything but the optimizer: progress, arguments, and the groups' goals."""
        state = super().state_dict()
        state["_swa_lrs"] = [
            kept(group["swa_lr"]) for group in self.optimizer.param_groups
        ]
        return state

    def _restore(self, state: StateDict, hyperparams: Hyperparams) -> None:
        saved = state.pop("_swa_lrs", ())
        if hyperparams == "checkpoint":
            groups = self.optimizer.param_groups
            for group, rate in zip(groups, saved, strict=False):
                group["swa_lr"] = kept(rate)
        super()._restore(state, hyperparams)

    def _taking_back(self) -> AbstractContextManager[None]:
        return restored_on_error(self.optimizer.param_groups, ["swa_lr"])
