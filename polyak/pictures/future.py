"""What hyperparameters will be, found without changing what they depend on.

A pure schedule is evaluated; a copy of a scheduler is driven (:mod:`.rehearsal`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..lr_scheduler import Scheduler, drivers
from ..schedules import Schedule, absolute
from .rehearsal import family, rehearse, unseen

__all__ = ["Curve", "Future", "future"]

MOST = 1_000_000  # steps of a pure schedule; of a longer one, each n-th


@dataclass(frozen=True)
class Curve:
    """The values of one hyperparameter, in the groups in which they are the same."""

    label: str
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Future:
    """What each group's hyperparameters will be.

    Attributes:
        title: what drives them.
        steps: the numbers of the steps.
        values: for every hyperparameter that changes, and ``lr`` always: an array of
            shape (steps, groups), NaN in a group that has it not.
    """

    title: str
    steps: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float64]]

    def curves(self, name: str) -> list[Curve]:
        """A hyperparameter's different curves, labelled if there are several groups."""
        columns = self.values[name].T
        alike: dict[bytes, list[int]] = {}
        for index, column in enumerate(columns):
            if not np.isnan(column).all():
                alike.setdefault(column.tobytes(), []).append(index)
        alone = len(columns) == 1
        return [
            Curve("" if alone else _groups(indices), columns[indices[0]])
            for indices in alike.values()
        ]


def future(what: Any, steps: int | None = None, *, lr: float | None = None) -> Future:
    """What the hyperparameters will be in the next steps.

    Args:
        what: a schedule; a scheduler, polyak's, torch's or one of your own; a list of
            schedulers that step together; or an optimizer that polyak's schedulers
            drive. A :class:`~torch.optim.lr_scheduler.ReduceLROnPlateau` is taken never
            to reduce.
        steps: how many, from where the schedulers stand; by default until the schedule
            has arrived.
        lr: the rate that a schedule is a factor of.

    Returns:
        The values. Nothing has changed, neither the schedulers nor the optimizer, its
        parameters or the state of random generators.

    Raises:
        TypeError: none of these.
        ValueError: no steps for a schedule that never ends, an optimizer that no
            scheduler of polyak's drives, schedulers of several optimizers.

    >>> from polyak.schedules import linear
    >>> future(linear(1, 0, steps=4), lr=2.0).values["lr"].ravel().tolist()
    [2.0, 1.5, 1.0, 0.5, 0.0]
    """
    if isinstance(what, Schedule):
        return _of_schedule(what, _count(steps, what.length, what), lr)
    schedulers = _schedulers(what)
    if lr is not None:
        raise ValueError(
            "lr is the base of a pure schedule; the groups of an optimizer have rates "
            "of their own: leave it out"
        )
    return _of_schedulers(schedulers, _count(steps, _steps_left(schedulers), what))


def _count(steps: int | None, length: int | None, what: Any) -> int:
    if steps is None and length is None:
        raise ValueError(
            f"{_name(what)} does not say when it ends: give the number of steps to draw"
        )
    # The step after the last is where the curve arrives.
    count = (length or 0) + 1 if steps is None else steps
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"Invalid steps: {count!r} (a whole number >= 1 is due)")
    return count


# Of a schedule


def _of_schedule(schedule: Schedule, steps: int, lr: float | None) -> Future:
    if isinstance(schedule, absolute) and lr is not None:
        raise ValueError(
            f"{schedule!r} gives the values themselves, of which lr={lr:g} is no base: "
            "leave lr out"
        )
    numbers = np.arange(0, steps, -(-steps // MOST))
    with unseen():
        values = np.asarray(schedule.value_at(numbers), dtype=np.float64)
    name = "factor" if lr is None else "lr"
    if isinstance(schedule, absolute):
        name = "value"
    return Future(
        repr(schedule), numbers, {name: (1 if lr is None else lr) * values[:, None]}
    )


# Of schedulers


def _schedulers(what: Any) -> list[Any]:
    """The schedulers that were given, all of one optimizer."""
    if isinstance(what, torch.optim.Optimizer):
        found = drivers(what)
        if not found:
            raise ValueError(
                f"no scheduler of polyak's drives this {type(what).__name__}: pass the "
                "schedulers, as in polyak.plot([warmup, cosine], steps=1000)"
            )
        return list(found)
    given = list(what) if isinstance(what, Sequence) else [what]
    if not given:
        raise ValueError("polyak.plot got an empty list: there is no scheduler in it")
    for scheduler in given:
        if not (hasattr(scheduler, "optimizer") and hasattr(scheduler, "step")):
            raise TypeError(
                "polyak.plot takes a schedule, a scheduler, a list of schedulers or an "
                f"optimizer, got {scheduler!r} of type {type(scheduler).__name__}"
            )
    if len({id(scheduler.optimizer) for scheduler in given}) != 1:
        raise ValueError(
            "schedulers are drawn together if they drive one optimizer, and these "
            f"drive {len({id(s.optimizer) for s in given})}: draw them one by one"
        )
    return given


def _steps_left(schedulers: Sequence[Any]) -> int | None:
    """How many steps it takes until all stand still, where all of them can tell."""
    left: list[int] = []
    for scheduler in schedulers:
        for schedule in _schedules(scheduler):
            if schedule is None or schedule.length is None:
                return None
            left.append(max(schedule.length - scheduler.last_epoch, 0))
    return max(left, default=0)


def _schedules(scheduler: Any) -> list[Schedule | None]:
    """The schedules that a scheduler follows; None for what is none."""
    if not isinstance(scheduler, Scheduler):
        return [getattr(scheduler, "schedule", None)]
    given = scheduler.schedules.values()
    parts = [part if isinstance(part, tuple) else (part,) for part in given]
    return [schedule for part in parts for schedule in part if schedule is not None]


def _of_schedulers(schedulers: Sequence[Any], steps: int) -> Future:
    title = " and ".join(_name(scheduler) for scheduler in schedulers)
    # torch's ChainedScheduler leaves counting to its members.
    epochs = [getattr(member, "last_epoch", 0) for member in family(schedulers)]
    first = max(0, *epochs)
    with unseen():
        values = rehearse(schedulers, steps)
    shown = {
        name: column
        for name, column in sorted(values.items(), key=lambda item: item[0] != "lr")
        if name == "lr" or not np.array_equal(column[1:], column[:-1], equal_nan=True)
    }
    return Future(title, np.arange(first, first + steps), shown)


# Names


def _name(what: Any) -> str:
    if isinstance(what, Schedule):
        return repr(what)
    if not isinstance(what, Scheduler):
        return type(what).__name__
    return ", ".join(f"{name}: {value!r}" for name, value in what.schedules.items())


def _groups(indices: Sequence[int]) -> str:
    """``groups 0-3, 7``: indices in order, runs of them drawn together."""
    breaks = [i for i, (a, b) in enumerate(pairwise(indices), 1) if b != a + 1]
    runs = [indices[a:b] for a, b in pairwise([0, *breaks, len(indices)])]
    text = ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)
    return f"group{'s' if len(indices) > 1 else ''} {text}"
