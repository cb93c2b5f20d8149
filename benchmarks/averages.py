"""Averages of weights against torch's: by themselves, and inside a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import swa_utils as torch_swa

import polyak
from polyak import swa_utils

from .markdown import number, table, times, times_faster
from .timing import Side, Times, interleave, quiet

__all__ = [
    "CASES",
    "STEPS",
    "Averaged",
    "Case",
    "InStep",
    "averaged",
    "in_step",
    "section",
]

DECAY = 0.999


@dataclass(frozen=True)
class Case:
    """So many tensors of one length."""

    title: str
    count: int
    length: int
    dtype: torch.dtype = torch.float32

    def weights(self) -> list[nn.Parameter]:
        """New weights."""
        return [
            nn.Parameter(torch.randn(self.length, dtype=self.dtype))
            for _ in range(self.count)
        ]


CASES = (
    Case("200 tensors of 64", 200, 64),
    Case("1000 tensors of 1024", 1000, 1024),
    Case("161 tensors of 155,000", 161, 155_000),
    Case("161 tensors of 155,000, bfloat16", 161, 155_000, torch.bfloat16),
)


@dataclass(frozen=True)
class Averaged:
    """An update of an exponential moving average.

    Attributes:
        pass_torch: torch's ``multi_avg_fn`` on lists of tensors.
        pass_polyak: ``WeightAverage.update``.
        model_torch: ``AveragedModel.update_parameters``, torch's.
        model_polyak: the same, polyak's.
        multiply: ``x.mul_(c)`` on one tensor of all the numbers.
    """

    case: Case
    threads: int
    pass_torch: Times
    pass_polyak: Times
    model_torch: Times
    model_polyak: Times
    multiply: Times

    @property
    def moved(self) -> float:
        """Bytes a second that polyak's pass reads and writes."""
        size = self.case.dtype.itemsize
        # The weights are read, the average is read and written; in float32, if less.
        numbers = self.case.count * self.case.length
        return numbers * (size + 2 * max(size, 4)) / self.pass_polyak.minimum

    @property
    def bandwidth(self) -> float:
        """Bytes a second that ``mul_`` reads and writes."""
        numbers = self.case.count * self.case.length
        return 2 * numbers * self.case.dtype.itemsize / self.multiply.minimum


def averaged(
    threads: Sequence[int], cases: Sequence[Case] = CASES, *, seconds: float = 1.0
) -> Iterator[Averaged]:
    """An update of each case's averages, with each number of threads."""
    for case in cases:
        for count in threads:
            with quiet(count):
                times = interleave(_begun(_sides(case)), seconds)
            yield Averaged(case, count, *times.values())


def _begun(sides: dict[str, Side]) -> dict[str, Side]:
    """What is made in a first call is made."""
    for side in sides.values():
        side.run()
    return sides


def _sides(case: Case) -> dict[str, Side]:
    weights = case.weights()
    model = nn.Module()
    model.weights = nn.ParameterList(weights)
    average = swa_utils.WeightAverage(weights, DECAY)
    average.update()
    ema = torch_swa.get_ema_multi_avg_fn(DECAY)
    current = [weight.detach() for weight in weights]
    averages: list[Tensor] = [value.clone() for value in current]
    theirs = torch_swa.AveragedModel(model, multi_avg_fn=ema)
    fused = swa_utils.get_ema_multi_avg_fn(DECAY)
    ours = swa_utils.AveragedModel(model, multi_avg_fn=fused)
    for averaged_model in (theirs, ours):
        averaged_model.update_parameters(model)
    numbers = torch.randn(case.count * case.length, dtype=case.dtype)
    return {
        "torch's pass": Side(lambda: ema(averages, current, 1)),
        "polyak's pass": Side(average.update),
        "torch's model": Side(lambda: theirs.update_parameters(model)),
        "polyak's model": Side(lambda: ours.update_parameters(model)),
        "mul_": Side(lambda: numbers.mul_(1.0)),
    }


# Optimizers that torch fuses: the fastest that it has to offer.
STEPS: dict[str, dict[str, float]] = {
    "SGD": {"lr": 0.1},
    "SGD, momentum": {"lr": 0.1, "momentum": 0.9},
    "AdamW": {"lr": 1e-3},
}


@dataclass(frozen=True)
class InStep:
    """A step that keeps an exponential moving average of the weights.

    Attributes:
        torch: torch's fused step, then ``multi_avg_fn`` on lists of tensors.
        polyak: the step with ``ema_decay``.
        plain: the step without.
    """

    case: Case
    optimizer: str
    threads: int
    torch: Times
    polyak: Times
    plain: Times


def in_step(
    threads: Sequence[int],
    cases: Sequence[Case] = (Case("one tensor of 25 million", 1, 25_000_000), *CASES),
    *,
    seconds: float = 1.0,
) -> Iterator[InStep]:
    """A step with an average: each optimizer on each case."""
    for case in cases:
        for name in STEPS:
            for count in threads:
                with quiet(count):
                    times = interleave(_begun(_steps(case, name)), seconds)
                yield InStep(case, name, count, *times.values())


def _steps(case: Case, name: str) -> dict[str, Side]:
    kind, arguments = name.partition(",")[0], STEPS[name]

    def weights() -> list[nn.Parameter]:
        made = case.weights()
        for weight in made:
            weight.grad = torch.randn_like(weight)
        return made

    theirs = weights()
    step = getattr(torch.optim, kind)(theirs, fused=True, **arguments).step
    ema = torch_swa.get_ema_multi_avg_fn(DECAY)
    current = [weight.detach() for weight in theirs]
    averages: list[Tensor] = [value.clone() for value in current]

    def torchs() -> None:
        step()
        ema(averages, current, 1)

    ours = getattr(polyak, kind)
    return {
        "torch": Side(torchs),
        "polyak": Side(ours(weights(), ema_decay=DECAY, **arguments).step),
        "plain": Side(ours(weights(), **arguments).step),
    }


def section(results: Iterable[Averaged], steps: Iterable[InStep]) -> str:
    """An update of an exponential moving average, by itself and inside a step."""
    headers = ["weights", "threads", "`multi_avg_fn`, µs", "`WeightAverage`, µs"]
    headers += ["ratio", "torch's `AveragedModel`, µs", "polyak's, µs", "ratio"]
    headers += ["GB/s", "`mul_`, GB/s"]
    rows = [
        [
            result.case.title,
            str(result.threads),
            times(result.pass_torch, "µs"),
            times(result.pass_polyak, "µs"),
            times_faster(result.pass_torch.minimum / result.pass_polyak.minimum),
            times(result.model_torch, "µs"),
            times(result.model_polyak, "µs"),
            times_faster(result.model_torch.minimum / result.model_polyak.minimum),
            number(1e-9 * result.moved),
            number(1e-9 * result.bandwidth),
        ]
        for result in results
    ]
    inside = ["weights", "optimizer", "threads", "torch, µs", "polyak, µs", "ratio"]
    inside += ["without average, µs", "with / without"]
    step_rows = [
        [
            result.case.title,
            result.optimizer,
            str(result.threads),
            times(result.torch, "µs"),
            times(result.polyak, "µs"),
            times_faster(result.torch.minimum / result.polyak.minimum),
            times(result.plain, "µs"),
            times_faster(result.polyak.minimum / result.plain.minimum),
        ]
        for result in steps
    ]
    return "\n\n".join(
        [
            "## Averages of weights",
            table(headers, rows),
            "### Inside the step",
            table(inside, step_rows),
        ]
    )
