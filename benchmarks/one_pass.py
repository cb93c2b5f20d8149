"""A whole step: unscale, clip, update, average and clear, against torch's calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import swa_utils

from .cases import CASES, Case, Tensors
from .contenders import Contender
from .markdown import table, times, times_faster
from .timing import Side, Times, interleave, quiet

__all__ = ["OPTIMIZERS", "OnePass", "measured", "section"]

SCALE, NORM, DECAY = 1024.0, 1.0, 0.999
OPTIMIZERS = (Contender("SGD", {"momentum": 0.9}), Contender("AdamW"))
STEPS = (CASES["medium"], CASES["resnet50"])

Stepped = Callable[[], None]


@dataclass(frozen=True)
class OnePass:
    """A whole step by torch's separate calls, and by polyak's one."""

    case: Case
    contender: Contender
    threads: int
    torch: Times
    polyak: Times


def measured(
    threads: Sequence[int],
    cases: Sequence[Case] = STEPS,
    contenders: Sequence[Contender] = OPTIMIZERS,
    *,
    seconds: float = 2.0,
) -> Iterator[OnePass]:
    """Each optimizer on each case, with each number of threads."""
    for case in cases:
        for contender in contenders:
            tensors = Tensors(case)
            sides = {
                "torch": _side(tensors.side(0)[0], partial(torchs, contender)),
                "polyak": _side(tensors.side(1)[0], partial(polyaks, contender)),
            }
            for count in threads:
                with quiet(count):
                    found = interleave(sides, seconds)
                yield OnePass(case, contender, count, **found)


def _side(params: list[Tensor], make: Callable[[list[Tensor]], Stepped]) -> Side:
    """A step before which the gradients are those of a scaled loss again."""
    grads = [param.grad for param in params if param.grad is not None]
    scaled = [grad * SCALE for grad in grads]

    def before() -> None:
        torch._foreach_copy_(grads, scaled)
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad

    before()
    side = Side(make(params), before)
    side.repeat()
    side.repeat()
    return side


def torchs(contender: Contender, params: list[nn.Parameter]) -> Stepped:
    """torch's calls, each as fast as torch has it."""
    optimizer = contender.torch()["fused"](params)
    average = swa_utils.get_ema_multi_avg_fn(DECAY)
    current = [param.detach() for param in params]
    averages: list[Tensor] = [value.clone() for value in current]

    def step() -> None:
        torch._foreach_mul_([param.grad for param in params], 1 / SCALE)
        nn.utils.clip_grad_norm_(params, NORM, foreach=True)
        optimizer.step()
        average(averages, current, 1)
        optimizer.zero_grad()

    return step


def polyaks(contender: Contender, params: list[nn.Parameter]) -> Stepped:
    """polyak's step, which does all of it."""
    stages = {"clip_grad_norm": NORM, "ema_decay": DECAY, "clear_grads": True}
    whole = Contender(contender.optimizer, {**contender.arguments, **stages})
    optimizer = whole.polyak(params)
    optimizer.grad_scale = torch.tensor(SCALE)

    def step() -> None:
        optimizer.step()

    return step


def section(results: Iterable[OnePass]) -> str:
    """The times side by side."""
    headers = ["parameters", "optimizer", "threads", "unit", "torch", "polyak"]
    rows = [
        [
            result.case.title,
            result.contender.name,
            str(result.threads),
            result.case.unit,
            times(result.torch, result.case.unit),
            times(result.polyak, result.case.unit),
            times_faster(result.torch.minimum / result.polyak.minimum),
            times_faster(result.torch.median / result.polyak.median),
        ]
        for result in results
    ]
    found = table([*headers, "ratio of minima", "of medians"], rows)
    return f"## Unscale, clip, step, average and clear\n\n{found}"
