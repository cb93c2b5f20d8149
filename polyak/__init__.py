"""polyak: ``torch.optim``, rebuilt.

Optimizers for PyTorch whose update rules are written once, as plain tensor maths, and
fused into one native kernel. Replace ``import torch.optim as optim`` by
``import polyak as optim``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import optim as _optim
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from . import lr_scheduler, schedules, swa_utils
from .checkpoint import LoadReport
from .conversion import convert_state
from .engine.graph import RuleError
from .engine.leaves import leaf
from .explain import Explanation, explain
from .grouping import ParamGroups, param_groups
from .groups import allow_group_keys
from .lr_scheduler import Scheduler
from .mixed import Mixed
from .optimizer import Optimizer, required
from .optimizers import all_optimizers
from .pictures import plot
from .saving import load, save
from .slot import Slot
from .stages import Stages
from .summary import Summary, summary
from .terms import ema, lerp, where

__version__ = "0.1.0"

globals().update(all_optimizers())

# What torch has from 2.13 on, and works on these optimizers as it is.
_torchs = [n for n in ("swap_in_optimizer_params_and_state",) if hasattr(_optim, n)]
globals().update({name: getattr(_optim, name) for name in _torchs})

__all__ = [
    "Explanation",
    "LoadReport",
    "Mixed",
    "Optimizer",
    "ParamGroups",
    "RuleError",
    "Scheduler",
    "Slot",
    "Stages",
    "Summary",
    "allow_group_keys",
    "convert_state",
    "ema",
    "explain",
    "functional",
    "leaf",
    "lerp",
    "load",
    "lr_scheduler",
    "param_groups",
    "plot",
    "register_optimizer_step_post_hook",
    "register_optimizer_step_pre_hook",
    "required",
    "save",
    "schedules",
    "summary",
    "swa_utils",
    "where",
    *_torchs,
    *all_optimizers(),
]


def __getattr__(name: str) -> Any:
    # Type checkers take this to mean that the optimizers found above may be imported.
    if name == "functional":  # making its functions takes as long as all the rest
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module 'polyak' has no attribute {name!r}")
