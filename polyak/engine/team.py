"""The threads of a step: those that torch already has.

torch's CPU operators run in a team of OpenMP threads. A kernel that opens its parallel
region through the same runtime shares that team: ``torch.set_num_threads`` is honoured
and no second pool competes for the cores. ``GOMP_parallel`` is libgomp's entry point;
the OpenMP runtimes of Intel and LLVM export it on Linux too. Where it is missing, and
in a process forked from one that had a team (the fork leaves its threads behind), a
step runs on one thread.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import torch

__all__ = ["grain", "is_large", "parallel_entry", "threads_for"]

# Below this much memory traffic a team saves less than 50 microseconds on quiet cores
# (`python -m benchmarks team`), and costs a scheduler's time slice where a core is
# busy: a parallel region ends when its last thread has come.
SERIAL_BYTES = 1 << 22
# A thread claims about this much at a time. It makes no difference between 128 KiB and
# 2 MiB.
GRAIN_BYTES = 1 << 18

_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@functools.cache
def parallel_entry() -> int:
    """The address of ``GOMP_parallel`` in torch's OpenMP runtime, or 0."""
    for name in _openmp_runtimes():
        runtime = ctypes.CDLL(name)
        if hasattr(runtime, "GOMP_parallel"):
            return ctypes.cast(runtime.GOMP_parallel, ctypes.c_void_p).value or 0
    return 0


def _openmp_runtimes() -> list[str]:
    """The loaded OpenMP runtimes, torch's own first: other packages bring theirs."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    loaded = {line.split()[-1] for line in lines if ".so" in line}
    home = str(Path(torch.__file__).parent)
    runtimes = [
        name
        for name in loaded
        if Path(name).name.startswith(("libgomp", "libiomp", "libomp"))
    ]
    return sorted(runtimes, key=lambda name: (not name.startswith(home), name))


def is_large(traffic: int) -> bool:
    """Whether a step that moves ``traffic`` bytes is for several threads."""
    return traffic >= SERIAL_BYTES


def threads_for(traffic: int) -> int:
    """How many threads should share a step that moves ``traffic`` bytes."""
    if not is_large(traffic) or _forked or not parallel_entry():
        return 1
    return torch.get_num_threads()


def grain(traffic: int, chunks: int) -> int:
    """How many chunks a thread should claim at a time."""
    return max(1, GRAIN_BYTES * chunks // max(1, traffic))
