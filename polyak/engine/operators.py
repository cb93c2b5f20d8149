"""The operators of a rule: a few that every engine must know, the rest made of those.

An engine translates the *core* operators, two dozen, each a function on tensors, and
two reductions. Every other operation is rewritten while the rule is read, in terms of
these: a new engine needs no more, and a new operation is one line here.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch

from ..extent import Extent
from .stands import Symbol, epsilon

__all__ = [
    "CORE",
    "MASKS",
    "OF_TENSORS",
    "POWERS",
    "REDUCTIONS",
    "REWRITES",
    "operator_name",
    "reduced",
]

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
    "copysign": torch.copysign,
    "epsilon": epsilon,
}

REDUCTIONS: dict[str, Callable[..., Any]] = {"sum": torch.sum, "mean": torch.mean}

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
    "linalg_vector_norm": "norm",
    "chosen": "where",
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
}


def _truth(x: Any) -> Any:
    return x if x.is_mask else x != 0


def _clamp(x: Any, min: Any = None, max: Any = None) -> Any:
    for bound, over, tighter in (
        (min, operator.lt, _maximum),
        (max, operator.gt, _minimum),
    ):
        if isinstance(bound, Symbol):
            x = tighter(x, bound)
        elif bound is not None:
            x = torch.where(over(x, bound), bound, x)
    return x


# Both give NaN where an operand is NaN, as torch's do.
def _maximum(x: Any, y: Any) -> Any:
    return torch.where((x > y) | (x != x), x, y)


def _minimum(x: Any, y: Any) -> Any:
    return torch.where((x < y) | (x != x), x, y)


def _lerp(x: Any, end: Any, weight: Any) -> Any:
    """From the nearer end, as torch does: exact for the weights 0 and 1."""
    small = abs(weight) < 0.5
    near, far = x + weight * (end - x), end - (1 - weight) * (end - x)
    if isinstance(weight, Symbol):
        return torch.where(small, near, far)
    return near if small else far


def _norm(
    x: Any, p: Any = 2, dim: Any = None, keepdim: bool = False, *, ord: Any = 2
) -> Any:
    for order in (p, ord):
        if order not in (2, "fro"):
            raise TypeError(f"the norm of order {order}")
    return torch.sqrt(torch.sum(x * x, dim=dim, keepdim=keepdim))


def reduced(
    x: Any, dim: Any = None, keepdim: bool = False, *, axis: Any = None
) -> tuple[Any, Extent]:
    """The operand of a sum or mean, and along what it then extends no more.

    Raises:
        TypeError: not how torch calls it.
        ValueError: dimensions that are not the last two, or that are dropped.
    """
    dim = axis if dim is None else dim
    dims = (dim,) if isinstance(dim, int) else dim
    if not dims:
        return x, Extent.NUMBER
    if not {*dims} <= {-1, -2}:
        raise ValueError(f"over dimension {dim}")
    if not keepdim:
        raise ValueError("without keepdim=True")
    places = {-1: Extent.COLUMNS, -2: Extent.ROWS}
    return x, functools.reduce(operator.or_, (places[place] for place in dims))


REWRITES: dict[str, Callable[..., Any]] = {
    "maximum": _maximum,
    "minimum": _minimum,
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
    "lerp": _lerp,
    "norm": _norm,
    "addcmul": lambda x, a, b, *, value=1: x + value * (a * b),
    "addcdiv": lambda x, a, b, *, value=1: x + value * (a / b),
    "clamp": _clamp,
    "clamp_min": lambda x, min: _clamp(x, min=min),
    "clamp_max": lambda x, max: _clamp(x, max=max),
}


# Powers that torch computes otherwise than by pow.
POWERS: dict[float, Callable[[Any], Any]] = {
    0.5: torch.sqrt,
    -0.5: lambda x: 1 / torch.sqrt(x),
    2: lambda x: x * x,
    3: lambda x: x * x * x,
    -1: lambda x: 1 / x,
    -2: lambda x: 1 / (x * x),
}


def operator_name(target: Callable[..., Any] | str) -> str:
    """One name for ``operator.mul``, ``torch.mul``, ``x.mul`` and ``x * y``."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "?")
    return _SAME.get(name, name)
