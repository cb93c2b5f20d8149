"""Resuming runs: what is saved along the way, and loaded in every order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

from tests.lr_scheduler.cases import CASES
from tests.lr_scheduler.harness import Run, Trace, assert_close
from tests.lr_scheduler.nodes import OURS, SETUPS, STEPS, Library, Node

# What is done in which order; "build" makes the scheduler.
ORDERS = {
    "optimizer_first": ("optimizer", "build", "scheduler"),
    "built_before": ("build", "optimizer", "scheduler"),
    "optimizer_last": ("build", "scheduler", "optimizer"),
    "scheduler_only": ("build", "scheduler"),
}

States = tuple[dict[str, Any], dict[str, Any]]


def saved_along(
    run: Run, events: dict[int, Callable[[Run], None]] | None = None
) -> tuple[Trace, list[States]]:
    """The trace of a run, and its state dicts before each step and after the last.

    Args:
        run: the run.
        events: what a user does at some of the epochs.
    """
    trace, states = [], []
    for epoch in range(STEPS + 1):
        if events and epoch in events:
            events[epoch](run)
        trace.append(run.seen())
        state = (run.optimizer.state_dict(), run.scheduler.state_dict())
        states.append(deepcopy(state))
        if epoch < STEPS:
            run.step()
    return trace, states


def resumed(
    label: str,
    setup: str,
    states: States,
    order: str,
    epoch: int,
    library: Library = OURS,
) -> Run:
    """A new run of a case that is loaded in this order."""
    case = CASES[label]
    run = Run(SETUPS[setup](), None, case.metrics, epoch)
    load(run, case.node, states, order, library)
    return run


def load(
    run: Run, node: Node, states: States, order: str, library: Library = OURS
) -> None:
    """Build the scheduler of a run, and load both of its parts, in this order."""
    optimizer_state, scheduler_state = deepcopy(states)
    for act in ORDERS[order]:
        if act == "optimizer":
            run.optimizer.load_state_dict(optimizer_state)
        elif act == "build":
            run.scheduler = node.build(run.optimizer, library)
        else:
            run.scheduler.load_state_dict(scheduler_state)


def assert_resumes(
    label: str,
    setup: str,
    trace: Trace,
    states: list[States],
    epochs: Iterable[int],
    rel: float = 0,
) -> None:
    """In every order, from each of these epochs on, a new run does what the old did."""
    for order in ORDERS:
        for epoch in epochs:
            run = resumed(label, setup, states[epoch], order, epoch)
            actual = run.trace(STEPS - epoch)
            assert_close(actual, trace[epoch:], rel, f"{label} {order} from {epoch}")
