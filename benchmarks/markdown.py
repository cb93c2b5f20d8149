"""Results as Markdown, and the file that keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .timing import Times

__all__ = ["check", "facts_list", "number", "rewrite", "table", "times", "times_faster"]

BEGIN = "<!-- Written by `python -m benchmarks`: do not edit from here -->"
END = "<!-- to here. -->"
NONE = "–"
UNITS = {"µs": 1e6, "ms": 1e3, "s": 1.0}


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is text, the others are figures."""
    alignment = [":--", *["--:"] * (len(headers) - 1)]
    lines = [headers, alignment, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def facts_list(facts: Mapping[str, str]) -> str:
    """What was found out, one fact a line."""
    return "\n".join(f"- {what}: {value}" for what, value in facts.items())


def number(value: float) -> str:
    """Three digits, or all before the point.

    >>> number(0.01234), number(1.234), number(1234.5)
    ('0.0123', '1.23', '1234')
    """
    if value >= 100 or value == 0:
        return f"{value:.0f}"
    return f"{value:#.3g}".rstrip(".")


def times(taken: Times, unit: str) -> str:
    """Minimum, median and 99th percentile."""
    values = (taken.minimum, taken.median, taken.p99)
    return " / ".join(number(UNITS[unit] * value) for value in values)


def times_faster(ratio: float | None) -> str:
    """How many times faster."""
    return NONE if ratio is None else f"{ratio:.2f}"


def rewrite(path: Path, generated: str) -> None:
    """Replace what the file has between the two marks.

    Raises:
        ValueError: the file does not have the marks.
    """
    before, after = _around(path)
    path.write_text(f"{before}{BEGIN}\n\n{generated}\n\n{END}{after}", encoding="utf-8")


def check(path: Path) -> None:
    """Raise what :func:`rewrite` would, before minutes are spent on measuring."""
    _around(path)


def _around(path: Path) -> tuple[str, str]:
    """What the file has before and after the marks."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} must have the lines {BEGIN!r} and {END!r}")
    return before, after
