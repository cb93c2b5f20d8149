"""The base of learning-rate schedulers, as those of users derive from it."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from operator import is_
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..schedules._checks import whole
from ..slot import Group
from .attachment import attach, check_optimizer, steps_done, warn_if_early
from .rates import Rate, base_rates, copied, like, put, read, restored_on_error

__all__ = ["EPOCH_DEPRECATION_WARNING", "LRScheduler", "_LRScheduler"]

EPOCH_DEPRECATION_WARNING = (
    "The epoch parameter in `scheduler.step()` was not necessary and is being "
    "deprecated where possible. Please use `scheduler.step()` to step the scheduler. "
    "With an epoch, the scheduler goes there by its closed form, where it has one."
)
"""What ``step(epoch)`` warns with; torch has it by this name too."""

StateDict = dict[str, Any]
Hyperparams = Literal["checkpoint", "current"]


class LRScheduler(torch.optim.lr_scheduler.LRScheduler):
    """The base of every learning-rate scheduler.

    A scheduler of your own overrides :meth:`get_lr`, which reads ``last_epoch``,
    ``base_lrs`` and, if it is chainable, the rates that the groups have now. With
    ``_get_closed_form_lr`` besides, it can be built at any epoch. A schedule that is a
    function of the step needs no class: see :mod:`polyak.schedules` and
    :class:`polyak.lr_scheduler.Scheduler`.

    Args:
        optimizer: any :class:`torch.optim.Optimizer`.
        last_epoch: the last epoch that was done; the scheduler stands at the one after
            it. -1 begins.
        verbose: print each rate that is set, as torch did until 2.6.

    Attributes:
        last_epoch: where the scheduler stands.
        base_lrs: what each group's schedule starts from: its ``initial_lr``.
        follows_optimizer: whether a :meth:`step` is passed over that no step of the
            optimizer came before, as when a loss scaler has found an overflow. Where a
            device decides that by itself, :meth:`step` waits for it.
        config: the attributes that are arguments, not progress: what
            ``load_state_dict(..., hyperparams="current")`` keeps.

    Raises:
        TypeError: not an optimizer.

    >>> class Halving(LRScheduler):
    ...     def get_lr(self):
    ...         return [base / 2**self.last_epoch for base in self.base_lrs]
    >>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=1.0)
    >>> scheduler = Halving(optimizer)
    >>> for _ in range(3):
    ...     optimizer.step()
    ...     scheduler.step()
    >>> scheduler.get_last_lr()
    [0.125]
    """

    config: ClassVar[Collection[str]] = ()
    follows_optimizer: bool = False

    # Lists with one entry a group, and what belongs to this process alone.
    _per_group: ClassVar[tuple[str, ...]] = ("base_lrs", "_last_lr")
    # Arguments that torch's state dicts lack.
    _not_torchs: ClassVar[frozenset[str]] = frozenset()
    _transient: ClassVar[frozenset[str]] = frozenset(
        {"optimizer", "_known_groups", "_steps_seen", "_grown"}
    )
    _grown: bool = False
    _get_lr_called_within_step: bool = False
    _is_initial: bool = False

    optimizer: Any
    last_epoch: int
    base_lrs: list[Rate]
    _last_lr: list[Rate]
    _step_count: int

    def __init__(
        self, optimizer: Any, last_epoch: int = -1, verbose: bool | str = False
    ) -> None:
        self._begin(optimizer, last_epoch, verbose)

    def _begin(
        self,
        optimizer: Any,
        last_epoch: int,
        verbose: bool | str,
        base_lrs: list[Rate] | None = None,
    ) -> None:
        """Attach to the optimizer and set the first rates, or change nothing."""
        check_optimizer(self, optimizer)
        whole(-1)(type(self).__name__, "last_epoch", last_epoch)
        groups = optimizer.param_groups
        if base_lrs is None:
            base_lrs = base_rates(groups)
        self.optimizer = optimizer
        self.verbose = verbose is True
        self._get_lr_called_within_step = False
        self._is_initial = False
        self.last_epoch = last_epoch
        self.base_lrs = copied(base_lrs)
        self._last_lr = copied(read(groups))
        self._known_groups = list(groups)
        self._steps_seen = steps_done(optimizer)
        with restored_on_error(groups, ["initial_lr"]):
            for group, base in zip(groups, base_lrs, strict=True):
                group.setdefault("initial_lr", like(group["lr"], base))
            self._initial_step()
        attach(self, optimizer)

    def _initial_step(self) -> None:
        """Set the rates of the epoch after ``last_epoch``."""
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    # The step

    def step(self, epoch: int | None = None) -> None:
        """Go to the next epoch, and set the rates of the groups.

        Call it after the optimizer's step. A call that fails changes nothing.

        Args:
            epoch: deprecated: the epoch to go to, by the closed form if there is one.
        """
        self._take_step(epoch)

    def _take_step(
        self, epoch: Any = None, metrics: Any = None, *, deprecated: bool = True
    ) -> None:
        kept = self._snapshot()
        try:
            if self._waits():
                return
            if self._step_count == 1:
                self._warn_if_early()
            if epoch is not None and deprecated:
                warnings.warn(EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=3)
            self._step_count += 1
            self._update_lr(epoch, metrics)
        except BaseException:
            self._revert(kept)
            raise

    def _warn_if_early(self) -> None:
        warn_if_early(self.optimizer, stacklevel=4)

    def _waits(self) -> bool:
        if not self.follows_optimizer or self._is_initial:
            return False
        done, seen = steps_done(self.optimizer), self._steps_seen
        self._steps_seen = done
        return done is not None and done == seen

    def _update_lr(self, epoch: Any = None, metrics: Any = None) -> None:
        groups = self._follow_groups()
        self._go(epoch, metrics)
        resumed = self._is_initial and self.last_epoch > 0
        formula = getattr(self, "_get_closed_form_lr", None)
        if formula is None or (epoch is None and not resumed):
            formula = self.get_lr
        self._get_lr_called_within_step = True
        try:
            rates = formula()
        finally:
            self._get_lr_called_within_step = False
        if len(rates) != len(groups):
            raise ValueError(
                f"{type(self).__name__}.get_lr returned {len(rates)} rates for "
                f"{len(groups)} parameter groups: return one a group"
            )
        self._write(groups, rates)

    def _go(self, epoch: Any, metrics: Any) -> None:
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch

    def _write(self, groups: list[Group], rates: list[Rate]) -> None:
        for index, (group, rate) in enumerate(zip(groups, rates, strict=True)):
            put(group, "lr", rate)
            if self.verbose:
                self.print_lr(True, index, rate)
        self._last_lr = copied(read(groups))
        self._write_rest(groups)
        self._mark_new(groups)

    def _write_rest(self, groups: list[Group]) -> None:
        """Set whatever else than the rates is scheduled."""
        return

    def get_lr(self) -> list[Rate]:
        """The rates of ``last_epoch``, one a group: what a subclass computes.

        For the rates that were last set, ask :meth:`get_last_lr`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define get_lr(self), which returns one "
            "learning rate a parameter group"
        )

    def get_last_lr(self) -> list[Rate]:
        """The rates that the last step set, one a group; tensors are copies."""
        return list(self._last_lr)

    def print_lr(
        self, is_verbose: bool, group: int, lr: Rate, epoch: int | None = None
    ) -> None:
        """Print the rate of a group, if ``is_verbose``."""
        if is_verbose:
            when = "Adjusting" if epoch is None else f"Epoch {epoch:5d}: adjusting"
            print(f"{when} learning rate of group {group} to {float(lr):.4e}.")

    # Groups that come and go

    def _follow_groups(self, *, alone: bool = True) -> list[Group]:
        """The optimizer's groups, the scheduler's lists brought into their order.

        Args:
            alone: whether it, and no scheduler that it is part of, sets the rates.
        """
        groups: list[Group] = self.optimizer.param_groups
        known = self._known_groups
        if len(groups) == len(known) and all(map(is_, groups, known)):
            return groups
        origins = self._origins()
        self._regroup(groups, origins)
        self._known_groups = list(groups)
        self._grown = True
        if alone:
            self._settle([i for i, origin in enumerate(origins) if origin is None])
        return groups

    def _origins(self) -> list[int | None]:
        """Where each group was when the scheduler last looked; None: nowhere."""
        groups, known = self.optimizer.param_groups, self._known_groups
        places = {id(group): index for index, group in enumerate(known)}
        origins = [places.get(id(group)) for group in groups]
        # Loading a state dict of torch's optimizers replaces every group.
        replaced = len(groups) == len(known) and set(origins) == {None}
        return list(range(len(groups))) if replaced else origins

    def _settle(self, new: list[int]) -> None:
        """Make the groups that came in mid-run begin where they are."""

    def _mark_new(self, groups: list[Group]) -> None:
        """Give groups that came in mid-run their base rate, once all is well."""
        if self._grown:
            for group, base in zip(groups, self.base_lrs, strict=True):
                group.setdefault("initial_lr", like(group["lr"], base))
            self._grown = False

    def _regroup(self, groups: list[Group], origins: list[int | None]) -> None:
        for name in self._per_group:
            values = getattr(self, name)
            if values is None or origins == list(range(len(values))):
                continue
            given = len(values) == len(groups) > len(self._known_groups)
            if not given:  # the user has not added an entry for the new group himself
                values = [
                    self._new_entry(name, values, group)
                    if origin is None or origin >= len(values)
                    else values[origin]
                    for group, origin in zip(groups, origins, strict=True)
                ]
                setattr(self, name, values)

    def _new_entry(self, name: str, values: list[Any], group: Group) -> Any:
        """What a list has for a group that came in mid-run."""
        if name == "base_lrs":
            return base_rates([group])[0]
        if name == "_last_lr":
            return copied([group["lr"]])[0]
        if values and all(value == values[0] for value in values):
            return values[0]
        raise ValueError(
            f"{type(self).__name__} has {len(values)} {name}, which differ, and the "
            f"optimizer has {len(self.optimizer.param_groups)} groups: append one for "
            f"the new group to scheduler.{name}"
        )

    # State

    def state_dict(self) -> StateDict:
        """Everything but the optimizer: progress, arguments, and the groups' rates."""
        before = self._snapshot()
        try:
            self._follow_groups()
        except ValueError:  # a new group lacks what is its own: the next step tells
            self._revert(before)
        state = {k: kept(v) for k, v in vars(self).items() if k not in self._transient}
        state["_group_lrs"] = copied(read(self.optimizer.param_groups))
        state["_class"] = self._kind()
        return state

    def _kind(self) -> str:
        """The name of the class of polyak's that the scheduler is of."""
        classes = type(self).__mro__
        return next(c.__name__ for c in classes if c.__module__.startswith("polyak."))

    def load_state_dict(
        self, state_dict: StateDict, *, hyperparams: Hyperparams = "checkpoint"
    ) -> None:
        """Load a state dict of this class or of torch's, or change nothing.

        The rates of the checkpoint are set in the groups: it does not matter whether
        the optimizer is loaded before or after, or was loaded before the scheduler was
        built.

        Args:
            state_dict: what :meth:`state_dict` returned.
            hyperparams: ``"checkpoint"`` restores the scheduler's arguments too, and
                warns where they differ; ``"current"`` keeps those of this run, such as
                a longer ``T_max``, and continues at the checkpoint's epoch. Then load
                the optimizer first.

        Raises:
            ValueError: the state of another class, or of more groups than there are.
        """
        if hyperparams not in ("checkpoint", "current"):
            raise ValueError(
                f"hyperparams must be 'checkpoint' or 'current', got {hyperparams!r}"
            )
        before = self._snapshot()
        groups = self.optimizer.param_groups
        try:
            with self._taking_back():
                state = dict(state_dict)
                saved = state.pop("_group_lrs", None)
                self._restore(state, hyperparams)
                rates = self._rates_to_load(saved, hyperparams)
        except BaseException:
            self._revert(before)
            raise
        for group, rate in zip(groups, rates, strict=True):
            put(group, "lr", rate)
        self._write_rest(groups)
        self._mark_new(groups)
        self._steps_seen = steps_done(self.optimizer)

    def _taking_back(self) -> AbstractContextManager[None]:
        """Undo what a load changes outside the scheduler, where the body raises."""
        return nullcontext()

    def _restore(self, state: StateDict, hyperparams: Hyperparams) -> None:
        owner = type(self).__name__
        kind = state.pop("_class", self._kind())
        if kind != self._kind():
            raise ValueError(
                f"the state dict is of a {kind}, and this is a {owner}: give it the "
                "state of its own kind. Nothing was loaded."
            )
        needed = {*self.config, "last_epoch"} - self._not_torchs
        missing = sorted(needed - state.keys())
        if missing:
            raise ValueError(
                f"the state dict lacks {', '.join(missing)}, which {owner} saves: is "
                "it of another scheduler? Nothing was loaded."
            )
        groups = self.optimizer.param_groups
        for name in self._per_group:
            if len(state.get(name) or ()) > len(groups):
                raise ValueError(
                    f"the state dict has {name} of {len(state[name])} parameter "
                    f"groups, and the optimizer of this {owner} has {len(groups)}: add "
                    "the missing groups before loading. Nothing was loaded."
                )
        if hyperparams == "current":
            state = {
                k: v for k, v in state.items() if k not in (*self.config, "base_lrs")
            }
        for name in self.config:
            if name in state and self._differs(name, state[name]):
                warnings.warn(
                    f"{owner}: the checkpoint's {name}={state[name]!r} replaces this "
                    f"run's {getattr(self, name)!r}. To keep this run's, call "
                    "load_state_dict(state, hyperparams='current').",
                    UserWarning,
                    stacklevel=3,
                )
        vars(self).update({k: kept(v) for k, v in state.items()})
        self._known_groups = groups[: len(state.get("_last_lr", groups))]

    def _differs(self, name: str, saved: Any) -> bool:
        """Whether an argument is another than the saved one, in the groups of both."""
        own = getattr(self, name)
        if name in self._per_group:
            return bool(own[: len(saved)] != saved[: len(own)])
        return bool(own != saved)

    def _rates_to_load(
        self, saved: list[Rate] | None, hyperparams: Hyperparams
    ) -> list[Rate]:
        rates = self._last_lr if saved is None else copied(saved)
        groups = self._follow_groups()
        return [*rates, *read(groups[len(rates) :])]

    # What a failed call takes back

    def _snapshot(self) -> Any:
        return dict(vars(self))

    def _revert(self, kept: Any) -> None:
        vars(self).clear()
        vars(self).update(kept)

    # Copies

    def __getstate__(self) -> StateDict:
        state = dict(vars(self))
        done = steps_done(self.optimizer)
        state["_steps_seen"] = (done or 0) - (self._steps_seen or 0)
        return state

    def __setstate__(self, state: StateDict) -> None:
        vars(self).update(state)
        attach(self, self.optimizer)
        done = steps_done(self.optimizer)
        self._steps_seen = None if done is None else done - state["_steps_seen"]


class _LRScheduler(LRScheduler, torch.optim.lr_scheduler._LRScheduler):
    """The name that :class:`LRScheduler` had before torch 2.0."""


def kept(value: Any) -> Any:
    """A value as a state dict has it: lists are copies, their tensors too."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, list):
        return copied(value)
    return value.copy() if isinstance(value, dict) else value
