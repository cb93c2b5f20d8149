"""One lap: one optimizer, at one learning rate, trains one model."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..optimizer import Optimizer
from .contender import Contender
from .errors import RaceError
from .task import Score, Task

EVALUATE_EVERY = 10

Watch = Callable[[int], None]
"""Told at the start of every epoch of a lap how many are behind it."""


class Evaluation(NamedTuple):
    """The test score after so many steps."""

    step: int
    score: Score


@dataclass(frozen=True)
class Lap:
    """What was seen while a contender trained a model; ``None`` where nothing was."""

    contender: Contender
    seed: int
    losses: tuple[float, ...]
    """The training loss of every step, before its update."""
    evaluations: tuple[Evaluation, ...]
    step_seconds: float | None
    """Median of a whole step, of forward, backward and update."""
    optimizer_seconds: float | None
    """Median of the optimizer's own part of a step."""
    state_bytes: int

    @property
    def diverged(self) -> bool:
        """Whether a loss was not a finite number, which ended the lap."""
        tested = [evaluation.score.loss for evaluation in self.evaluations[-1:]]
        return not all(map(math.isfinite, [self.losses[-1], *tested]))

    @property
    def best(self) -> Score | None:
        """The score of the highest accuracy, and among equals of the lowest loss."""
        scores = [e.score for e in self.evaluations if math.isfinite(e.score.loss)]
        return max(scores, key=lambda s: (s.accuracy, -s.loss), default=None)

    def steps_to(self, accuracy: float) -> int | None:
        """After how many steps an evaluation first showed this test accuracy."""
        reached = (e.step for e in self.evaluations if e.score.accuracy >= accuracy)
        return next(reached, None)


def run_lap(task: Task, contender: Contender, seed: int, watch: Watch) -> Lap:
    """Train the task's model from the seed's weights on the seed's batches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = task.model()
        optimizer = contender.build(model)
        steps: list[_Step] = []
        evaluations: list[Evaluation] = []

        def evaluate() -> None:
            evaluations.append(Evaluation(len(steps), _evaluate(task, model)))

        for batch in _batches(task, seed, watch):
            steps.append(_train_step(task, model, optimizer, batch))
            if not math.isfinite(steps[-1].loss):
                break
            if len(steps) % EVALUATE_EVERY == 0:
                evaluate()
        else:
            if len(steps) % EVALUATE_EVERY:
                evaluate()
    if not steps:
        raise RaceError(f"task {task.name!r} made no batches to train on")
    timed = steps[1:]  # the first compiles and allocates: no measure of the others
    return Lap(
        contender,
        seed,
        tuple(step.loss for step in steps),
        tuple(evaluations),
        median(step.seconds for step in timed) if timed else None,
        median(step.optimizer_seconds for step in timed) if timed else None,
        sum(tensor.nbytes for tensor in _tensors(optimizer.state)),
    )


def _batches(task: Task, seed: int, watch: Watch) -> Iterator[Any]:
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(task.epochs):
        watch(epoch)
        yield from task.batches(generator)


class _Step(NamedTuple):
    loss: float
    seconds: float
    optimizer_seconds: float


def _train_step(
    task: Task, model: nn.Module, optimizer: Optimizer, batch: Any
) -> _Step:
    """One update, timed inside and outside of the closure.

    Every optimizer gets the closure, so that those that evaluate the loss several times
    a step (L-BFGS) run as the others do; the loss is that of the first evaluation.
    """
    losses: list[float] = []
    closure_seconds = 0.0

    def closure() -> Tensor:
        nonlocal closure_seconds
        start = _now()
        optimizer.zero_grad()
        loss = task.loss(model, batch)
        loss.backward()
        losses.append(loss.item())
        closure_seconds += _now() - start
        return loss

    start = _now()
    optimizer.step(closure)
    seconds = _now() - start
    return _Step(losses[0], seconds, seconds - closure_seconds)


def _now() -> float:
    """The clock, once an accelerator has done what it was given."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return perf_counter()


def _evaluate(task: Task, model: nn.Module) -> Score:
    model.eval()
    with torch.no_grad():
        score = task.evaluate(model)
    model.train()
    return score


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested mappings and sequences, such as an optimizer's state."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
