"""What the contract tests share: every optimizer, tensors to train, and comparison."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from polyak.optimizers import all_optimizers

NAMES = list(all_optimizers())
every_optimizer = pytest.mark.parametrize("name", NAMES)

Arguments = dict[str, Any]
Closure = Callable[[], Tensor]

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
        sparse: it takes sparse gradients only.
        closure: ``step`` needs a closure.
        groups: it takes more than one group.
        bounded: a hyperparameter and a value that is out of its bounds.
        ulps: how many units in the last place a step may differ from the reference's,
            measured at the largest number of the tensor.
        why_ulps: the reason, where that is more than the default.
        momentum: arguments that make it keep state between steps, if the defaults
            do not.
    """

    reference: type[torch.optim.Optimizer] | None = None
    arguments: Mapping[str, Arguments] = field(default_factory=dict)
    error_arguments: Sequence[tuple[Arguments, type[Exception], str]] = ()
    layouts: tuple[str, ...] = tuple(LAYOUTS)
    complex: bool = True
    sparse: bool = False
    closure: bool = False
    groups: bool = True
    bounded: tuple[str, Any] = ("lr", -1.0)
    ulps: float = 4
    why_ulps: str = ""
    momentum: Arguments = field(default_factory=dict)


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
    module = case_file(name)
    if importlib.util.find_spec(module) is None:
        return None
    return importlib.import_module(module).case


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
            f"torch.optim has no {name}: its case must give `reference`, an independent "
            "implementation"
        )
    return found
