"""What the contract tests share: every optimizer, and how to train it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import polyak
from polyak.optimizers import all_optimizers
from tests.contract.case import LAYOUTS, Arguments, Case, randn

NAMES = list(all_optimizers())
DENSE = tuple(label for label in LAYOUTS if label != "sliced")
PERMUTED = ("channels_last", "transposed")
SMALL = ("matrix", "vector", "scalar")

Closure = Callable[[], Tensor]


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
# Those whose groups do not depend on each other.
every_separable_optimizer = optimizers(lambda case: case.groups and not case.joint)
every_kernel_of_vectors = optimizers(
    lambda case: case.kernel and "vector" in case.layouts
)
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


@functools.cache
def takes(name: str, argument: str) -> bool:
    """Whether the optimizer's constructor has the argument."""
    return argument in inspect.signature(ours(name)).parameters


def in_kernels(name: str, layouts: Iterable[str] = DENSE) -> tuple[str, ...]:
    """Those of the layouts that the optimizer takes and that kernels serve."""
    case = find_case(name) or Case()
    left_out = PERMUTED if case.in_order else ()
    return tuple(x for x in layouts if x in case.layouts and x not in left_out)


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


def parameters(
    name: str,
    layouts: Iterable[str] = SMALL,
    dtype: torch.dtype = torch.float32,
    *,
    requires_grad: bool = True,
) -> list[Parameter]:
    """Parameters that the optimizer takes: those of ``layouts``, always the same.

    Where it takes but one of these, its first two layouts take their place.
    """
    rng = torch.Generator().manual_seed(0)
    taken = [label for label in layouts if label in case_of(name).layouts]
    if len(taken) < 2:
        taken = list(case_of(name).layouts[:2])
    return [
        Parameter(LAYOUTS[label](dtype, rng), requires_grad=requires_grad)
        for label in taken
    ]


def params_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All parameters of an optimizer."""
    return [param for group in optimizer.param_groups for param in group["params"]]


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
    return randn(param.shape, param.dtype, rng)


def sparse_gradient(param: Tensor, rng: torch.Generator) -> Tensor:
    """A sparse gradient: some rows, one of them given twice."""
    rows = param.shape[0]
    count = min(3, rows)
    index = torch.randperm(rows, generator=rng)[:count].repeat(2)[: count + 1]
    values = randn((len(index), *param.shape[1:]), param.dtype, rng)
    return torch.sparse_coo_tensor(
        index[None], values, param.shape, check_invariants=True
    )


def closure_for(
    optimizer: torch.optim.Optimizer, params: Sequence[Tensor], step: int
) -> Closure:
    """A closure: the weighted squared distance to targets that the step decides."""
    rng = torch.Generator().manual_seed(2000 + step)
    targets = [randn(param.shape, param.dtype, rng) for param in params]
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
