"""Leaves: functions of tensors that a rule calls and that no engine looks into."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from .stands import Symbol, flat, mapped

__all__ = ["leaf"]


def leaf(
    function: Callable[..., Any] | None = None, *, batched: bool = False
) -> Callable[..., Any]:
    """Mark a tensor function as opaque: a rule may call it, and it is not looked into.

    Use it for what is neither elementwise nor a sum or mean (a matrix product, a
    sorting). What a rule computes before and after its leaves is fused still.
    Parameters of one shape go through a leaf together, by :func:`torch.vmap`. On a GPU
    it runs on the current stream: one that waits for the device makes the step wait. In
    a step that the device leaves out it is given zeros.

    Args:
        function: takes tensors of a parameter's shape, numbers, and what else a rule
            has, also within lists, tuples and dicts, and writes to none of them. It
            gives a tensor, which broadcasts to that shape or goes to another leaf.
        batched: it takes and gives tensors with a dimension more, the first, along
            which there is one parameter after another. It spares it the cost of vmap.

    >>> @leaf
    ... def gram(x):
    ...     return x @ x.mT
    """
    if function is None:
        return functools.partial(leaf, batched=batched)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for argument in flat((args, kwargs)):
            if isinstance(argument, Symbol):
                return argument.tracer.leaf(function, args, kwargs, batched)
        if not batched:
            return function(*args, **kwargs)
        args, kwargs = mapped((args, kwargs), _alone)
        return function(*args, **kwargs).squeeze(0)

    return call


def _alone(value: Any) -> Any:
    return value.unsqueeze(0) if isinstance(value, Tensor) else value
