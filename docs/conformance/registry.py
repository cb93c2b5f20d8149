"""The promises, in the order of the table."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from .subject import Promise


@dataclass(frozen=True)
class Entry:
    """A promise.

    Args:
        name: what is promised, in a few words.
        chapter: of the table.
        without: what a user suffers where it is not kept.
        check: raises AssertionError, with what happened, where it is not kept.
    """

    name: str
    chapter: str
    without: str
    check: Promise

    @property
    def source(self) -> str:
        """The check, as it is written."""
        lines = inspect.getsource(self.check).splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("def "))
        return "\n".join(lines[start:])


PROMISES: list[Entry] = []


def promise(chapter: str, name: str, without: str) -> Callable[[Promise], Promise]:
    """Register a check."""

    def register(check: Promise) -> Promise:
        PROMISES.append(Entry(name, chapter, without, check))
        return check

    return register
