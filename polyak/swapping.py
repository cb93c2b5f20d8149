"""Tensors that have other values for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["holding", "write"]


@contextmanager
def holding(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """Give tensors other values in this block, and their own back, whatever happens."""
    originals = [tensor.detach().clone() for tensor in tensors]
    try:
        write(tensors, values)
        yield
    finally:
        write(tensors, originals)


def write(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into tensors, unseen by autograd."""
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)
