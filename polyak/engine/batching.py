"""A function called once for a stack of tensors, under :func:`torch.vmap`.

It sees one part of the stack, so that a norm is the norm of that part. vmap does not
know every operation; nobody who writes a leaf has asked for it, and so nobody is to
hear of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch

__all__ = ["batched"]

_warn_of_loops = torch._C._functorch._set_vmap_fallback_warning_enabled  # type: ignore[attr-defined]

# What stands for functions that vmap cannot serve.
_refused: WeakSet[Any] = WeakSet()


def batched(owner: Any, function: Callable[..., Any], *stacks: Any) -> Any:
    """What a function makes of the parts of stacks; None where vmap refuses.

    The errors of vmap have no type of their own: a RuntimeError of the function is
    taken for one, and the caller, who goes on one by one, will see it again.

    Args:
        owner: stands for the function, which is not tried again once it was refused.
        function: takes a part of each stack, and writes to nothing else.
        stacks: tensors, or what holds them, with one more dimension, the first.
    """
    if owner in _refused:
        return None
    try:
        with _no_warning_of_loops():
            return torch.vmap(function)(*stacks)
    except RuntimeError:
        _refused.add(owner)
        return None


@contextmanager
def _no_warning_of_loops() -> Iterator[None]:
    """Torch warns where it has no batching rule for an operation, and loops."""
    _warn_of_loops(False)
    try:
        yield
    finally:
        _warn_of_loops(True)
