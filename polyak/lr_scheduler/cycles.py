"""Rates that rise and fall between bounds of each group, momentum inversely."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal

from torch.optim import lr_scheduler as torch_lr

from .. import schedules
from ..bounds import above
from ..slot import Group
from .attachment import check_optimizer
from .composable import ComposableLR
from .formula import S, ScheduleLR, check_past_end
from .functions import attributes_restored_on_error, load_attributes
from .rates import Rate, across, for_groups, restored_on_error
from .scheduler import Hyperparams, StateDict, kept

__all__ = ["CyclicLR", "OneCycleLR"]


class _CycleLR(ScheduleLR[S]):
    """The momentum, or ``betas[0]``, that goes against the rate."""

    chainable = False
    cycle_momentum: bool
    use_beta1: bool

    def _momenta(self) -> list[Rate]:
        raise NotImplementedError

    def _choose_momentum(self, optimizer: Any) -> None:
        defaults = optimizer.defaults
        if "momentum" not in defaults and "betas" not in defaults:
            raise ValueError(
                "optimizer must support momentum or beta1 with `cycle_momentum` option "
                f"enabled: {type(optimizer).__name__} has neither. Give "
                f"{type(self).__name__} cycle_momentum=False"
            )
        self.use_beta1 = "betas" in defaults

    def _write_rest(self, groups: list[Group]) -> None:
        if not self.cycle_momentum:
            return
        for group, momentum in zip(groups, self._momenta(), strict=True):
            if self.use_beta1:
                group["betas"] = (momentum, *group["betas"][1:])
            else:
                group["momentum"] = momentum


class CyclicLR(_CycleLR[schedules.cyclic], torch_lr.CyclicLR):
    r"""Let the learning rate rise and fall between two bounds, again and again.

    From `Cyclical Learning Rates for Training Neural Networks
    <https://arxiv.org/abs/1506.01186>`_:

    .. math:: \eta_k = \eta_{base} + (\eta_{max} - \eta_{base})\, h(k)

    where the height :math:`h` goes from 0 to 1 in ``step_size_up`` steps and back in
    ``step_size_down``, scaled by the mode. Momentum goes the other way, between
    ``max_momentum`` and ``base_momentum``.

    Args:
        optimizer: the optimizer whose rates it sets.
        base_lr: the lower bound, for all groups or one a group.
        max_lr: the upper bound, for all groups or one a group.
        step_size_up: steps of the rising half, above 0.
        step_size_down: steps of the falling half; by default as many.
        mode: ``"triangular"``; ``"triangular2"``, each cycle half as high as the last;
            ``"exp_range"``, height times ``gamma ** k``.
        gamma: of ``"exp_range"``.
        scale_fn: a function that scales the height, instead of the mode.
        scale_mode: whether ``scale_fn`` takes the ``"cycle"`` (from 1) or the step
            (``"iterations"``).
        cycle_momentum: whether to cycle ``momentum``, or ``betas[0]``.
        base_momentum: the lower bound of the momentum, for all groups or one a group.
        max_momentum: the upper bound of the momentum, for all groups or one a group.
        last_epoch: the last step that was done; -1 begins.
        verbose: print each rate that is set.

    Raises:
        ValueError: an argument out of range, a list of another length than the groups,
            or an optimizer without momentum.

    >>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], momentum=0.9)
    >>> scheduler = CyclicLR(optimizer, base_lr=0.1, max_lr=0.5, step_size_up=4)
    >>> scheduler.value_at(2), scheduler.value_at(4), scheduler.value_at(8)
    ([0.30000000000000004], [0.5], [0.1])
    """

    _per_group = (
        *ComposableLR._per_group,
        "max_lrs",
        "base_momentums",
        "max_momentums",
    )
    curve = schedules.cyclic
    config = {
        "step_size_up": "up",
        "step_size_down": "down",
        "mode": None,
        "gamma": "gamma",
        "scale_mode": "scale_by",
    }
    _not_torchs = frozenset({"step_size_up", "step_size_down"})
    _transient = _CycleLR._transient | {"_scale_fn_custom"}

    def __init__(
        self,
        optimizer: Any,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: Literal["cycle", "iterations"] = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
        verbose: bool | str = False,
    ) -> None:
        check_optimizer(self, optimizer)
        groups = optimizer.param_groups
        base_lrs = for_groups("CyclicLR", "base_lr", base_lr, groups)
        self.max_lrs = for_groups("CyclicLR", "max_lr", max_lr, groups)
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError(
                f"mode is invalid and scale_fn is None: CyclicLR got mode={mode!r}, "
                "which is none of 'triangular', 'triangular2', 'exp_range'"
            )
        self.step_size_up = step_size_up
        self.step_size_down = step_size_up if step_size_down is None else step_size_down
        self.mode = mode
        self.gamma = gamma
        self.scale_mode = scale_mode
        self._scale_fn_custom = scale_fn
        if scale_fn is None:
            self.scale_mode = "iterations" if mode == "exp_range" else "cycle"
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self._choose_momentum(optimizer)
        momenta = (base_momentum, max_momentum) if cycle_momentum else (0.0, 0.0)
        self.base_momentums, self.max_momentums = (
            for_groups("CyclicLR", name, value, groups)
            for name, value in zip(
                ("base_momentum", "max_momentum"), momenta, strict=True
            )
        )
        self._begin(optimizer, last_epoch, verbose, base_lrs)
        self.total_size = float(self.step_size_up + self.step_size_down)  # type: ignore[assignment]
        self.step_ratio = self.step_size_up / self.total_size
        if cycle_momentum and last_epoch == -1:
            for group, low, high in zip(
                groups, self.base_momentums, self.max_momentums, strict=True
            ):
                group["max_momentum"], group["base_momentum"] = high, low

    def _make_schedule(self) -> schedules.cyclic:
        custom = self._scale_fn_custom
        return schedules.cyclic(
            1.0,
            self.step_size_up,
            self.step_size_down,
            mode="triangular" if custom is not None else self.mode,
            gamma=self.gamma,
            scale=custom,
            scale_by=self.scale_mode,
        )

    def scale_fn(self, x: float) -> Any:
        """By what the height is scaled, in the cycle or at the step ``x``."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "triangular2":
            return 1 / 2.0 ** (x - 1)
        return self.gamma**x if self.mode == "exp_range" else 1.0

    def value_at(self, step: int) -> list[Rate]:
        """The learning rates at a step, one a group; nothing is changed."""
        height = self.schedule.height(step)
        return [
            base + (top - base) * height
            for base, top in zip(self.base_lrs, self.max_lrs, strict=True)
        ]

    def _momenta(self) -> list[Rate]:
        height = self.schedule.height(max(self.last_epoch, 0))
        return [
            top - (top - base) * height
            for base, top in zip(self.base_momentums, self.max_momentums, strict=True)
        ]

    def state_dict(self) -> StateDict:
        """Everything but the optimizer and ``scale_fn``, of which the attributes."""
        state = super().state_dict()
        function = self._scale_fn_custom
        plain = function is None or isinstance(function, types.FunctionType)
        state["_scale_fn_custom"] = None if plain else dict(vars(function))
        return state

    def _restore(self, state: StateDict, hyperparams: Hyperparams) -> None:
        load_attributes([self._scale_fn_custom], [state.pop("_scale_fn_custom", None)])
        super()._restore(state, hyperparams)

    def _taking_back(self) -> AbstractContextManager[None]:
        return attributes_restored_on_error([self._scale_fn_custom])


class OneCycleLR(_CycleLR[schedules.one_cycle], torch_lr.OneCycleLR):
    r"""Let the learning rate rise to ``max_lr`` once, and fall to almost nothing.

    From `Super-Convergence: Very Fast Training of Neural Networks Using Large Learning
    Rates <https://arxiv.org/abs/1708.07120>`_. Along a cosine, or a line, the rate goes

    .. math::
        \frac{\eta_{max}}{d} \to \eta_{max} \to \frac{\eta_{max}}{d\,d_{final}}

    with the peak at ``pct_start`` of the steps; with ``three_phase`` it first comes
    back to where it began. Momentum goes the other way, between ``max_momentum`` and
    ``base_momentum``. Each group's ``max_lr``, ``initial_lr`` and ``min_lr`` are kept
    in the group.

    Args:
        optimizer: the optimizer whose rates it sets.
        max_lr: the peak, for all groups or one a group.
        total_steps: the number of steps, 1 or more; or give ``epochs`` and
            ``steps_per_epoch``, whose product it is.
        epochs: the number of epochs.
        steps_per_epoch: the number of steps of an epoch.
        pct_start: the part of the steps in which the rate rises, from 0 to 1.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        cycle_momentum: whether to cycle ``momentum``, or ``betas[0]``.
        base_momentum: the lower bound of the momentum, for all groups or one a group.
        max_momentum: the upper bound of the momentum, for all groups or one a group.
        div_factor: :math:`d`, above 0.
        final_div_factor: :math:`d_{final}`, above 0.
        three_phase: whether to come back symmetrically before the last fall.
        last_epoch: the last step that was done; -1 begins.
        verbose: print each rate that is set.
        past_end: what follows ``total_steps``: ``"raise"``, as torch does, or
            ``"clamp"``, to stay at the last rate.

    Raises:
        ValueError: an argument out of range, a list of another length than the groups,
            an optimizer without momentum, or a step past the end.

    >>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], momentum=0.9)
    >>> scheduler = OneCycleLR(optimizer, max_lr=1.0, total_steps=10, pct_start=0.5)
    >>> [round(scheduler.value_at(k)[0], 6) for k in (0, 2, 4, 9)]
    [0.04, 0.52, 1.0, 4e-06]
    """

    curve = schedules.one_cycle
    config = {
        "total_steps": "steps",
        "pct_start": "pct_start",
        "_anneal_func_type": "anneal",
        "three_phase": "three_phase",
        "past_end": None,
    }
    _not_torchs = frozenset({"pct_start", "three_phase", "past_end"})
    _levels = ("initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum")

    def __init__(
        self,
        optimizer: Any,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
        verbose: bool | str = False,
        *,
        past_end: Literal["raise", "clamp"] = "raise",
    ) -> None:
        check_optimizer(self, optimizer)
        check_past_end(self, past_end, ("raise", "clamp"))
        self.total_steps = _total_steps(total_steps, epochs, steps_per_epoch)
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                "anneal_strategy must be one of 'cos' or 'linear', instead got "
                f"{anneal_strategy!r} (OneCycleLR)"
            )
        if not 0 <= pct_start <= 1:
            raise ValueError(
                f"Expected float between 0 and 1 pct_start, but got {pct_start} "
                "(OneCycleLR)"
            )
        above(0)("OneCycleLR", "div_factor", div_factor)
        above(0)("OneCycleLR", "final_div_factor", final_div_factor)
        self.pct_start = pct_start
        self._anneal_func_type = anneal_strategy
        self.three_phase = three_phase
        self.past_end = past_end
        self.cycle_momentum = cycle_momentum
        groups = optimizer.param_groups
        peaks = for_groups("OneCycleLR", "max_lr", max_lr, groups)
        starts = [peak / div_factor for peak in peaks]
        levels = {
            "initial_lr": starts,
            "max_lr": peaks,
            "min_lr": [start / final_div_factor for start in starts],
        }
        if cycle_momentum:
            self._choose_momentum(optimizer)
            for name, value in (
                ("max_momentum", max_momentum),
                ("base_momentum", base_momentum),
            ):
                levels[name] = for_groups("OneCycleLR", name, value, groups)
        with restored_on_error(groups, self._levels):
            for key, values in levels.items():
                for group, value in zip(groups, values, strict=True):
                    group[key] = value if last_epoch == -1 else group.get(key, value)
            self._begin(optimizer, last_epoch, verbose)

    def value_at(self, step: int) -> list[Rate]:
        """The learning rates at a step, one a group; nothing is changed."""
        if self.past_end == "raise" and step > self.total_steps:
            raise ValueError(
                f"Tried to step {step} times. The specified number of total steps is "
                f"{self.total_steps}: build OneCycleLR longer, or with past_end='clamp'"
            )
        between = partial(self.schedule.between, step)
        return self._across(between, "initial_lr", "max_lr", "min_lr")

    def _momenta(self) -> list[Rate]:
        between, step = self.schedule.between, max(self.last_epoch, 0)

        def momentum(high: Rate, low: Rate) -> Rate:
            return between(step, high, low, high)

        return self._across(momentum, "max_momentum", "base_momentum")

    def _across(self, formula: Callable[..., Rate], *keys: str) -> list[Rate]:
        groups = self.optimizer.param_groups
        return across(formula, *([group[key] for group in groups] for key in keys))

    def _regroup(self, groups: list[Group], origins: list[int | None]) -> None:
        self._share_levels(groups)
        super()._regroup(groups, origins)

    def _share_levels(self, groups: list[Group]) -> None:
        """Give a new group the levels that the others share."""
        for group in groups:
            for key in self._levels[: 5 if self.cycle_momentum else 3]:
                if key not in group:
                    others = [g[key] for g in groups if key in g]
                    group[key] = self._new_entry(key, others, group)

    def state_dict(self) -> StateDict:
        """Everything but the optimizer: progress, arguments, and the groups' levels."""
        state = super().state_dict()
        state["_levels"] = [
            {key: kept(group[key]) for key in self._levels if key in group}
            for group in self.optimizer.param_groups
        ]
        return state

    def _restore(self, state: StateDict, hyperparams: Hyperparams) -> None:
        levels = state.pop("_levels", ())
        groups = self.optimizer.param_groups
        if hyperparams == "checkpoint":
            for group, saved in zip(groups, levels, strict=False):
                group.update({key: kept(value) for key, value in saved.items()})
        self._share_levels(groups)
        super()._restore(state, hyperparams)

    def _taking_back(self) -> AbstractContextManager[None]:
        return restored_on_error(self.optimizer.param_groups, self._levels)


def _total_steps(
    total_steps: int | None, epochs: int | None, steps_per_epoch: int | None
) -> int:
    if total_steps is None and (epochs is None or steps_per_epoch is None):
        raise ValueError(
            "You must define either total_steps OR (epochs AND steps_per_epoch): "
            "OneCycleLR must know where it ends"
        )
    given = {
        "total_steps": total_steps,
        "epochs": epochs if total_steps is None else None,
        "steps_per_epoch": steps_per_epoch if total_steps is None else None,
    }
    for name, value in given.items():
        if value is not None and (not isinstance(value, int) or value <= 0):
            raise ValueError(
                f"Expected positive integer {name}, but got {value} (OneCycleLR)"
            )
    return math.prod(value for value in given.values() if value is not None)
