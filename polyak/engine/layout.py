"""How a tensor lies in memory."""

from __future__ import annotations

from torch import Tensor

__all__ = ["dense", "memory", "same_layout", "span"]


def memory(tensor: Tensor) -> int:
    """The address of a tensor's storage; 0 where it has none of its own."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0


def span(tensor: Tensor) -> tuple[int, int]:
    """The first address of a tensor's memory and the one after its last."""
    start, count = tensor.data_ptr(), tensor.numel()
    if count and not tensor.is_contiguous():
        pairs = zip(tensor.shape, tensor.stride(), strict=True)
        count = 1 + sum((size - 1) * stride for size, stride in pairs)
    return start, start + count * tensor.element_size()


def dense(tensor: Tensor) -> bool:
    """Whether every number of the memory that a tensor spans is its own, once."""
    if tensor.numel() == 0:
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def same_layout(tensor: Tensor, model: Tensor) -> bool:
    """Whether the numbers of two tensors lie in the same order in memory."""
    if tensor.shape != model.shape or tensor.is_complex() != model.is_complex():
        return False
    return all(
        a == b or size == 1
        for a, b, size in zip(
            tensor.stride(), model.stride(), tensor.shape, strict=True
        )
    )
