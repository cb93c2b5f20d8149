"""A step against those of other libraries, and whether they do the same."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from .cases import CASES, Case, Tensors
from .contenders import Contender
from .markdown import NONE, number, table, times, times_faster
from .peers import Makers, Peer, Step, hushed
from .step import POLYAK
from .timing import Side, Times, interleave, quiet

__all__ = ["ENCOUNTERS", "OPTIMIZERS", "Encounter", "encounters", "section"]

OPTIMIZERS = (
    Contender("AdamW"),
    Contender("SGD", {"momentum": 0.9}),
    Contender("RMSprop"),
    Contender("Adagrad"),
)
ENCOUNTERS = (CASES["small"], CASES["large"])

# After so many steps it is seen whether all are at the same point.
COMPARED = 3

# Each library brings OpenMP threads of its own, which spin for a while after a step:
# the next one waits until they sleep.
SETTLED = 0.003


@dataclass(frozen=True)
class Encounter:
    """An optimizer's step, of all who have it.

    Attributes:
        times: by who did it.
        apart: how far from polyak's parameters theirs were after some steps, in parts
            of the way that those had come.
        failed: who could not, and why.
    """

    case: Case
    contender: Contender
    threads: int
    times: Mapping[str, Times]
    apart: Mapping[str, float]
    failed: Mapping[str, str]


def encounters(
    peers: Mapping[Peer, Makers],
    threads: int,
    cases: Sequence[Case],
    contenders: Sequence[Contender] = OPTIMIZERS,
    *,
    seconds: float = 2.0,
) -> Iterator[Encounter]:
    """Each optimizer on each case, polyak's and torch's and the peers' in turn."""
    for case in cases:
        tensors = Tensors(case)
        for contender in contenders:
            makers = {
                peer.name: made[contender.name]
                for peer, made in peers.items()
                if contender.name in made
            }
            if makers:
                yield _encounter(case, contender, tensors, makers, threads, seconds)


def _encounter(
    case: Case,
    contender: Contender,
    tensors: Tensors,
    makers: Makers,
    threads: int,
    seconds: float,
) -> Encounter:
    torchs = {f"torch, {name}": make for name, make in contender.torch().items()}
    own = {POLYAK: contender.polyak, **torchs}
    every: dict[str, Callable[[list[Tensor]], Step]] = {
        **{name: lambda params, m=make: m(params).step for name, make in own.items()},
        **makers,
    }
    grads = [_gradient(param).clone() for param in tensors.side(0)[0]]
    sides: dict[str, Side] = {}
    apart: dict[str, float] = {}
    failed: dict[str, str] = {}
    ends: list[Tensor] = []
    with quiet(threads):
        for index, (name, make) in enumerate(every.items()):
            params, _ = tensors.side(index)
            print(f"{case.name}: {contender.name}, {name}", file=sys.stderr)
            try:
                side, moved = _begun(make, params, grads)
            except Exception as error:  # whatever a library may raise, others go on
                failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                continue
            ends = ends or moved
            apart[name] = _distance(ends, moved)
            sides[name] = side
        with _other_pools(threads):
            found = interleave(sides, seconds, rivals=tuple(torchs))
    return Encounter(case, contender, threads, found, apart, failed)


def _begun(
    make: Callable[[list[Tensor]], Step], params: list[Tensor], grads: list[Tensor]
) -> tuple[Side, list[Tensor]]:
    """A step that has compiled what it compiles, and how far the first ones came."""

    def before() -> None:
        # Some libraries overwrite the gradients.
        torch._foreach_copy_([_gradient(param) for param in params], grads)
        time.sleep(SETTLED)

    starts = [param.detach().clone() for param in params]
    before()
    with hushed():
        side = Side(make(params), before)
        for _ in range(COMPARED):
            side.repeat()
    moved = [p.detach() - start for p, start in zip(params, starts, strict=True)]
    return side, moved


def _gradient(param: Tensor) -> Tensor:
    assert param.grad is not None
    return param.grad


def _distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest difference, in parts of the largest change."""
    pairs = zip(ours, theirs, strict=True)
    most = max(float((a - b).abs().max()) for a, b in pairs)
    return most / max(float(a.abs().max()) for a in ours)


def _other_pools(threads: int) -> AbstractContextManager[object]:
    """So many threads for libraries with an OpenMP of their own, too."""
    try:
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError:
        return nullcontext()
    return threadpool_limits(threads, user_api="openmp")


def section(
    found: Iterable[Encounter], there: Iterable[Peer], absent: Mapping[Peer, str]
) -> str:
    """Who takes how long, and who is not there."""
    results = list(found)
    headers = ["parameters", "optimizer", "threads", "", "unit", "step"]
    headers += ["times polyak's (minima)", "apart", "repeats"]
    rows = [row for result in results for row in _rows(result)]
    notes = [f"- {peer.name}: {peer.distribution} {peer.version}" for peer in there]
    notes += [f"- {peer.name}: left out, {reason}" for peer, reason in absent.items()]
    notes += [
        f"- {name}: no {result.contender.name} on {result.case.title}: {reason}"
        for result in results
        for name, reason in result.failed.items()
    ]
    return "\n\n".join(["## Other libraries", "\n".join(notes), table(headers, rows)])


def _rows(result: Encounter) -> Iterator[list[str]]:
    ours = result.times[POLYAK]
    for name, taken in result.times.items():
        yield [
            result.case.title,
            result.contender.name,
            str(result.threads),
            name,
            result.case.unit,
            times(taken, result.case.unit),
            times_faster(taken.minimum / ours.minimum),
            NONE if name == POLYAK else number(result.apart[name]),
            str(len(taken.seconds)),
        ]
