"""The rate that falls when a metric has stopped improving."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch.optim import lr_scheduler as torch_lr

from ..bounds import at_least
from ..schedules._checks import whole
from ..slot import Group
from .attachment import attach, check_optimizer, steps_done
from .composable import ComposableLR
from .rates import Rate, base_rates, copied, read

__all__ = ["ReduceLROnPlateau"]


class ReduceLROnPlateau(ComposableLR, torch_lr.ReduceLROnPlateau):
    r"""Reduce the learning rate when a metric has stopped improving.

    After more than ``patience`` steps without a metric better than the best so far,
    each rate becomes

    .. math:: \eta \leftarrow \max(f \eta, \eta_{min})

    In a :class:`SequentialLR` or a :class:`ChainedScheduler` it takes its metric from
    their ``step(metrics)``, and ``min_lr`` bounds its own part of the rate.

    Args:
        optimizer: the optimizer whose rates it sets.
        mode: whether a metric is better when smaller (``"min"``) or greater
            (``"max"``).
        factor: :math:`f`, from 0 to below 1.
        patience: steps without improvement that are borne.
        threshold: by how much a metric must be better to count as such.
        threshold_mode: ``"rel"``, by this part of the best, or ``"abs"``.
        cooldown: steps after a reduction in which nothing is counted.
        min_lr: the lowest rate, for all groups or one a group.
        eps: a reduction by no more than this is not made.
        verbose: print each rate that is set.
        last_epoch: the number of the last step that was done, by this scheduler's
            predecessor: what all schedulers take. The rates stay, and metrics are
            counted anew.

    Raises:
        ValueError: an argument out of range; a metric that is NaN.
        TypeError: a metric that is missing.

    >>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=1.0)
    >>> scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    >>> for loss in [3.0, 2.0, 2.0, 2.0]:
    ...     scheduler.step(loss)
    >>> scheduler.get_last_lr()
    [0.5]
    """

    config = (
        "mode",
        "factor",
        "patience",
        "threshold",
        "threshold_mode",
        "cooldown",
        "min_lrs",
        "eps",
    )
    _per_group = (*ComposableLR._per_group, "_reduced", "min_lrs")

    def __init__(
        self,
        optimizer: Any,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: list[float] | float = 0,
        eps: float = 1e-8,
        verbose: bool | str = False,
        *,
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(self, optimizer)
        whole(-1)(type(self).__name__, "last_epoch", last_epoch)
        if not 0 <= factor < 1:
            raise ValueError(
                f"Factor should be < 1.0. ReduceLROnPlateau got factor={factor} and "
                "needs 0 <= factor < 1"
            )
        if mode not in ("min", "max"):
            raise ValueError(
                f"mode {mode} is unknown! ReduceLROnPlateau has 'min' and 'max'"
            )
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(
                f"threshold mode {threshold_mode} is unknown! ReduceLROnPlateau has "
                "'rel' and 'abs'"
            )
        at_least(0)("ReduceLROnPlateau", "patience", patience)
        at_least(0)("ReduceLROnPlateau", "cooldown", cooldown)
        groups = optimizer.param_groups
        self.default_min_lr = None if isinstance(min_lr, list | tuple) else min_lr
        self.min_lrs = _lowest(min_lr, groups)
        self.mode = mode
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.eps = eps
        self.mode_worse = math.inf if mode == "min" else -math.inf
        self._reset()
        self.optimizer = optimizer
        self.verbose = verbose is True
        self.last_epoch = last_epoch + 1
        self._step_count = 0
        self._known_groups = list(groups)
        self._steps_seen = steps_done(optimizer)
        found = read(groups)
        self.base_lrs = base_rates(groups)
        self._reduced = list(self.base_lrs)
        self._own = self._last_lr = self.base_lrs
        self._note_moves(found)
        self._last_lr = copied(found)
        attach(self, optimizer)

    def _initial_step(self) -> None:
        self._place(0)

    def _reset(self) -> None:
        """Forget the metrics seen so far; the rates stay."""
        self.best = self.mode_worse
        self.cooldown_counter = 0
        self.num_bad_epochs = 0

    def step(self, metrics: Any = None, epoch: int | None = None) -> None:  # type: ignore[override]
        """Take in a metric, and reduce the rates if none has improved for too long.

        Args:
            metrics: a number, or a tensor of one element: what should improve.
            epoch: deprecated: the number to give this step.

        Raises:
            ValueError: the metric is NaN.
            TypeError: it is missing.
        """
        self._take_step(epoch, metrics)

    def _update_lr(self, epoch: Any = None, metrics: Any = None) -> None:
        if epoch is not None:
            self.last_epoch = epoch - 1
            epoch = None
        super()._update_lr(epoch, metrics)

    def _warn_if_early(self) -> None:
        """Not of this one: its steps follow a validation, not each step."""

    def _own_rates(self) -> list[Rate]:
        return self._reduced

    def _place(self, step: int) -> None:
        self.last_epoch = step
        self._reset()
        self._reduced = list(self.base_lrs)

    def _advance(self, metrics: Any) -> None:
        current = _checked_metric(metrics)
        self.last_epoch += 1
        if self._is_better(current, self.best):
            self.best = current
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce_lr(self.last_epoch)
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0

    def _reduce_lr(self, epoch: int) -> None:
        moves = self._moves or [1.0] * len(self._reduced)
        reduced = []
        for own, move, low in zip(self._reduced, moves, self.min_lrs, strict=True):
            rate = float(own) * move  # what the group has
            lower = max(rate * self.factor, low)
            if rate - lower > self.eps:
                own = lower if move == 1.0 else lower / move
            reduced.append(own)
        self._reduced = reduced

    @property
    def in_cooldown(self) -> bool:
        """Whether a reduction was made less than ``cooldown`` steps ago."""
        return self.cooldown_counter > 0

    def _is_better(self, a: float, best: float) -> bool:
        step = self.threshold if self.mode == "max" else -self.threshold
        bar = best * (1.0 + step) if self.threshold_mode == "rel" else best + step
        return bool(a > bar if self.mode == "max" else a < bar)

    def _new_entry(self, name: str, values: list[Any], group: Group) -> Any:
        if name == "_reduced":
            return self.base_lrs[self._place_of(group)]
        if name == "min_lrs" and self.default_min_lr is not None:
            return self.default_min_lr
        return super()._new_entry(name, values, group)

    def _rebase(self, bases: dict[int, Rate]) -> None:
        super()._rebase(bases)
        self._reduced = [bases.get(i, rate) for i, rate in enumerate(self._reduced)]

    def _place_of(self, group: Group) -> int:
        groups = self.optimizer.param_groups
        return next(i for i, other in enumerate(groups) if other is group)


def _lowest(min_lr: Any, groups: list[Group]) -> list[float]:
    if not isinstance(min_lr, list | tuple):
        return [min_lr] * len(groups)
    if len(min_lr) != len(groups):
        raise ValueError(
            f"expected {len(groups)} min_lrs, got {len(min_lr)}: give "
            "ReduceLROnPlateau a number for all parameter groups, or one a group"
        )
    return list(min_lr)


def _checked_metric(metrics: Any) -> float:
    if metrics is None:
        raise TypeError(
            "ReduceLROnPlateau needs the metric that should improve, and got none: "
            "call scheduler.step(validation_loss)"
        )
    value = float(metrics)
    if math.isnan(value):
        raise ValueError(
            f"ReduceLROnPlateau got the metric {value}, which is neither better nor "
            "worse than another: leave the step out, or give it float('inf')"
        )
    return value
