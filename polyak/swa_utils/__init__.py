"""Averages of weights: SWA, EMA and LAWA, in one pass.

The names of :mod:`torch.optim.swa_utils`, of whose classes these are subclasses; and
:class:`WeightAverage` and :class:`LatestWeightAverage`, which need no copy of the
model.
"""

from .averaged_model import AveragedModel
from .batch_norm import update_bn
from .functions import (
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
)
from .swalr import SWALR
from .weights import LatestWeightAverage, WeightAverage

__all__ = [
    "SWALR",
    "AveragedModel",
    "LatestWeightAverage",
    "WeightAverage",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]
