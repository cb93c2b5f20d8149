"""Choosing parameters of a model, by patterns of their names or by functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from itertools import combinations

from torch import Tensor
from torch.nn import Module

from .bounds import nearest

__all__ = ["Choice", "Entry", "chosen", "entries_of"]

Predicate = Callable[[str, Tensor], bool]
Choice = str | Predicate | Iterable["Choice"]
"""A pattern, a function of a name and a parameter, or several of these."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A parameter of a model.

    Attributes:
        names: its names; a parameter that is shared has several.
        param: the parameter.
    """

    names: tuple[str, ...]
    param: Tensor

    @property
    def name(self) -> str:
        """The first name, which optimizers and checkpoints know."""
        return self.names[0]


def entries_of(model: Module) -> list[Entry]:
    """Every parameter of a model once, in the order of registration."""
    names: dict[Tensor, list[str]] = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        names.setdefault(param, []).append(name)
    return [Entry(tuple(known), param) for param, known in names.items()]


def chosen(argument: str, choice: Choice, entries: Sequence[Entry]) -> set[Entry]:
    """The parameters of a choice.

    Args:
        argument: what the user calls the choice, for errors.
        choice: a pattern as of :mod:`fnmatch`, whose ``*`` takes dots too, and which
            may match any name of a shared parameter; or a function of the (first) name
            and the parameter; or several of these, of which one is enough.
        entries: the parameters there are.

    Raises:
        ValueError: a pattern matches nothing.
        TypeError: the choice is something else.
    """
    if isinstance(choice, str):
        return _matching(argument, choice, entries)
    if callable(choice):
        return {entry for entry in entries if choice(entry.name, entry.param)}
    if isinstance(choice, Iterable):
        return {e for part in choice for e in chosen(argument, part, entries)}
    raise TypeError(
        f"{argument} takes a pattern such as '*.bias', a function of a name and a "
        f"parameter, or a list of these, but got {choice!r}"
    )


def _matching(argument: str, pattern: str, entries: Sequence[Entry]) -> set[Entry]:
    matches = re.compile(translate(pattern)).match
    found = {entry for entry in entries if any(map(matches, entry.names))}
    if not found:
        names = [name for entry in entries for name in entry.names]
        raise ValueError(
            f"{argument}: the pattern {pattern!r} matches no parameter."
            f"{_suggestion(pattern, names)}"
        )
    return found


def _suggestion(pattern: str, names: Sequence[str]) -> str:
    for wider in (f"*.{pattern}", f"{pattern}.*", f"*.{pattern}.*"):
        if any(fnmatchcase(name, wider) for name in names):
            return f" Did you mean {wider!r}?"
    return nearest(pattern, _candidates(pattern, names)) or _examples(names)


def _candidates(pattern: str, names: Sequence[str]) -> list[str]:
    """What a pattern may have meant: parts of names, with its ``*`` at the ends."""
    before = pattern[: len(pattern) - len(pattern.lstrip("*."))]
    after = pattern[len(pattern.rstrip("*.")) :]
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        for start, stop in combinations(range(len(parts) + 1), 2):
            if (before or start == 0) and (after or stop == len(parts)):
                found[f"{before}{'.'.join(parts[start:stop])}{after}"] = None
    return list(found)


def _examples(names: Sequence[str]) -> str:
    known = ", ".join(map(repr, names[:3]))
    more = " and so on" if len(names) > 3 else ""
    return f" Names are {known}{more}: a `*` stands for any part of a name."
