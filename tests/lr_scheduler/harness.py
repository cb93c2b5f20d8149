"""How the schedulers are run, and how two runs are compared."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import polyak
from tests.lr_scheduler.cases import CASES, Case
from tests.lr_scheduler.nodes import METRICS, OURS, SETUPS, STEPS, Library, Node

# The hyperparameters that a scheduler may drive.
DRIVEN = ("lr", "momentum", "betas", "weight_decay")

# What setups differ in: several groups, a tensor rate, the momentum's name.
DIFFERENT = ("groups", "tensor", "adam")

Trace = list[dict[str, Any]]


# Which cases


def cases(keep: Callable[[Case], bool]) -> pytest.MarkDecorator:
    """A mark: run the test over the cases for which it holds."""
    kept = [label for label, case in CASES.items() if keep(case)]
    return pytest.mark.parametrize("label", kept)


def runs(
    keep: Callable[[Case], bool], setups: Collection[str] = tuple(SETUPS)
) -> pytest.MarkDecorator:
    """A mark: run the test over these cases on each of these that they can drive."""
    kept = [
        pytest.param(label, setup, id=f"{label}-{setup}")
        for label, case in CASES.items()
        for setup in case.setups
        if keep(case) and setup in setups
    ]
    return pytest.mark.parametrize(("label", "setup"), kept)


every_case = cases(lambda case: True)
every_run = runs(lambda case: True)
every_torchs_case = cases(lambda case: not case.not_torchs)
# Those without an argument for each group.
any_number_of_groups = cases(lambda case: {"sgd", "groups"} <= set(case.setups))
both_optimizers = pytest.mark.parametrize(
    "optimizers", [torch.optim, polyak], ids=["torch", "polyak"]
)
every_torchs_run = runs(lambda case: not case.not_torchs)


def setup_of(label: str) -> str:
    """An optimizer that the case can drive."""
    return CASES[label].setups[0]


# A run


@dataclass
class Run:
    """An optimizer and its scheduler.

    Args:
        optimizer: what is driven.
        scheduler: what drives it.
        metrics: its ``step`` takes a metric.
        epoch: how many times it has stepped.
    """

    optimizer: Any
    scheduler: Any
    metrics: bool = False
    epoch: int = 0

    def step(self) -> None:
        """One step of both, in the right order."""
        self.optimizer.step()
        self.step_scheduler()

    def step_scheduler(self) -> None:
        """A step of the scheduler alone."""
        self.scheduler.step(*([METRICS[self.epoch]] if self.metrics else []))
        self.epoch += 1

    def steps(self, count: int) -> Run:
        """Several steps."""
        for _ in range(count):
            self.step()
        return self

    def trace(self, steps: int = STEPS) -> Trace:
        """What holds now and after each of the next steps."""
        seen = [self.seen()]
        for _ in range(steps):
            self.step()
            seen.append(self.seen())
        return seen

    def seen(self) -> dict[str, Any]:
        """What a user of the scheduler sees of it, as numbers."""
        return {
            "groups": driven(self.optimizer),
            "last_lr": [float(lr) for lr in self.scheduler.get_last_lr()],
            "last_epoch": getattr(self.scheduler, "last_epoch", None),
        }

    @property
    def lrs(self) -> list[float]:
        """The learning rates now."""
        return lrs_of(self.optimizer)


def start(
    label: str,
    setup: str | None = None,
    library: Library = OURS,
    optimizers: Any = torch.optim,
    **more: Any,
) -> Run:
    """A case's scheduler on a new optimizer; ``more`` is as for ``Node.build``."""
    case = CASES[label]
    optimizer = SETUPS[setup or setup_of(label)](library=optimizers)
    scheduler = case.node.build(optimizer, library, **more)
    return Run(optimizer, scheduler, case.metrics)


def start_node(node: Node, optimizer: Any, library: Library = OURS, **more: Any) -> Run:
    """A scheduler that is in no case, on this optimizer."""
    return Run(optimizer, node.build(optimizer, library, **more), Case(node).metrics)


# What is compared


def driven(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What each group holds of what a scheduler may drive, as numbers."""
    return [
        {key: number(group[key]) for key in DRIVEN if key in group}
        for group in optimizer.param_groups
    ]


def number(value: Any) -> Any:
    """A number, a tensor or a tuple of such, as Python numbers."""
    if isinstance(value, tuple | list):
        return [number(part) for part in value]
    return float(value)


def lrs_of(optimizer: torch.optim.Optimizer) -> list[float]:
    """The learning rates of the groups."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def assert_close(actual: Any, expected: Any, rel: float, where: str = "") -> None:
    """Two structures have the same keys and lengths, and numbers that differ little.

    Args:
        actual: numbers, and lists, tuples and dicts of them.
        expected: what it should be. None matches anything.
        rel: how far numbers may differ, relatively. 0 means bit for bit.
        where: what is compared, for the message.
    """
    if expected is None:
        return
    if isinstance(expected, dict):
        missing = expected.keys() - actual.keys()
        assert not missing, f"{where} has no {missing}"
        for key, value in expected.items():
            assert_close(actual[key], value, rel, f"{where}[{key!r}]")
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected), f"{where} has {len(actual)} parts"
        for index, pair in enumerate(zip(actual, expected, strict=True)):
            assert_close(*pair, rel, f"{where}[{index}]")
    elif isinstance(expected, float | Tensor) and rel:
        close = math.isclose(actual, expected, rel_tol=rel, abs_tol=rel * 1e-4)
        assert close, f"{where} is {actual!r}, not {expected!r}"
    else:
        assert actual == expected, f"{where} is {actual!r}, not {expected!r}"


def snapshot(run: Run) -> Any:
    """All that a failed call may not change."""
    groups = [{**group, "params": None} for group in run.optimizer.param_groups]
    state = run.scheduler.state_dict() if run.scheduler is not None else None
    return deepcopy((groups, state, run.optimizer.state_dict()["state"]))


def assert_unchanged(run: Run, before: Any) -> None:
    """Nothing is other than it was, not a bit."""
    assert repr(snapshot(run)) == repr(before)


def until_it_fails(run: Run, kind: type[Exception] = RuntimeError) -> Any:
    """Step until the scheduler raises; what held before it did."""
    while run.epoch < 2 * STEPS:
        run.optimizer.step()
        before = snapshot(run)
        try:
            run.step_scheduler()
        except kind:
            return before
    raise AssertionError("no step of the scheduler has failed")


# Ways to keep a state dict


def through_torch(state: Any) -> Any:
    """What ``torch.load`` gives back, which trusts nothing but data."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
