"""Devices: which engine has kernels for them, and what is theirs at the moment."""

from __future__ import annotations

import functools
import importlib.util
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

__all__ = ["KERNELS", "capturing", "current", "engine_of", "no_kernels"]

# The engine that makes kernels for a kind of device. Tests send the CPU's tensors to
# Triton's interpreter.
KERNELS = {"cpu": "cpu", "cuda": "triton", "xpu": "triton"}


def engine_of(device: torch.device) -> str | None:
    """``"cpu"``, ``"triton"``, or None where the eager engine is all there is."""
    engine = KERNELS.get(device.type)
    return None if engine == "triton" and not _has_triton() else engine


def no_kernels(device: torch.device) -> str:
    """Why there are no kernels for a device."""
    if device.type in KERNELS:
        return f"kernels for tensors on {device.type} need Triton, which is missing"
    return f"no kernels for tensors on {device.type}"


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def current(device: torch.device) -> AbstractContextManager[Any]:
    """Makes a device the current one, on which Triton launches."""
    if device.type == "cpu":
        return nullcontext()
    module: Any = torch.get_device_module(device)
    guard: AbstractContextManager[Any] = module.device(device)
    return guard


def capturing(device: torch.device) -> bool:
    """Whether what is launched on a device is captured in a graph instead."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
