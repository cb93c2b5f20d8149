"""Draws scenarios: small ones mostly, and everything that an optimizer takes."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st

from tests.contract.harness import case_of, takes
from tests.fuzz.differences import difference_in
from tests.fuzz.hyperparameters import CHANGING, FLAGS, names_of, value_of
from tests.fuzz.scenario import (
    Add,
    Change,
    Copy,
    Event,
    Group,
    Move,
    Reload,
    Scenario,
    Spec,
    Step,
)
from tests.fuzz.tensors import GAPS, GRADIENT_LAYOUTS, LAYOUTS

# Odd lengths, powers of two and their neighbours, none at all.
_SHAPES = (
    *((), (0,), (1,), (2,), (7,), (33,), (64,), (257,), (1025,)),
    *((3, 4), (0, 3), (1, 1), (16, 16), (5, 31), (1, 9), (9, 1)),
    *((2, 3, 4), (2, 0, 3), (2, 3, 4, 5), (1, 2, 1, 3), (2, 1, 3, 1, 2)),
)
# More than a chunk of the engine has: drawn seldom, since it takes long.
_LARGE = ((65_537,), (300, 301))
_DTYPES = ("float32", "float64", "bfloat16", "float16", "complex64", "complex128")
_SEEDS = st.integers(0, 2**16)


def scenarios(name: str) -> st.SearchStrategy[Scenario]:
    """Scenarios of an optimizer, without known differences."""
    return _scenario(name).filter(lambda scenario: difference_in(scenario) is None)


@st.composite
def _scenario(draw: Any, name: str) -> Scenario:
    case = case_of(name)
    arguments = draw(_arguments(name))
    if name == "Rprop":
        arguments.setdefault("lr", draw(value_of(name, "lr")))
    if any(takes(name, flag) for flag in FLAGS) and draw(st.booleans()):
        flag = draw(st.sampled_from([f for f in FLAGS if takes(name, f)]))
        arguments[flag] = draw(st.booleans()) if flag in ("foreach", "fused") else True
    dense = bool(arguments.get("fused"))
    several = case.groups and not case.joint
    count = draw(st.integers(1, 3)) if several else 1
    groups = [draw(_group(name, dense, own=several)) for _ in range(count)]
    events = draw(st.lists(_event(name, dense), max_size=7))
    events.append(draw(_step(name, dense)))
    seed = draw(_SEEDS)
    scenario = Scenario(name, tuple(groups), tuple(events), arguments, seed)
    return _with_tensor_rate(draw, scenario)


def _with_tensor_rate(draw: Any, scenario: Scenario) -> Scenario:
    """Sometimes the rate is a tensor: of double precision, in which torch computes."""
    arguments = scenario.arguments
    if "lr" not in arguments or arguments.get("foreach") or draw(st.integers(0, 5)) < 5:
        return scenario
    lr = torch.tensor(arguments["lr"], dtype=torch.float64)
    changed = {**arguments, "lr": lr}
    return replace(scenario, arguments=changed)


@st.composite
def _arguments(draw: Any, name: str) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(names_of(name)), unique=True, max_size=5))
    found = {key: draw(value_of(name, key)) for key in names}
    if found.get("nesterov") and name == "SGD":
        # The one combination that torch refuses.
        found["momentum"] = found.get("momentum") or 0.9
        found["dampening"] = 0.0
    return found


@st.composite
def _group(draw: Any, name: str, dense: bool, own: bool) -> Group:
    specs = draw(st.lists(_spec(name, dense), min_size=1, max_size=4))
    arguments = draw(_arguments(name)) if own and draw(st.booleans()) else {}
    return Group(tuple(specs), arguments)


@st.composite
def _spec(draw: Any, name: str, dense: bool) -> Spec:
    large = not case_of(name).closure and draw(st.integers(0, 60)) == 60
    shape = draw(st.sampled_from(shapes_of(name, large)))
    dtype = draw(st.sampled_from(dtypes_of(name)))
    layouts = [label for label in _layouts_of(name) if not (dense and label in GAPS)]
    return Spec(shape, dtype, draw(st.sampled_from(layouts)))


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


@functools.cache
def _event(name: str, dense: bool) -> st.SearchStrategy[Event]:
    """Steps in half of all cases."""
    case = case_of(name)
    others = [
        _change(name),
        st.builds(Reload, st.sampled_from(("polyak", "file", "torch"))),
        st.builds(Copy, st.sampled_from(("deepcopy", "pickle"))),
        st.just(Move()),
    ]
    if case.groups and not case.joint:
        others.append(st.builds(Add, _group(name, dense, own=True)))
    return _step(name, dense) | st.one_of(others)


@functools.cache
def _step(name: str, dense: bool) -> st.SearchStrategy[Step]:
    case = case_of(name)
    if case.closure:
        return st.builds(Step, _SEEDS)
    if case.sparse == "only":
        layouts = ("sparse",)
    elif dense:
        layouts = ("like",)
    elif case.sparse == "also":
        layouts = ("like", "sparse", *GRADIENT_LAYOUTS)
    else:
        layouts = GRADIENT_LAYOUTS
    bad = st.just(None) | st.sampled_from((None, float("inf"), float("nan")))
    return st.builds(
        Step,
        _SEEDS,
        # Half of all as autograd lays them, which kernels serve.
        layout=st.just(layouts[0]) | st.sampled_from(layouts),
        scale=st.sampled_from((1.0, 1.0, 1e-4, 100.0, 0.0)),
        missing=st.just(0) | st.integers(0, 63),
        bad=st.just(None) if case.sparse == "only" else st.just(None) | bad,
    )


@st.composite
def _change(draw: Any, name: str) -> Change:
    key = draw(st.sampled_from([k for k in names_of(name) if k in CHANGING]))
    return Change(
        draw(st.integers(0, 3)), key, draw(value_of(name, key)), draw(st.booleans())
    )
