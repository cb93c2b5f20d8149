"""What is measured in processes of their own: memory, first steps, imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .cases import LARGE
from .contenders import torch_implementations
from .markdown import number, table
from .probe import Answer

__all__ = [
    "First",
    "Memory",
    "first_steps",
    "imports",
    "memory",
    "memory_section",
    "probe",
    "startup_section",
]

ROOT = Path(__file__).parent.parent
MEMORY = ("SGD", "RMSprop", "AdamW")


@dataclass(frozen=True)
class Memory:
    """The memory of a step on one large tensor, in bytes."""

    optimizer: str
    implementation: str
    numel: int
    state: float
    extra: float


@dataclass(frozen=True)
class First:
    """Medians of several processes, in seconds."""

    what: str
    made: float
    first: float
    third: float


def probe(*arguments: str, environment: Mapping[str, str] | None = None) -> Answer:
    """Run a program of :mod:`.probe` and return what it answers."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.probe", *arguments],
        env={**inherited, **(environment or {})},
        cwd=ROOT,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    )
    answer: Answer = json.loads(done.stdout)
    return answer


def memory(optimizers: Sequence[str] = MEMORY, numel: int = LARGE) -> list[Memory]:
    """The peak memory of the first step, polyak's and that of each of torch's."""
    jobs = [
        (name, implementation)
        for name in optimizers
        for implementation in ("polyak", *torch_implementations(name))
    ]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda job: _memory(job, numel), jobs))


def _memory(job: tuple[str, str], numel: int) -> Memory:
    optimizer, implementation = job
    library = "polyak" if implementation == "polyak" else "torch"
    answer = probe("memory", library, optimizer, implementation, str(numel))
    return Memory(optimizer, implementation, numel, answer["state"], answer["extra"])


def first_steps(optimizer: str = "AdamW", repeats: int = 3) -> Iterator[First]:
    """First steps of processes: polyak's without and with its disk cache, torch's."""
    rivals = sorted(torch_implementations(optimizer), key=lambda name: name != "fused")
    folders: list[tempfile.TemporaryDirectory[str]] = []

    def polyak(folder: str) -> Answer:
        cache = {"POLYAK_CACHE_DIR": folder}
        return probe("first", "polyak", optimizer, "", environment=cache)

    def cold() -> Answer:
        folders.append(tempfile.TemporaryDirectory())
        return polyak(folders[-1].name)

    answers: dict[str, list[Answer]] = {}
    for _ in range(repeats):
        answers.setdefault("polyak, empty disk cache", []).append(cold())
        warm = polyak(folders[-1].name)
        answers.setdefault("polyak, filled disk cache", []).append(warm)
        for name in rivals[:1]:
            answer = probe("first", "torch", optimizer, name)
            answers.setdefault(f"torch, {name}", []).append(answer)
    for folder in folders:
        folder.cleanup()
    for what, several in answers.items():
        keys = ("made", "first", "third")
        yield First(what, *(median(answer[key] for answer in several) for key in keys))


def imports(repeats: int = 5) -> dict[str, float]:
    """The least seconds for importing torch, and polyak after it."""
    answers = [probe("load") for _ in range(repeats)]
    return {key: min(answer[key] for answer in answers) for key in ("torch", "polyak")}


def memory_section(found: Sequence[Memory]) -> str:
    """Peak memory of a step."""
    rows = [
        [
            entry.optimizer,
            entry.implementation,
            number(entry.state / 2**20),
            number(entry.extra / 2**20),
            f"{entry.extra / entry.numel:.2f}",
        ]
        for entry in found
    ]
    headers = ["optimizer", "", "state, MiB", "extra, MiB", "extra bytes a number"]
    return f"## Peak memory of a step, one large tensor\n\n{table(headers, rows)}"


def startup_section(found: Iterable[First], imports: Mapping[str, float]) -> str:
    """First steps and imports."""
    steps = table(
        ["", "making the optimizer, ms", "first step, ms", "third step, ms"],
        [
            [row.what, *(number(1e3 * v) for v in (row.made, row.first, row.third))]
            for row in found
        ],
    )
    loaded = table(
        ["import", "ms"],
        [
            ["torch", number(1e3 * imports["torch"])],
            ["polyak, after torch", number(1e3 * imports["polyak"])],
        ],
    )
    return f"## The start of a process, AdamW on 200 tensors\n\n{steps}\n\n{loaded}"
