"""polyak: ``torch.optim``, rebuilt.

Optimizers for PyTorch whose update rules are written once, as plain tensor maths, and
fused into one native kernel. Replace ``import torch.optim as optim`` by
``import polyak as optim``.
"""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from . import lr_scheduler, schedules, swa_utils
from .engine.graph import RuleError
from .engine.trace import leaf
from .explain import Explanation, explain
from .groups import allow_group_keys
from .lr_scheduler import Scheduler
from .optimizer import Optimizer, required
from .optimizers import all_optimizers
from .pictures import plot
from .slot import Slot
from .stages import Stages
from .terms import ema, lerp

__version__ = "0.1.0"

globals().update(all_optimizers())

__all__ = [
    "Explanation",
    "Optimizer",
    "RuleError",
    "Scheduler",
    "Slot",
    "Stages",
    "allow_group_keys",
    "ema",
    "explain",
    "leaf",
    "lerp",
    "lr_scheduler",
    "plot",
    "register_optimizer_step_post_hook",
    "register_optimizer_step_pre_hook",
    "required",
    "schedules",
    "swa_utils",
    *all_optimizers(),
]


def __getattr__(name: str) -> Any:
    # Type checkers take this to mean that the optimizers found above may be imported.
    raise AttributeError(f"module 'polyak' has no attribute {name!r}")
