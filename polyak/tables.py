"""Tables as plain text, the same in a terminal, a file and a notebook."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

from .slot import Group

__all__ = ["PARAMETERS", "aligned", "is_off", "settings", "shown"]

PARAMETERS = ("params", "param_names")
"""The keys of a group that are no settings."""


def aligned(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()
) -> str:
    """Rows below their header, in columns two spaces apart.

    Args:
        header: what each column is.
        rows: the cells.
        right: the columns that end at their right edge, as numbers do.

    >>> print(aligned(["name", "bytes"], [["a", "8"], ["bc", "16"]], ["bytes"]))
    name  bytes
    a         8
    bc       16
    """
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if title in right else cell.ljust(width)
            for cell, width, title in zip(line, widths, header, strict=True)
        ).rstrip()
        for line in lines
    )


def settings(group: Group) -> Group:
    """What a group has beside its parameters."""
    return {key: value for key, value in group.items() if key not in PARAMETERS}


def is_off(value: Any) -> bool:
    """Whether a setting is a switch that is off, which a reader need not see."""
    return value is None or value is False


def shown(value: Any) -> str:
    """A setting, short."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
