"""Whether two trainings are the same, and whether nothing has changed."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from math import isfinite
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.harness import find_case, params_of

Scales = dict[str, float]


def assert_same_training(
    actual: torch.optim.Optimizer,
    expected: torch.optim.Optimizer,
    ulps: float = 0,
    scales: Scales | None = None,
) -> None:
    """The parameters and the state of two optimizers are the same.

    Args:
        actual: one.
        expected: the other.
        ulps: how far numbers may differ, see :func:`assert_same`.
        scales: carried from one step to the next, see :func:`assert_same`.
    """
    assert_same(params_of(actual), params_of(expected), ulps, "params", scales)
    assert_same(states_of(actual), states_of(expected), ulps, "state", scales)


def states_of(optimizer: torch.optim.Optimizer) -> list[Any]:
    """The state of each parameter; None where it has not begun."""
    case = find_case(type(optimizer).__name__)
    states = [optimizer.state.get(param) for param in params_of(optimizer)]
    if case and case.early_state:
        return [state if state and state["step"] else None for state in states]
    return states


def assert_same(
    actual: Any,
    expected: Any,
    ulps: float = 0,
    where: str = "",
    scales: Scales | None = None,
) -> None:
    """Two structures have the same keys in the same order, types, layouts and values.

    Args:
        actual: tensors, numbers, and lists and dicts of them.
        expected: what it should be.
        ulps: how many units in the last place a tensor's numbers may differ by, at the
            magnitude of its largest number. 0 means bit for bit.
        where: what is compared, for the message.
        scales: the largest magnitude that each tensor has had so far: what is rounded
            is at the scale of the operands, and sums of them may cancel.
    """
    assert type(actual) is type(expected), f"{where} is {actual!r}, not {expected!r}"
    if isinstance(expected, Tensor):
        _assert_same_tensor(actual, expected, ulps, where, scales)
    elif isinstance(expected, dict):
        assert list(actual) == list(expected), where
        for key in expected:
            at = f"{where}[{key!r}]"
            assert_same(actual[key], expected[key], ulps, at, scales)
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected), where
        for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
            assert_same(a, b, ulps, f"{where}[{index}]", scales)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, rel=ulps * 2**-23, nan_ok=True), where
    else:
        assert actual == expected, where


def _assert_same_tensor(
    actual: Tensor, expected: Tensor, ulps: float, where: str, scales: Scales | None
) -> None:
    for aspect in ("dtype", "shape", "device", "layout", "requires_grad"):
        found, due = getattr(actual, aspect), getattr(expected, aspect)
        assert found == due, f"{where} has {aspect} {found}, not {due}"
    if expected.layout is torch.strided:
        found, due = actual.stride(), expected.stride()
        assert found == due, f"{where} has strides {found}, not {due}"
    actual, expected = actual.detach(), expected.detach()
    scale = 0.0
    if scales is not None:
        scale = scales[where] = max(scales.get(where, 0.0), largest(expected))
    if not same_bits(actual, expected):
        distance = ulps_apart(actual, expected, scale)
        assert distance <= ulps, (
            f"{where} is {distance:.3g} ulp away: {ulps} are allowed"
        )


def ulps_apart(actual: Tensor, expected: Tensor, scale: float = 0) -> float:
    """The largest difference, in units in the last place of the largest number.

    Args:
        actual: a tensor whose bits differ from the other's.
        expected: the other.
        scale: measure at this magnitude, if it is larger.
    """
    if not expected.is_floating_point() and not expected.is_complex():
        return float("inf")
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    error = torch.where(same, 0, (actual - expected).abs()).max().item()
    unit = torch.finfo(expected.dtype).eps * max(scale, largest(expected))
    if error == 0:
        # More than none: the bits of 0.0 and -0.0 differ.
        return 1e-9
    return error / unit if unit else float("inf")


def largest(tensor: Tensor) -> float:
    """The largest finite magnitude in a tensor."""
    if tensor.numel() == 0:
        return 0.0
    found = tensor.detach().abs().max().item()
    return found if isfinite(found) else tensor.abs().nan_to_num(0, 0, 0).max().item()


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bytes: NaN is NaN, -0.0 is not 0.0."""
    if a.is_sparse:
        return same_bits(a.to_dense(), b.to_dense())
    return torch.equal(_bytes(a), _bytes(b))


def _bytes(tensor: Tensor) -> Tensor:
    # Copied: what has but one number counts as contiguous with any stride.
    dense = tensor.resolve_conj().clone(memory_format=torch.contiguous_format)
    return dense.view(-1).view(torch.uint8)


# What must stay as it is


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in a structure."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)


def containers(optimizer: torch.optim.Optimizer) -> list[Any]:
    """The lists and dicts of an optimizer, which others may hold."""
    return [
        optimizer.param_groups,
        *optimizer.param_groups,
        *(group["params"] for group in optimizer.param_groups),
        optimizer.state,
        *optimizer.state.values(),
    ]


def everything(optimizer: torch.optim.Optimizer) -> tuple[list[Any], list[Any]]:
    """All that may not change where nothing should: the values and the objects."""
    values = deepcopy(
        [
            params_of(optimizer),
            states_of(optimizer),
            optimizer.defaults,
            [{**group, "params": None} for group in optimizer.param_groups],
        ]
    )
    objects = [*containers(optimizer), *tensors_in(list(optimizer.state.values()))]
    return values, objects


def assert_nothing_changed(
    optimizer: torch.optim.Optimizer, before: tuple[list[Any], list[Any]]
) -> None:
    """Every bit and every object is what it was."""
    (values, objects), (now, now_objects) = before, everything(optimizer)
    assert_same(now, values)
    assert len(now_objects) == len(objects)
    assert all(a is b for a, b in zip(now_objects, objects, strict=True))
