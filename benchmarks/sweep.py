"""Speed-up by tensor size: steps on tensors of one length, from small to large."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .cases import Case
from .contenders import Contender
from .markdown import NONE, table, times_faster
from .step import Result, measure

__all__ = ["LENGTHS", "OPTIMIZERS", "section", "swept"]

LENGTHS = tuple(1 << power for power in (2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 24))
OPTIMIZERS = tuple(map(Contender, ("SGD", "AdamW", "RMSprop", "NAdam")))

# As many tensors of a length as a network may have, but no more numbers than these.
MOST_TENSORS, MOST_NUMBERS = 1000, 1 << 22


def swept(
    threads: int,
    lengths: Sequence[int] = LENGTHS,
    contenders: Sequence[Contender] = OPTIMIZERS,
    *,
    scale: float = 1.0,
) -> Iterator[Result]:
    """Each optimizer on tensors of each length."""
    for length in lengths:
        count = max(1, min(MOST_TENSORS, MOST_NUMBERS // length))
        title = f"{count} x {length:,}"
        case = Case(str(length), title, 0.6, "µs", ((length,),) * count, least=3)
        yield from measure(case, contenders, (threads,), scale=scale)


def section(results: Iterable[Result], picture: str = "") -> str:
    """How many times faster, by length and optimizer."""
    found = list(results)
    ratios = {(r.case.title, r.contender.name): r.ratio() for r in found}
    names = dict.fromkeys(name for _, name in ratios)
    rows = [
        [
            title,
            *(
                times_faster(ratios[title, name]) if (title, name) in ratios else NONE
                for name in names
            ),
        ]
        for title in dict.fromkeys(title for title, _ in ratios)
    ]
    threads = max((result.threads for result in found), default=1)
    counted = "1 thread" if threads == 1 else f"{threads} threads"
    title = f"## How many times faster by tensor size, {counted} (minima)"
    parts = [title, table(["tensors", *names], rows)]
    return "\n\n".join([*parts, *([picture] if picture else [])])
