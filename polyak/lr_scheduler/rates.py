"""Values in parameter groups: numbers, or tensors that are filled in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..slot import Group

__all__ = [
    "Rate",
    "across",
    "are_floats",
    "base_rates",
    "copied",
    "for_groups",
    "like",
    "marks",
    "moved_on",
    "put",
    "read",
    "restored_on_error",
]

Rate = Any
"""A float, or a tensor with one element."""


_rate_of = itemgetter("lr")
_FLOATS = {float}
_MANY = 32  # groups from which numpy is faster than a loop


def read(groups: Iterable[Group]) -> list[Rate]:
    """The rates of the groups: the objects themselves."""
    return list(map(_rate_of, groups))


def base_rates(groups: Iterable[Group]) -> list[Rate]:
    """What the schedules of the groups start from: their rates, if no key says it."""
    return copied(group.get("initial_lr", group["lr"]) for group in groups)


def are_floats(values: Iterable[Rate]) -> bool:
    """Whether all values are Python floats, and none a tensor."""
    return set(map(type, values)) <= _FLOATS


def copied(values: Iterable[Rate]) -> list[Rate]:
    """The values, tensors cloned: what is done to a group's does not reach them."""
    return [v.clone() if isinstance(v, Tensor) else v for v in values]


def like(held: Rate, value: Rate) -> Rate:
    """A value as what is held: a tensor of its own for a tensor."""
    if not isinstance(held, Tensor):
        return value.clone() if isinstance(value, Tensor) else value
    return torch.full_like(held.detach(), float(value))


def put(group: Group, key: str, value: Rate) -> None:
    """Set ``group[key]``; a tensor there is filled and stays the tensor it is."""
    held = group.get(key)
    if isinstance(held, Tensor):
        held.fill_(value.reshape(()) if isinstance(value, Tensor) else value)
    else:
        group[key] = value.item() if isinstance(value, Tensor) else value


def marks(values: list[Rate]) -> list[Any]:
    """What tells later whether a value is still the same, without reading tensors."""
    return values if are_floats(values) else [_mark(value) for value in values]


def _mark(value: Rate) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.item() if value.is_inference() else (id(value), value._version)


def moved_on(found: Rate, written: Rate) -> bool:
    """Whether a group's value is another than the one that was written."""
    return found is not written and float(found) != float(written)


def for_groups(owner: str, name: str, value: Any, groups: Sequence[Group]) -> list[Any]:
    """One value a group, from a number for all or from a list.

    Raises:
        ValueError: a list of another length.
    """
    if not isinstance(value, list | tuple):
        return copied([value] * len(groups))
    if len(value) != len(groups):
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. {name} has "
            f"{len(value)} values, param_groups has {len(groups)}. Give {owner} a "
            "number for all groups, or one a group."
        )
    return copied(value)


def across(formula: Callable[..., Any], *columns: Sequence[Rate]) -> list[Rate]:
    """A formula of arithmetic alone, for one entry of the columns after another.

    Numbers are computed together: to the bit what they would be one by one.
    """
    if len(columns[0]) < _MANY or not all(map(are_floats, columns)):
        return [formula(*row) for row in zip(*columns, strict=True)]
    values: list[Rate] = formula(*map(np.array, columns)).tolist()
    return values


@contextmanager
def restored_on_error(groups: Iterable[Group], keys: Iterable[str]) -> Iterator[None]:
    """Give groups back the entries that they had, where the body raises."""
    before = [(g, {k: g[k] for k in keys if k in g}) for g in groups]
    try:
        yield
    except BaseException:
        for group, entries in before:
            for key in keys:
                group.pop(key, None)
            group.update(entries)
        raise
