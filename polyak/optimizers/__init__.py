"""The optimizers, one a file. A module put into this folder is found by itself."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from ..bounds import nearest
from ..optimizer import Optimizer

__all__ = ["all_optimizers", "by_name"]


@cache
def all_optimizers() -> dict[str, type[Optimizer]]:
    """Every optimizer that polyak ships, by its name, in the order of the names."""
    found: dict[str, type[Optimizer]] = {}
    for module in pkgutil.iter_modules(__path__):
        exports = import_module(f"{__name__}.{module.name}")
        for name in exports.__all__:
            value = getattr(exports, name)
            if isinstance(value, type) and issubclass(value, Optimizer):
                found[name] = value
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def by_name(name: str) -> type[Optimizer]:
    """An optimizer by its name, in any case.

    Raises:
        ValueError: there is none of this name; the message suggests the nearest.

    >>> by_name("adamw").__name__
    'AdamW'
    """
    known = {key.lower(): value for key, value in all_optimizers().items()}
    if name.lower() in known:
        return known[name.lower()]
    raise ValueError(
        f"polyak has no optimizer {name!r}.{nearest(name.lower(), known)} "
        f"It has {', '.join(all_optimizers())}."
    )
