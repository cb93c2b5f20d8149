"""Learning-rate schedulers: torch's classes, and :class:`Scheduler` for any schedule.

The names, arguments, warnings and errors are those of :mod:`torch.optim.lr_scheduler`,
of whose classes these are subclasses; they drive any :class:`torch.optim.Optimizer`.
But each is a function of the step: ``scheduler.value_at(k)`` tells the rates of any
step, loading works in any order, and a run that was resumed has the rates of one that
was not, bit for bit.

A rate that the user or another scheduler has set is respected by those schedulers that
torch calls chainable: from there on they move it in proportion. An argument that is
changed in a scheduler (``scheduler.gamma = 0.5``) counts from the beginning, as if it
had been built with it.

>>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
>>> scheduler = StepLR(optimizer, step_size=2, gamma=0.5)
>>> [scheduler.value_at(k)[0] for k in range(5)]
[0.1, 0.1, 0.05, 0.05, 0.025]
"""

from .attachment import drivers
from .compose import ChainedScheduler, SequentialLR
from .cosine import CosineAnnealingLR, CosineAnnealingWarmRestarts
from .cycles import CyclicLR, OneCycleLR
from .decays import (
    ConstantLR,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from .functions import LambdaLR, MultiplicativeLR
from .hyperparameters import Scheduler
from .plateau import ReduceLROnPlateau
from .scheduler import EPOCH_DEPRECATION_WARNING, LRScheduler, _LRScheduler

__all__ = [
    "EPOCH_DEPRECATION_WARNING",
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "Scheduler",
    "SequentialLR",
    "StepLR",
    "_LRScheduler",
    "drivers",
]
