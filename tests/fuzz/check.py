"""Plays a scenario on polyak and on torch, and compares all there is after each event.

Two results may differ by as many units in the last place as the contract tests allow.
Where a run is so badly conditioned that this says nothing (numbers that nearly cancel
and are then normalised, a line search that turns), torch itself is the measure: its own
run on numbers that differ in the last place must go as far astray.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tests.contract.comparison import Scales, largest, states_of, ulps_apart
from tests.contract.harness import case_of, params_of
from tests.fuzz.differences import CAST_BY_TORCH
from tests.fuzz.nudge import Nudge
from tests.fuzz.scenario import Scenario, Step
from tests.fuzz.side import Side

Distances = dict[str, float]

# Newton and Schulz's polynomial cancels to a fraction of its terms, in any case.
MORE_ULPS = {"Muon": 4}

# As many as show the rounding of a single number.
NUDGES = range(8)
# How much farther than torch on nudged numbers polyak may be: the noise is random, too.
AMPLIFIED = 16
HALVES = (torch.bfloat16, torch.float16)


def check(scenario: Scenario) -> str:
    """Raise AssertionError where polyak is not torch.

    Returns:
        How the scenario ended: "same", "refused" by both, or "ill-conditioned".
    """
    before = torch.get_num_threads()
    torch.set_num_threads(scenario.threads)
    try:
        return _check(scenario)
    finally:
        torch.set_num_threads(before)


def _check(scenario: Scenario) -> str:
    ours, torchs = Side(scenario, "polyak"), Side(scenario, "torch")
    case, scales, steps = case_of(scenario.name), {}, 0
    for index, event in enumerate(scenario.happenings):
        errors = [_error(side, event) for side in (ours, torchs)]
        if any(errors):
            kinds = [type(error) for error in errors]
            assert kinds[0] is kinds[1], (
                f"event {index}, {event}: polyak {_told(errors[0])}, "
                f"torch {_told(errors[1])}"
            )
            return "refused"
        steps += isinstance(event, Step)
        found = _distances(ours, torchs, scales)
        allowed = case.ulps * MORE_ULPS.get(scenario.name, 1) * max(steps, 1)
        far = {path: ulps for path, ulps in found.items() if not ulps <= allowed}
        if far:
            astray = _astray(scenario, index)
            for path, ulps in far.items():
                assert ulps <= allowed + AMPLIFIED * astray.get(path, 0.0), (
                    f"after event {index}, {event}: {path} is {ulps:.3g} ulp away: "
                    f"{allowed} are allowed, and torch on numbers that differ in the "
                    f"last place is {astray.get(path, 0.0):.3g} away from itself; "
                    f"polyak {_at(ours, path)}, torch {_at(torchs, path)}"
                )
            return "ill-conditioned"
        torchs.follow(ours)
    return "same"


def _error(side: Side, event: Any) -> Exception | None:
    try:
        side.apply(event)
    except Exception as error:
        return error
    return None


def _told(error: Exception | None) -> str:
    return f"raised {error!r}" if error else "did not raise"


def _astray(scenario: Scenario, last: int) -> Distances:
    """How far torch's own run goes from itself, on numbers that differ a little."""
    most: Distances = {}
    for seed, dtype in itertools.product(NUDGES, (torch.float32, torch.float64)):
        ours, torchs = Side(scenario, "polyak"), Side(scenario, "torch")
        nudge = Nudge(seed, torch.finfo(dtype).eps)
        nudged, scales = Side(scenario, "torch", nudge), {}
        for event in scenario.happenings[: last + 1]:
            for side in (ours, torchs, nudged):
                side.apply(event)
            found = _distances(nudged, torchs, scales)
            torchs.follow(ours)
            nudged.follow(ours)
        due = dict(_leaves(torchs))
        for path, ulps in found.items():
            # Numbers in double precision are not rounded as hyperparameters here are.
            if dtype is torch.float64 or not _is_double(due[path]):
                most[path] = max(most.get(path, 0.0), ulps)
    return most


def _is_double(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.real.dtype is torch.float64


# Distances


def _distances(actual: Side, expected: Side, scales: Scales) -> Distances:
    """How far apart two sides are, by the path of each part; infinite: of no kind."""
    found, due = dict(_leaves(actual)), dict(_leaves(expected))
    apart = {path: float("inf") for path in found.keys() ^ due.keys()}
    if list(found) != list(due):
        apart["order"] = float("inf")
    for path in found.keys() & due.keys():
        apart[path] = _apart(found[path], due[path], path, scales)
    return apart


def _leaves(side: Side) -> Iterator[tuple[str, Any]]:
    yield from _walk([param.data for param in params_of(side.optimizer)], "params")
    with side.unnoticed():
        states = states_of(side.optimizer)
    yield from _walk(states, "state")
    given = [param.grad is not None for param in params_of(side.optimizer)]
    yield from _walk(given, "given")


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _walk(part, f"{path}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _walk(part, f"{path}[{index}]")
    else:
        yield path, value


def _apart(actual: Any, expected: Any, path: str, scales: Scales) -> float:
    if not isinstance(actual, Tensor) or not isinstance(expected, Tensor):
        same = type(actual) is type(expected) and actual == expected
        both = isinstance(actual, float) and isinstance(expected, float)
        if same or not both:
            return 0.0 if same else float("inf")
        actual, expected = (torch.tensor(x).double() for x in (actual, expected))
        actual, expected = actual.float(), expected.float()
    if actual.shape != expected.shape:
        return float("inf")
    if path.startswith("params") and actual.stride() != expected.stride():
        return float("inf")
    scale = scales[path] = max(scales.get(path, 0.0), largest(expected))
    if actual.dtype in HALVES and expected.dtype is torch.float32:
        return _beyond_rounding(actual, expected, scale)
    if path.endswith(CAST_BY_TORCH):
        expected = expected.to(actual.dtype)
    if actual.dtype != expected.dtype:
        return float("inf")
    if torch.equal(actual, expected):
        return 0.0
    # Whether a number that is none is infinite or NaN depends on the order of sums.
    finite = actual.isfinite()
    if not torch.equal(finite, expected.isfinite()):
        return float("inf")
    actual, expected = actual[finite], expected[finite]
    # Below the smallest normal number, units do not get smaller.
    scale = max(scale, torch.finfo(actual.dtype).tiny)
    return ulps_apart(actual, expected, scale) if len(actual) else 0.0


def _beyond_rounding(actual: Tensor, expected: Tensor, scale: float) -> float:
    """How far numbers in half precision are from what single precision rounds to.

    Half the distance between neighbours is rounding; what is beyond it is measured as
    in single precision.
    """
    info = torch.finfo(actual.dtype)
    finite = actual.isfinite()
    if not torch.equal(finite, expected.to(actual.dtype).isfinite()):
        return float("inf")
    actual, expected = actual.float()[finite], expected[finite]
    exponent = expected.abs().clamp(min=info.tiny).frexp().exponent
    rounding = torch.ldexp(torch.full_like(expected, info.eps / 4), exponent)
    beyond = ((actual - expected).abs() - rounding).clamp(min=0)
    unit = torch.finfo(torch.float32).eps * max(scale, info.tiny)
    return largest(beyond) / unit


def _at(side: Side, path: str) -> str:
    return repr(dict(_leaves(side)).get(path, "nothing"))[:200]
