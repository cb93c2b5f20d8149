"""What the contract tests share: every optimizer, tensors to train, and comparison."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import polyak
from polyak.optimizers import all_optimizers

NAMES = list(all_optimizers())

Arguments = dict[str, Any]
Closure = Callable[[], Tensor]
Scales = dict[str, float]

# What a parameter can look like. "sliced" alone has gaps in its memory.
LAYOUTS: dict[str, Callable[[torch.dtype, torch.Generator], Tensor]] = {
    "matrix": lambda dtype, rng: _randn((3, 4), dtype, rng),
    "vector": lambda dtype, rng: _randn((37,), dtype, rng),
    "scalar": lambda dtype, rng: _randn((), dtype, rng),
    "empty": lambda dtype, rng: _randn((0, 3), dtype, rng),
    "images": lambda dtype, rng: _randn((2, 3, 4, 5), dtype, rng),
    "channels_last": lambda dtype, rng: _randn((2, 3, 4, 5), dtype, rng).to(
        memory_format=torch.channels_last
    ),
    "transposed": lambda dtype, rng: _randn((5, 3), dtype, rng).t(),
    "sliced": lambda dtype, rng: _randn((6, 8), dtype, rng)[1:, ::2],
}
DENSE = tuple(label for label in LAYOUTS if label != "sliced")
SMALL = ("matrix", "vector", "scalar")


@dataclass(frozen=True)
class Case:
    """What cannot be found out about an optimizer by looking at it.

    Args:
        reference: an independent implementation with torch's interface; by default the
            class of the same name in ``torch.optim``.
        arguments: sets of arguments to test with, by name, beside the defaults and
            those of torch's own test table.
        error_arguments: arguments that must be refused, each with the exception's type
            and a regular expression for its message, beside those of torch's table.
        layouts: the kinds of parameters it takes, of :data:`LAYOUTS`.
        complex: it takes complex parameters.
        sparse: it takes sparse gradients: "no", "also" (they mean what the dense ones
            do) or "only".
        sparse_refuses: hyperparameters whose use makes it refuse sparse gradients.
        closure: ``step`` needs a closure.
        stateful: arguments with which it keeps state, if the defaults do not.
        groups: it takes more than one group.
        kernel: its step is a kernel, where the parameters allow it.
        bounded: a hyperparameter and a value that is out of its bounds.
        ulps: how many units in the last place a step may differ from the reference's,
            measured at the largest number of the tensor.
        why_ulps: the reason, where that is more than the default.
        early_state: the reference makes the state of a parameter before its first
            gradient; polyak does not, since frameworks replace parameters after
            construction.
        lr_in_state: ``lr`` enters the state as a number, through which no gradient
            flows back to it.
        keeps_lr: the reference keeps a tensor ``lr`` itself as a part of its state,
            where a change in place spoils it. It must be given copies.
    """

    reference: type[torch.optim.Optimizer] | None = None
    arguments: Mapping[str, Arguments] = field(default_factory=dict)
    error_arguments: Sequence[tuple[Arguments, type[Exception], str]] = ()
    layouts: tuple[str, ...] = tuple(LAYOUTS)
    complex: bool = True
    sparse: Literal["no", "also", "only"] = "no"
    sparse_refuses: tuple[str, ...] = ()
    closure: bool = False
    stateful: Arguments = field(default_factory=dict)
    groups: bool = True
    kernel: bool = True
    bounded: tuple[str, Any] = ("lr", -1.0)
    ulps: float = 4
    why_ulps: str = ""
    early_state: bool = False
    lr_in_state: bool = False
    keeps_lr: bool = False


# What is known of an optimizer


def ours(name: str) -> type[torch.optim.Optimizer]:
    """polyak's class."""
    return all_optimizers()[name]


def case_file(name: str) -> str:
    """The module that must hold the optimizer's case, named as its own module is."""
    return f"tests.cases.{ours(name).__module__.rpartition('.')[2]}"


@functools.cache
def find_case(name: str) -> Case | None:
    """The optimizer's case, if there is one."""
    if name not in NAMES:
        return None
    module = case_file(name)
    if importlib.util.find_spec(module) is None:
        return None
    return importlib.import_module(module).case


def optimizers(keep: Callable[[Case], bool]) -> pytest.MarkDecorator:
    """A mark: run the test over every optimizer whose case says that it applies."""
    kept = [name for name in NAMES if keep(find_case(name) or Case())]
    return pytest.mark.parametrize("name", kept)


every_optimizer = optimizers(lambda case: True)
every_grouped_optimizer = optimizers(lambda case: case.groups)
# All but those that compute the gradients themselves, by a closure.
every_given_gradients = optimizers(lambda case: not case.closure)


def case_of(name: str) -> Case:
    """The optimizer's case; without one the test fails."""
    case = find_case(name)
    if case is None:
        path = case_file(name).replace(".", "/") + ".py"
        pytest.fail(f"{name} has no case: write {path} with `case = Case()`")
    return case


def reference(name: str) -> type[torch.optim.Optimizer]:
    """What the optimizer is compared with."""
    found = case_of(name).reference or getattr(torch.optim, name, None)
    if found is None:
        pytest.fail(
            f"torch.optim has no {name}: its case must give `reference`, an "
            "independent implementation"
        )
    return found


@functools.cache
def torch_table() -> dict[str, Any]:
    """torch's own test table by optimizer. Importing it takes seconds."""
    from torch.testing._internal.common_optimizers import optim_db

    return {info.name: info for info in optim_db}


def takes(name: str, argument: str) -> bool:
    """Whether the optimizer's constructor has the argument."""
    return argument in inspect.signature(ours(name)).parameters


def argument_sets(name: str) -> dict[str, Arguments]:
    """Every set of arguments to test the optimizer with, by names fit for test ids."""
    sets: dict[str, Arguments] = {"default": {}}
    if name in torch_table():
        for entry in torch_table()[name].optim_inputs_func("cpu", torch.float32):
            sets[re.sub(r"\W+", "_", entry.desc)] = entry.kwargs
    if takes(name, "lr"):
        sets["lr_as_tensor"] = {"lr": torch.tensor(0.01)}
    case = find_case(name)
    return sets | dict(case.arguments if case else {})


def make(
    kind: type[torch.optim.Optimizer], params: Any, arguments: Arguments
) -> torch.optim.Optimizer:
    """An optimizer with arguments of its own: a learning rate may be a tensor."""
    return kind(params, **deepcopy(arguments))


# What is trained


def _randn(shape: Sequence[int], dtype: torch.dtype, rng: torch.Generator) -> Tensor:
    # Drawn in float64, so that every dtype gets the same numbers, rounded.
    if dtype.is_complex:
        return torch.complex(
            *(torch.randn(shape, dtype=torch.float64, generator=rng) for _ in "ab")
        ).to(dtype)
    return torch.randn(shape, dtype=torch.float64, generator=rng).to(dtype)


def parameters(
    name: str,
    layouts: Iterable[str] = SMALL,
    dtype: torch.dtype = torch.float32,
    *,
    requires_grad: bool = True,
) -> list[Parameter]:
    """Parameters that the optimizer takes: those of ``layouts``, always the same."""
    rng = torch.Generator().manual_seed(0)
    taken = case_of(name).layouts
    return [
        Parameter(LAYOUTS[label](dtype, rng), requires_grad=requires_grad)
        for label in layouts
        if label in taken
    ]


def copies(optimizer: torch.optim.Optimizer) -> list[Parameter]:
    """Parameters that hold what an optimizer's hold now."""
    return [Parameter(param.detach().clone()) for param in params_of(optimizer)]


def give_gradients(
    name: str, params: Sequence[Tensor], step: int, *, like_params: bool = True
) -> None:
    """Give each parameter the gradient of a step.

    Args:
        name: the optimizer.
        params: its parameters. Where there are several, each in turn gets none.
        step: the number of the step, which decides the gradients.
        like_params: the gradients lie in memory as the parameters do, which is what
            autograd does; otherwise they are contiguous.
    """
    rng = torch.Generator().manual_seed(1000 + step)
    for index, param in enumerate(params):
        grad = _gradient(name, param, rng)
        if like_params and not grad.is_sparse:
            grad = torch.empty_like(param, requires_grad=False).copy_(grad)
        left_out = len(params) > 1 and (step + index) % 5 == 4
        param.grad = None if left_out else grad


def _gradient(name: str, param: Tensor, rng: torch.Generator) -> Tensor:
    if case_of(name).sparse == "only":
        return sparse_gradient(param, rng)
    return _randn(param.shape, param.dtype, rng)


def sparse_gradient(param: Tensor, rng: torch.Generator) -> Tensor:
    """A sparse gradient: some rows, one of them given twice."""
    rows = param.shape[0]
    count = min(3, rows)
    index = torch.randperm(rows, generator=rng)[:count].repeat(2)[: count + 1]
    values = _randn((len(index), *param.shape[1:]), param.dtype, rng)
    return torch.sparse_coo_tensor(
        index[None], values, param.shape, check_invariants=True
    )


def closure_for(
    optimizer: torch.optim.Optimizer, params: Sequence[Tensor], step: int
) -> Closure:
    """A closure: the weighted squared distance to targets that the step decides."""
    rng = torch.Generator().manual_seed(2000 + step)
    targets = [_randn(param.shape, param.dtype, rng) for param in params]
    weights = [
        0.5 + torch.rand(p.shape, generator=rng).to(p.real.dtype) for p in params
    ]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum(
            (weight * (param - target).abs().square()).sum()
            for param, target, weight in zip(params, targets, weights, strict=True)
        )
        loss.backward()
        return loss

    return closure


def any_closure(
    name: str,
    optimizer: torch.optim.Optimizer,
    params: Sequence[Tensor],
    step: int,
) -> Closure:
    """A closure that the optimizer takes: it gives the step's gradients."""
    if case_of(name).closure:
        return closure_for(optimizer, params, step)

    def closure() -> Tensor:
        give_gradients(name, params, step)
        return sum(param.abs().sum() for param in params)

    return closure


def advance(
    name: str,
    optimizer: torch.optim.Optimizer,
    params: Sequence[Tensor],
    step: int,
    *,
    like_params: bool = True,
) -> None:
    """Do the step of this number: the same for every optimizer that does it."""
    if case_of(name).closure:
        optimizer.step(closure_for(optimizer, params, step))
        return
    give_gradients(name, params, step, like_params=like_params)
    optimizer.step()


def before_lr_changes(name: str, optimizer: torch.optim.Optimizer) -> None:
    """Let a reference keep its old ``lr``, where it does: see :class:`Case`."""
    if case_of(name).keeps_lr and not isinstance(optimizer, polyak.Optimizer):
        for group in optimizer.param_groups:
            group["lr"] = deepcopy(group["lr"])


def train(
    name: str,
    optimizer: torch.optim.Optimizer,
    params: Sequence[Tensor],
    steps: Iterable[int],
) -> None:
    """Do several steps."""
    for step in steps:
        advance(name, optimizer, params, step)


# Comparison


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


def params_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All parameters of an optimizer."""
    return [param for group in optimizer.param_groups for param in group["params"]]


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
    return tensor.abs().nan_to_num(0, 0, 0).max().item()


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bytes: NaN is NaN, -0.0 is not 0.0."""
    if a.is_sparse:
        return same_bits(a.to_dense(), b.to_dense())
    return torch.equal(_bytes(a), _bytes(b))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.resolve_conj().contiguous().reshape(-1).view(torch.uint8)


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
