"""Steps side by side with torch's: the device's time and the host's."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import polyak

from .device import Device, Step, Timing, tensors

__all__ = ["PLAN", "Case", "Figure", "figures"]


Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """Parameters to step on.

    Args:
        title: what the report calls it.
        shapes: of the parameters.
    """

    title: str
    shapes: tuple[Shape, ...]


def _gpt2(layers: int, width: int) -> tuple[Shape, ...]:
    """The shapes of GPT-2's parameters (Radford et al., 2019)."""
    one = (width,)
    layer: tuple[Shape, ...] = (
        *(one, one, (width, 3 * width), (3 * width,), (width, width), one),
        *(one, one, (width, 4 * width), (4 * width,), (4 * width, width), one),
    )
    return ((50257, width), (1024, width), *(layer * layers), one, one)


def _hidden(layers: int, width: int) -> tuple[Shape, ...]:
    """The matrices of GPT-2's layers."""
    attention = ((width, 3 * width), (width, width))
    return (*attention, (width, 4 * width), (4 * width, width)) * layers


CASES = {
    "filters": Case("50 tensors of filters of 3 × 3", ((256, 256, 3, 3),) * 50),
    "gpt2": Case("148 tensors, 124 M (GPT-2)", _gpt2(12, 768)),
    "medium": Case("292 tensors, 355 M (GPT-2 medium)", _gpt2(24, 1024)),
    "thousand": Case("1000 tensors of 1024", ((1024,),) * 1000),
    "myriad": Case("10,000 tensors of 1024", ((1024,),) * 10_000),
    "large": Case("one tensor of 100 M", ((100_000_000,),)),
    "billion": Case("16 tensors, 1 B", ((62_500_000,),) * 16),
    "hidden": Case("48 matrices, 85 M (GPT-2's layers)", _hidden(12, 768)),
    "small": Case("400 matrices of 64 x 64", ((64, 64),) * 400),
}

# What is measured, the most important first: case, dtype, optimizers.
_UNFUSED = ("RMSprop", "NAdam", "RAdam", "Adadelta", "Adamax", "Rprop", "ASGD")
PLAN: tuple[tuple[str, torch.dtype, tuple[str, ...]], ...] = (
    ("gpt2", torch.float32, ("AdamW", "SGD", "Adagrad", "Adam", *_UNFUSED)),
    ("thousand", torch.float32, ("AdamW", "SGD", *_UNFUSED)),
    ("gpt2", torch.float32, ("Adafactor",)),
    ("filters", torch.float32, ("Adafactor",)),
    ("large", torch.float32, ("AdamW", "SGD", "RMSprop")),
    ("hidden", torch.float32, ("Muon",)),
    ("small", torch.float32, ("Muon",)),
    ("billion", torch.float32, ("AdamW",)),
    ("billion", torch.bfloat16, ("AdamW",)),
    ("medium", torch.float32, ("AdamW", "NAdam")),
    ("medium", torch.bfloat16, ("AdamW",)),
    ("gpt2", torch.bfloat16, ("AdamW", "SGD", "RMSprop", "Adafactor")),
    ("myriad", torch.float32, ("AdamW", "SGD", "NAdam")),
    ("thousand", torch.bfloat16, ("AdamW",)),
    ("hidden", torch.bfloat16, ("Muon",)),
)
ARGUMENTS: dict[str, dict[str, Any]] = {"SGD": dict(lr=0.01, momentum=0.9)}
# torch.compile takes up to minutes for many tensors: it is measured where it can be.
COMPILED = {("gpt2", "AdamW"), ("large", "AdamW"), ("large", "RMSprop")}
POLYAK, GRAPH = "polyak", "polyak, graph"


@dataclass(frozen=True)
class Figure:
    """One optimizer on one case.

    Attributes:
        traffic: bytes that a step must move.
        times: by side: polyak, and torch's implementations.
        launches: kernels and copies of a step, by side.
        failed: sides that could not be measured, and why.
    """

    case: Case
    dtype: torch.dtype
    optimizer: str
    traffic: int
    times: dict[str, Timing]
    launches: dict[str, tuple[int, int]]
    failed: dict[str, str]


def figures(device: Device, seconds: float) -> Iterator[Figure]:
    """Measure the plan as far as the time goes."""
    end = perf_counter() + seconds
    for key, dtype, optimizers in PLAN:
        for name in optimizers:
            if perf_counter() < end:
                yield _figure(device, key, dtype, name)
            gc.collect()
            if not device.dry:
                torch.cuda.empty_cache()


def _figure(device: Device, key: str, dtype: torch.dtype, name: str) -> Figure:
    case = CASES[key]
    shapes = list(case.shapes) if not device.dry else [*map(_toy, case.shapes[:5])]
    numbers = sum(math.prod(shape) for shape in shapes)
    steps: dict[str, Step] = {}
    failed: dict[str, str] = {}
    before: dict[str, Step] = {}
    held: list[Any] = []
    for side, make in _sides(key, name, device).items():
        try:
            needed = 5 * numbers * dtype.itemsize
            if device.memory() < needed:
                raise MemoryError("too little memory")
            step, optimizer = make(tensors(shapes, dtype, device))
            for _ in range(3):
                step()
            device.synchronize()
            steps[side] = step
            if side != GRAPH and numbers < 20_000_000:
                before[side] = partial(_renew, optimizer)
            held.append(optimizer)
        except Exception as error:
            failed[side] = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    rounds = _rounds(numbers, len(shapes), device)
    times = device.interleaved(steps, rounds=rounds, before=before)
    launches = {side: device.launches(step) for side, step in steps.items()}
    traffic = 0
    for optimizer in held[:1]:
        slots = _slots(optimizer)
        traffic = numbers * dtype.itemsize * (3 + 2 * slots)
    return Figure(case, dtype, name, traffic, times, launches, failed)


def _renew(optimizer: Any) -> None:
    """New gradients, as a backward makes them, where there is memory for two."""
    for param in optimizer.param_groups[0]["params"]:
        param.grad = param.grad.clone()


def _toy(shape: Shape) -> Shape:
    return tuple(min(size, 70 // len(shape)) for size in shape)


def _slots(optimizer: Any) -> int:
    """State tensors of a parameter that are like it."""
    param = optimizer.param_groups[0]["params"][0]
    state = optimizer.state[param].values()
    return sum(isinstance(v, Tensor) and v.shape == param.shape for v in state)


def _rounds(numbers: int, count: int, device: Device) -> int:
    if device.dry:
        return 1
    return 8 if numbers > 5e8 or count > 5000 else 25


Made = Callable[[list[Tensor]], tuple[Step, Any]]


def _sides(key: str, name: str, device: Device) -> dict[str, Made]:
    arguments = ARGUMENTS.get(name, {})
    kind, theirs = getattr(polyak, name), getattr(torch.optim, name)

    def plain(make: Callable[..., Any], params: list[Tensor]) -> tuple[Step, Any]:
        optimizer = make(params)
        return optimizer.step, optimizer

    def graph(params: list[Tensor]) -> tuple[Step, Any]:
        more = {} if name in ("SGD", "Adagrad", "Muon") else {"capturable": True}
        optimizer = kind(params, **arguments, **more)
        with device.side_stream():
            for _ in range(3):
                optimizer.step()
        return device.captured(optimizer.step), optimizer

    def compiled(params: list[Tensor]) -> tuple[Step, Any]:
        optimizer = theirs(params, **arguments, foreach=True)
        for group in optimizer.param_groups:  # a number would compile each step anew
            group["lr"] = torch.tensor(group["lr"], device=device.torch)
            group["capturable"] = True
        backend = "eager" if device.dry else "inductor"
        return torch.compile(optimizer.step, backend=backend), optimizer

    sides: dict[str, Made] = {
        POLYAK: partial(plain, partial(kind, **arguments)),
    }
    if name == "Muon":  # torch has this alone
        sides["loop"] = partial(plain, partial(theirs, **arguments))
    else:
        foreach = partial(theirs, **arguments, foreach=True)
        sides["foreach"] = partial(plain, foreach)
    if name in ("Adam", "AdamW", "SGD", "Adagrad"):
        fused = partial(theirs, **arguments, fused=True)
        sides["fused"] = partial(plain, fused)
    if key in ("gpt2", "thousand", "small") and name in ("AdamW", "SGD", "Muon"):
        sides[GRAPH] = graph
    if (key, name) in COMPILED:
        sides["compile"] = compiled
    return sides
