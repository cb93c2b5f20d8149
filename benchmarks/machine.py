"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

import polyak

__all__ = ["facts", "free_memory", "thread_counts"]


def facts(threads: Sequence[int]) -> dict[str, str]:
    """The machine, the versions and the conditions, by what they are."""
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return {
        "processor": _processor(),
        "cores": str(cores()),
        "vector units that torch uses": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "polyak": polyak.__version__,
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "llvmlite": version("llvmlite"),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "threads": ", ".join(map(str, threads)),
        "load average before": f"{busy:.2f}",
    }


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_counts() -> tuple[int, ...]:
    """One thread, and two if there are as many cores."""
    return (1, 2)[: cores()]


def free_memory() -> float:
    """The bytes that are free; without bound where nobody tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    kibibytes = dict(line.split()[:2] for line in lines)
    return 1024 * float(kibibytes.get("MemAvailable:", "inf"))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return models[0] if models else platform.processor()
