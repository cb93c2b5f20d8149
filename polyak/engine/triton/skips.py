"""The count of steps that were left out, where a device decides that."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .devices import capturing

if TYPE_CHECKING:
    from ...optimizer import Optimizer

__all__ = ["DeviceSkips", "Skips", "counting"]


class Skips(NamedTuple):
    """Steps that were left out.

    Attributes:
        launched: of those that the host launched one by one.
        replayed: of those in CUDA graphs.
    """

    launched: int
    replayed: int


class DeviceSkips:
    """Counters on devices, which steps advance there."""

    def __init__(self) -> None:
        self._counters: dict[torch.device, Tensor] = {}

    def begin(self, device: torch.device) -> None:
        """Count on a device: ahead of a capture, which would begin anew each time."""
        if device not in self._counters:
            self._counters[device] = torch.zeros(2, dtype=torch.int64, device=device)

    def add(self, skip: Tensor) -> None:
        """Count a step if this number on a device is not 0."""
        counter = self._counters[skip.device]
        counter[int(capturing(skip.device))].add_(skip != 0)

    def read(self) -> Skips:
        """What was counted; it waits for the devices."""
        counts = [counter.tolist() for counter in self._counters.values()]
        return Skips(*map(sum, zip(*counts, strict=True)))


def counting(optimizer: Optimizer, device: torch.device) -> None:
    """Let steps that a device leaves out be counted there."""
    if optimizer._device_skips is None:
        optimizer._device_skips = DeviceSkips()
    optimizer._device_skips.begin(device)
