"""Who won: the laps of each contender over all seeds, best first."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from statistics import fmean

from .contender import Contender
from .lap import Lap
from .task import Score


@dataclass(frozen=True)
class Standing:
    """A contender's laps, one a seed, and their means; ``None``: no lap has a value."""

    contender: Contender
    laps: tuple[Lap, ...]
    place: int | None = None
    """Its place among the optimizers, if this is the best rate of its optimizer."""

    @property
    def diverged(self) -> bool:
        """Whether the lap of any seed diverged."""
        return any(lap.diverged for lap in self.laps)

    @property
    def scores(self) -> list[Score]:
        """The best score of every lap that was evaluated."""
        return [lap.best for lap in self.laps if lap.best]

    @property
    def accuracy(self) -> float | None:
        """The best test accuracy."""
        return _mean(score.accuracy for score in self.scores)

    @property
    def loss(self) -> float | None:
        """The test loss where the accuracy was best."""
        return _mean(score.loss for score in self.scores)

    @property
    def step_seconds(self) -> float | None:
        """The median time of a step."""
        return _mean(lap.step_seconds for lap in self.laps)

    @property
    def optimizer_seconds(self) -> float | None:
        """The median time of a step that is the optimizer's own."""
        return _mean(lap.optimizer_seconds for lap in self.laps)

    @property
    def state_bytes(self) -> int:
        """The largest state; L-BFGS's is not the same after every lap."""
        return max(lap.state_bytes for lap in self.laps)

    def steps_to(self, accuracy: float) -> float | None:
        """The steps to a test accuracy, if every seed reached it."""
        steps = [lap.steps_to(accuracy) for lap in self.laps]
        return None if None in steps else _mean(steps)


def rank(laps: Iterable[Lap]) -> list[Standing]:
    """Sort by accuracy, then by loss, those that diverged last; give the places."""
    groups: dict[tuple[str, float], list[Lap]] = {}
    for lap in laps:
        groups.setdefault((lap.contender.name, lap.contender.lr), []).append(lap)
    rows = [Standing(group[0].contender, tuple(group)) for group in groups.values()]
    return _with_places(sorted(rows, key=_merit))


def podium(rows: Iterable[Standing]) -> list[Standing]:
    """Each optimizer at its best rate, the winner first."""
    return [row for row in rows if row.place is not None]


def _merit(row: Standing) -> tuple[bool, float, float]:
    accuracy = -inf if row.accuracy is None else row.accuracy
    return row.diverged, -accuracy, inf if row.loss is None else row.loss


def _with_places(rows: Sequence[Standing]) -> list[Standing]:
    placed: set[str] = set()
    result = []
    for row in rows:
        name = row.contender.name
        if not row.diverged and name not in placed:
            placed.add(name)
            row = replace(row, place=len(placed))
        result.append(row)
    return result


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present else None
