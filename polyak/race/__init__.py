"""Races of optimizers: who trains a real network best, and at what rate.

A task of your own is a function that returns one. With this in ``mine.py``, the command
is ``polyak race --task mine:wine``::

    from sklearn.datasets import load_wine
    from torch import nn

    from polyak.race import Task, classification


    def wine() -> Task:
        x, y = load_wine(return_X_y=True)
        x = (x - x.mean(0)) / x.std(0)
        return classification("wine", x, y, lambda: nn.Linear(13, 3))
"""

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
