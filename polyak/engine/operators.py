"""The operators of a rule: a few that every engine must know, the rest made of those.

An engine translates the *core* operators, two dozen, each a function on tensors. Every
other elementwise operation is rewritten while the rule is read, in terms of the core: a
new engine needs the core alone, and a new operation is one line here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["CORE", "MASKS", "OF_TENSORS", "REWRITES", "operator_name"]

CORE: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "pow": operator.pow,
    "neg": operator.neg,
    "abs": operator.abs,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "eq": operator.eq,
    "ne": operator.ne,
    "and": operator.and_,
    "or": operator.or_,
    "invert": operator.invert,
    "where": torch.where,
    "sqrt": torch.sqrt,
    "exp": torch.exp,
    "log": torch.log,
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "floor": torch.floor,
}

_SAME = {
    "truediv": "div",
    "divide": "div",
    "true_divide": "div",
    "multiply": "mul",
    "subtract": "sub",
    "negative": "neg",
    "absolute": "abs",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "not_equal": "ne",
    "clip": "clamp",
    "max": "maximum",
    "min": "minimum",
    "and_": "and",
    "or_": "or",
    "sgn": "sign",
}

# Those whose result is a truth value.
MASKS = frozenset({"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "invert"})

# Those that take tensors only: torch refuses numbers, or means a reduction by them.
OF_TENSORS = {
    "maximum": 2,
    "minimum": 2,
    "logical_and": 2,
    "logical_or": 2,
    "logical_not": 1,
    "hypot": 2,
}


def _truth(x: Any) -> Any:
    return x if x.is_mask else x != 0


def _clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    if min is not None:
        x = torch.where(x < min, min, x)
    return x if max is None else torch.where(x > max, max, x)


REWRITES: dict[str, Callable[..., Any]] = {
    # Both give NaN where an operand is NaN, as torch's do.
    "maximum": lambda x, y: torch.where((x > y) | (x != x), x, y),
    "minimum": lambda x, y: torch.where((x < y) | (x != x), x, y),
    "logical_and": lambda x, y: _truth(x) & _truth(y),
    "logical_or": lambda x, y: _truth(x) | _truth(y),
    "logical_not": lambda x: ~_truth(x),
    "from_mask": lambda x: torch.where(x, 1.0, 0.0),
    "square": lambda x: x * x,
    "reciprocal": lambda x: 1 / x,
    "rsqrt": lambda x: 1 / torch.sqrt(x),
    "sign": lambda x: torch.where(x > 0, 1.0, torch.where(x < 0, -1.0, 0.0)),
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "relu": lambda x: torch.where(x < 0, 0.0, x),
    "isnan": lambda x: x != x,
    "isinf": lambda x: abs(x) == float("inf"),
    "isfinite": lambda x: abs(x) < float("inf"),
    "copysign": lambda x, y: torch.where(y < 0, -abs(x), abs(x)),
    "hypot": lambda x, y: torch.sqrt(x * x + y * y),
    "lerp": lambda x, end, weight: x + weight * (end - x),
    "addcmul": lambda x, a, b, *, value=1: x + value * (a * b),
    "addcdiv": lambda x, a, b, *, value=1: x + value * (a / b),
    "clamp": _clamp,
    "clamp_min": lambda x, min: _clamp(x, min=min),
    "clamp_max": lambda x, max: _clamp(x, max=max),
}


def operator_name(target: Callable[..., Any] | str) -> str:
    """One name for ``operator.mul``, ``torch.mul``, ``x.mul`` and ``x * y``."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "?")
    return _SAME.get(name, name)
