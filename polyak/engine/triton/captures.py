"""CUDA graphs that hold a step, and what they need of the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..bucket import Bucket
from ..survey import Hyperparameters, Verdict
from .bucket import TritonBucket
from .live import LiveBucket

if TYPE_CHECKING:
    from ...optimizer import Optimizer

__all__ = ["bucket_kind", "keep_captured", "refresh"]

# A graph reads its bucket's table for as long as it is replayed, also when the
# optimizer has made another plan since.
_captured: WeakKeyDictionary[Optimizer, list[TritonBucket]] = WeakKeyDictionary()


def bucket_kind(verdict: Verdict) -> type[Bucket]:
    """The class of a bucket for a member with this verdict."""
    if verdict.engine == "cpu":
        return Bucket
    return LiveBucket if verdict.live else TritonBucket


def keep_captured(optimizer: Optimizer, buckets: Sequence[Bucket]) -> None:
    """Keep the buckets that a graph has captured as long as the optimizer."""
    for bucket in buckets:
        if isinstance(bucket, TritonBucket) and bucket.captured:
            kept = _captured.setdefault(optimizer, [])
            if bucket not in kept:
                kept.append(bucket)


def refresh(optimizer: Optimizer) -> None:
    """Send the groups' numbers to the device: see ``Optimizer.refresh``."""
    plan = optimizer._plan
    if plan is None:
        return
    now = Hyperparameters.of(optimizer)
    owner = type(optimizer).__name__
    if not plan.takes(now):
        raise RuntimeError(
            f"{owner}: more than numbers changed in the parameter groups since the "
            "step was captured. Do a step outside of the graph, and capture it again."
        )
    buckets = [bucket for bucket in plan.buckets if isinstance(bucket, TritonBucket)]
    older = [b for b in _captured.get(optimizer, ()) if b not in buckets]
    for bucket in (*buckets, *older):
        if not bucket.refresh(now.numbers):
            raise RuntimeError(
                f"{owner}: with these hyperparameters the rule takes another branch "
                "than the one in the kernel, as where weight_decay becomes 0 or stops "
                "being 0. Do a step outside of the graph, and capture it again."
            )
