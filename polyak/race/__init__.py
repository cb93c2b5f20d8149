"""Races of optimizers: who trains a real network best, and at what rate."""

from .contender import Contender, lineup
from .errors import RaceError
from .lap import Evaluation, Lap
from .run import Results, race
from .standings import Standing, podium, rank
from .task import Score, Task, classification, load_task

__all__ = [
    "Contender",
    "Evaluation",
    "Lap",
    "RaceError",
    "Results",
    "Score",
    "Standing",
    "Task",
    "classification",
    "lineup",
    "load_task",
    "podium",
    "race",
    "rank",
]
