"""What is raced on: a model, its data, and how to tell how well it does."""

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .errors import RaceError


class Score(NamedTuple):
    """What a model does on data that it was not trained on."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class Task:
    """A network to train, and how to judge it.

    ``model`` draws its weights from torch's global generator and ``batches`` its order
    from the generator that it is given: the race seeds both, so that every optimizer
    starts from the same weights and sees the same batches. ``evaluate`` is called in
    ``eval`` mode and without gradients.
    """

    name: str
    model: Callable[[], nn.Module]
    batches: Callable[[torch.Generator], Iterable[Any]]
    """One epoch of batches, each passed to ``loss`` as it is."""
    loss: Callable[[nn.Module, Any], Tensor]
    evaluate: Callable[[nn.Module], Score]
    target: float
    """The test accuracy whose first reaching is counted in steps, from 0 to 1."""
    epochs: int


def classification(
    name: str,
    inputs: Any,
    labels: Any,
    model: Callable[[], nn.Module],
    *,
    target: float = 0.95,
    epochs: int = 10,
    batch_size: int = 64,
    test_fraction: float = 0.2,
    split_seed: int = 0,
) -> Task:
    """The task of telling classes apart, from arrays (or tensors) of inputs and labels.

    ``split_seed`` fixes which rows are kept for the test, in the same proportion of
    every class, whatever the seed of the race.
    """
    x, y = torch.as_tensor(inputs), torch.as_tensor(labels).long()
    if x.is_floating_point():
        x = x.to(torch.get_default_dtype())
    train, test = _stratified_split(y, test_fraction, split_seed)
    cross_entropy = nn.functional.cross_entropy

    def batches(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        order = train[torch.randperm(len(train), generator=generator)]
        return ((x[rows], y[rows]) for rows in order.split(batch_size))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1])

    def evaluate(model: nn.Module) -> Score:
        logits = model(x[test])
        correct = (logits.argmax(1) == y[test]).double().mean()
        return Score(cross_entropy(logits, y[test]).item(), correct.item())

    return Task(name, model, batches, loss, evaluate, target, epochs)


def _stratified_split(
    labels: Tensor, test_fraction: float, seed: int
) -> tuple[Tensor, Tensor]:
    """The rows to train on and to test on, every class in the same proportion."""
    generator = torch.Generator().manual_seed(seed)
    in_test = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        shuffled = rows[torch.randperm(len(rows), generator=generator)]
        in_test[shuffled[: round(len(rows) * test_fraction)]] = True
    return (~in_test).nonzero().flatten(), in_test.nonzero().flatten()


def load_task(path: str) -> Task:
    """Call the function at ``package.module:function``, which makes a task."""
    module_name, colon, attribute = path.partition(":")
    if not (module_name and colon and attribute):
        raise RaceError(
            f"{path!r} does not name a task: write package.module:function, the "
            "function being one that takes nothing and returns a polyak.race.Task"
        )
    make = getattr(_import(module_name), attribute, None)
    if not callable(make):
        found = "no" if make is None else f"a {type(make).__name__}, not a function,"
        raise RaceError(
            f"module {module_name!r} has {found} {attribute!r}: define there "
            f"`def {attribute}() -> polyak.race.Task`"
        )
    task = make()
    if not isinstance(task, Task):
        raise RaceError(
            f"{path} returned a {type(task).__name__}, not a polyak.race.Task: build "
            "one with polyak.race.Task or polyak.race.classification"
        )
    return task


def _import(name: str) -> Any:
    """Import a module, one in the current directory included."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise RaceError(
            f"there is no module {error.name!r} in {here} or among the installed "
            "packages: start the race in the directory that holds it, or install it"
        ) from error
