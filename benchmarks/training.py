"""Training end to end: a step of training, and the optimizer's share of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from .contenders import Contender, Make
from .markdown import table, times, times_faster
from .networks import NETWORKS, Made
from .step import POLYAK
from .timing import Side, Times, interleave, quiet

__all__ = [
    "DEFAULT",
    "FUSED",
    "OPTIMIZERS",
    "Trained",
    "Training",
    "section",
    "trained",
]

DEFAULT, FUSED = "torch, default", "torch, fused"
OPTIMIZERS = (Contender("SGD", {"momentum": 0.9}), Contender("AdamW"))
WARM_UP = 3


class Training:
    """A network in training, whose optimizer's time is kept apart.

    Attributes:
        stepped: the seconds of each of the optimizer's steps.
    """

    def __init__(self, made: Made, make: Make) -> None:
        network, self.loss = made
        self.optimizer: torch.optim.Optimizer = make(list(network.parameters()))
        self.stepped: list[float] = []

    def step(self) -> Tensor:
        """Forward, backward, the optimizer, and no gradients any more."""
        loss = self.loss()
        loss.backward()
        start = perf_counter()
        self.optimizer.step()
        self.stepped.append(perf_counter() - start)
        self.optimizer.zero_grad()
        return loss.detach()


@dataclass(frozen=True)
class Trained:
    """A step of training with an optimizer, by side.

    Attributes:
        whole: the whole steps.
        optimizer: the optimizer's part of them.
    """

    network: str
    contender: Contender
    threads: int
    whole: Mapping[str, Times]
    optimizer: Mapping[str, Times]

    def share(self, side: str) -> float:
        """The optimizer's part of the step, by the medians."""
        return self.optimizer[side].median / self.whole[side].median


def makers(contender: Contender) -> dict[str, Make]:
    """torch's optimizer as one writes it and at its best, and polyak's."""
    kind = getattr(torch.optim, contender.optimizer)
    fused = contender.torch()["fused"]
    return {
        DEFAULT: lambda params: kind(params, **contender.arguments),
        FUSED: fused,
        POLYAK: contender.polyak,
    }


def trained(
    threads: Sequence[int],
    networks: Mapping[str, Callable[[], Made]] = NETWORKS,
    contenders: Sequence[Contender] = OPTIMIZERS,
    *,
    seconds: float = 2.0,
) -> Iterator[Trained | str]:
    """Each network with each optimizer; or why a network was left out."""
    for name, network in networks.items():
        try:
            network()
        except ModuleNotFoundError as error:
            yield f"{name}: left out, there is no {error.name}"
            continue
        for contender in contenders:
            for count in threads:
                yield _trained(name, network, contender, count, seconds)


def _trained(
    name: str,
    network: Callable[[], Made],
    contender: Contender,
    threads: int,
    seconds: float,
) -> Trained:
    with quiet(threads):
        runs = {k: Training(network(), make) for k, make in makers(contender).items()}
        for run in runs.values():
            for _ in range(WARM_UP):
                run.step()
            run.stepped.clear()
        sides = {side: Side(run.step) for side, run in runs.items()}
        whole = interleave(sides, seconds)
    parts = {side: Times(tuple(run.stepped)) for side, run in runs.items()}
    return Trained(name, contender, threads, whole, parts)


def section(results: Iterable[Trained | str]) -> str:
    """The steps, and the optimizer's share before and after."""
    found = list(results)
    headers = ["network", "optimizer", "threads", "", "training step, µs"]
    headers += ["optimizer, µs", "its share", "training step / polyak's, medians"]
    rows = [
        [
            result.network,
            result.contender.name,
            str(result.threads),
            side,
            times(whole, "µs"),
            times(result.optimizer[side], "µs"),
            f"{100 * result.share(side):.1f} %",
            times_faster(whole.median / result.whole[POLYAK].median),
        ]
        for result in found
        if isinstance(result, Trained)
        for side, whole in result.whole.items()
    ]
    notes = [result for result in found if isinstance(result, str)]
    return "\n\n".join(["## Training, end to end", table(headers, rows), *notes])
