"""Draws scenarios: small ones mostly, and everything that an optimizer takes.

By hand, since a scenario has some hundred parts: hypothesis takes longer to draw them
than polyak and torch to play them.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from random import Random
from typing import Any

import torch

from tests.contract.harness import case_of, takes
from tests.fuzz.differences import difference_in
from tests.fuzz.hyperparameters import CHANGING, FLAGS, STAGES, names_of, value_of
from tests.fuzz.scenario import (
    Add,
    Change,
    Copy,
    Drop,
    Event,
    Freeze,
    Group,
    Move,
    Reload,
    Reset,
    Scenario,
    Spec,
    Step,
    Swap,
)
from tests.fuzz.tensors import GAPS, GRADIENT_LAYOUTS, LAYOUTS

# Odd lengths, those of vector registers and their neighbours, none at all.
_SHAPES = (
    *((), (0,), (1,), (2,), (7,), (8,), (15,), (16,), (17,), (33,), (64,), (257,)),
    *((1025,), (3, 4), (0, 3), (1, 1), (16, 16), (5, 31), (1, 9), (9, 1)),
    *((2, 3, 4), (2, 0, 3), (2, 3, 4, 5), (1, 2, 1, 3), (2, 1, 3, 1, 2)),
)
# About a chunk of the engine and more, and enough for several threads: drawn seldom,
# since they take long.
_LARGE = ((65_535,), (65_536,), (65_537,), (300, 301), (512, 1031))
_MANY = 40
_DTYPES = ("float32", "float64", "bfloat16", "float16", "complex64", "complex128")


def scenario(name: str, rng: Random) -> Scenario:
    """A scenario of an optimizer, without known differences."""
    while True:
        drawn = _scenario(name, rng)
        if difference_in(drawn) is None:
            return drawn


def _scenario(name: str, rng: Random) -> Scenario:
    arguments = _arguments(name, rng)
    if name == "Rprop":
        arguments.setdefault("lr", value_of(name, "lr")(rng))
    flags = [flag for flag in FLAGS if takes(name, flag)]
    if flags and _likely(rng, 1 / 2):
        flag = rng.choice(flags)
        either = flag in ("foreach", "fused")
        arguments[flag] = _likely(rng, 1 / 2) if either else True
    dense = bool(arguments.get("fused"))
    several = _splits(name)
    groups = [
        _group(name, dense, several, rng)
        for _ in range(rng.randint(1, 3) if several else 1)
    ]
    events = [_event(name, dense, rng) for _ in range(rng.randint(0, 6))]
    events.append(_step(name, dense, rng))
    drawn = Scenario(
        name,
        tuple(groups),
        tuple(events),
        arguments,
        seed=_seed(rng),
        threads=rng.randint(1, 2),
    )
    return _with_stages(_with_tensor_rate(drawn, rng), rng)


def _with_tensor_rate(drawn: Scenario, rng: Random) -> Scenario:
    """Sometimes the rate is a tensor: of double precision, in which torch computes."""
    arguments = drawn.arguments
    if "lr" not in arguments or arguments.get("foreach") or _likely(rng, 5 / 6):
        return drawn
    lr = torch.tensor(arguments["lr"], dtype=torch.float64)
    return replace(drawn, arguments={**arguments, "lr": lr})


def _with_stages(drawn: Scenario, rng: Random) -> Scenario:
    """Sometimes clipping, averages and so on, where torch's functions do the same."""
    case = case_of(drawn.name)
    differentiable = drawn.arguments.get("differentiable")
    if case.closure or case.sparse == "only" or differentiable or _likely(rng, 2 / 3):
        return drawn
    names = rng.sample(sorted(STAGES), rng.randint(1, 3))
    return replace(drawn, stages={name: STAGES[name](rng) for name in names})


def _arguments(name: str, rng: Random) -> dict[str, Any]:
    names = names_of(name)
    drawn = rng.sample(names, rng.randint(0, min(5, len(names))))
    found = {key: value_of(name, key)(rng) for key in drawn}
    if found.get("nesterov") and name == "SGD":
        # The one combination that torch refuses.
        found["momentum"] = found.get("momentum") or 0.9
        found["dampening"] = 0.0
    return found


def _group(name: str, dense: bool, own: bool, rng: Random) -> Group:
    specs = [_spec(name, dense, rng) for _ in range(rng.randint(1, 3))]
    if own and _likely(rng, 1 / 100):
        specs += _MANY * [Spec(rng.choice(shapes_of(name, large=False)))]
    arguments = _arguments(name, rng) if own and _likely(rng, 1 / 2) else {}
    return Group(tuple(specs), arguments)


def _spec(name: str, dense: bool, rng: Random) -> Spec:
    large = not case_of(name).closure and _likely(rng, 1 / 200)
    layouts = [label for label in _layouts_of(name) if not (dense and label in GAPS)]
    return Spec(
        rng.choice(shapes_of(name, large)),
        rng.choice(dtypes_of(name)),
        rng.choice(layouts),
    )


@functools.cache
def shapes_of(name: str, large: bool) -> list[tuple[int, ...]]:
    """The shapes that an optimizer takes, by those that its case lists."""
    labels = case_of(name).layouts
    return [
        shape
        for shape in (_LARGE if large else _SHAPES)
        if (len(shape) != 0 or "scalar" in labels)
        and (len(shape) != 1 or "vector" in labels)
        and (0 not in shape or "empty" in labels)
    ]


@functools.cache
def dtypes_of(name: str) -> list[str]:
    """The dtypes in which an optimizer is compared: single precision in half of all."""
    case = case_of(name)
    found = [d for d in _DTYPES if case.complex or "complex" not in d]
    if case.closure or case.sparse == "only":
        found = [d for d in found if "16" not in d]
    return ["float32"] * len(found) + found


@functools.cache
def _layouts_of(name: str) -> list[str]:
    labels = case_of(name).layouts
    # What torch flattens by `view` must be contiguous.
    if "transposed" not in labels:
        return ["contiguous", "offset"]
    return list(LAYOUTS)


def _event(name: str, dense: bool, rng: Random) -> Event:
    """Steps in half of all cases."""
    if _likely(rng, 1 / 2):
        return _step(name, dense, rng)
    match rng.choice(_others(name)):
        case "change":
            return _change(name, rng)
        case "reload":
            return Reload(rng.choice(("polyak", "file", "torch")))
        case "copy":
            return Copy(rng.choice(("deepcopy", "pickle")))
        case "move":
            return Move(rng.choice(("params", "state")))
        case "add":
            return Add(_group(name, dense, own=True, rng=rng))
        case "swap":
            keeps = case_of(name).early_state or _likely(rng, 1 / 2)
            return Swap(rng.randint(0, 3), keeps)
        case "freeze":
            return Freeze(rng.getrandbits(12))
        case "drop":
            return Drop()
        case _:
            return Reset()


@functools.cache
def _others(name: str) -> list[str]:
    """The events besides steps."""
    case = case_of(name)
    often = ["change", "reload", "copy", "move"]
    if _splits(name):
        often += ["add"]
    found = 2 * often
    if not case.closure:
        found += ["freeze"]
    if _splits(name):
        found += ["drop", "swap"]
    if not case.early_state:
        found += ["reset"]
    return found


def _splits(name: str) -> bool:
    """Whether it takes several groups, of which each has hyperparameters."""
    case = case_of(name)
    return case.groups and not case.joint


def _step(name: str, dense: bool, rng: Random) -> Step:
    case = case_of(name)
    if case.closure:
        return Step(_seed(rng))
    first, *others = _gradient_layouts(name, dense)
    bad = case.sparse != "only" and _likely(rng, 1 / 6)
    return Step(
        _seed(rng),
        # Half of all as autograd lays them, which kernels serve.
        layout=first if _likely(rng, 1 / 2) else rng.choice((first, *others)),
        scale=rng.choice((1.0, 1.0, 1e-4, 100.0, 0.0)),
        missing=rng.getrandbits(12) if _likely(rng, 1 / 2) else 0,
        bad=rng.choice((float("inf"), float("nan"))) if bad else None,
        kept=_likely(rng, 1 / 3),
        closure=_likely(rng, 1 / 8),
        # So long that polyak does not look at the state any more.
        again=rng.randint(1, 4) if _likely(rng, 1 / 3) else 0,
    )


def _gradient_layouts(name: str, dense: bool) -> tuple[str, ...]:
    case = case_of(name)
    if case.sparse == "only":
        return ("sparse",)
    if dense:
        return ("like",)
    if case.sparse == "also":
        return ("like", "sparse", *GRADIENT_LAYOUTS)
    return GRADIENT_LAYOUTS


def _change(name: str, rng: Random) -> Change:
    key = rng.choice([k for k in names_of(name) if k in CHANGING])
    value = value_of(name, key)(rng)
    return Change(rng.randint(0, 3), key, value, _likely(rng, 1 / 2))


def _likely(rng: Random, share: float) -> bool:
    return rng.random() < share


def _seed(rng: Random) -> int:
    return rng.getrandbits(16)
