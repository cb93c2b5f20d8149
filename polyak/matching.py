"""Which parameter of an optimizer is which of a checkpoint, and which group."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from .slot import Group

__all__ = ["Match", "Matching", "Pair", "match_groups"]

Match = Literal["auto", "name", "position"]
_WHO = ("params", "param_names")


@dataclass(eq=False, slots=True)
class Pair:
    """A parameter and the key that its state has in the checkpoint."""

    key: Any
    param: Tensor
    group: Group
    label: str


@dataclass(eq=False)
class Matching:
    """What a checkpoint has for an optimizer.

    Attributes:
        pairs: the parameters that both sides have.
        missing: what the checkpoint lacks, for the report.
        unexpected: what the optimizer lacks.
        sources: for each group of the optimizer, the saved one that it is, if any.
        ambiguous: what to say of groups whose parameters come from several saved ones
            that differ.
    """

    pairs: list[Pair] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    sources: list[Group | None] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)


def match_groups(
    groups: Sequence[Group],
    saved: Sequence[Group],
    how: Match,
    *,
    strict: bool,
    kept: Container[str] = (),
) -> Matching:
    """Pair the parameters of an optimizer with those of a checkpoint.

    Args:
        groups: the optimizer's.
        saved: the checkpoint's, with keys of its state for parameters.
        how: ``"name"``, in any order; ``"position"``; or ``"auto"``: by name where the
            two sides share names, by position where one has none, or where all names
            are others (a model that was wrapped since).
        strict: raise where one side has what the other has not.
        kept: hyperparameters that are not loaded, and in which groups may differ.

    Raises:
        ValueError: see ``strict``; no names to match by.
    """
    if how not in ("auto", "name", "position"):
        raise ValueError(
            f"match must be 'auto', 'name' or 'position', got {how!r}. Nothing was "
            "loaded."
        )
    names, old_names = _names(groups), _names(saved)
    unique = len(set(names)) == len(names) and len(set(old_names)) == len(old_names)
    if how == "name" and not (names and old_names and unique):
        lacking = "the optimizer" if not names else "the checkpoint"
        why = f"{lacking} has none" if unique else "some occur twice"
        raise ValueError(
            f"match='name' needs a name for each parameter, and {why}: build the "
            "optimizer from model.named_parameters(), or match by position. Nothing "
            "was loaded."
        )
    shared = unique and not set(names).isdisjoint(old_names)
    if how == "name" or (how == "auto" and shared):
        return _by_name(groups, saved, kept, strict=strict)
    if strict:
        _check_sizes(groups, saved)
    return _by_position(groups, saved)


def _names(groups: Sequence[Group]) -> list[str]:
    """All of them; none at all where a parameter has none."""
    if any(
        len(group.get("param_names", ())) != len(group["params"]) for group in groups
    ):
        return []
    return [name for group in groups for name in group.get("param_names", ())]


def _by_name(
    groups: Sequence[Group],
    saved: Sequence[Group],
    kept: Container[str],
    *,
    strict: bool,
) -> Matching:
    result = Matching()
    places = {
        name: (key, index)
        for index, group in enumerate(saved)
        for key, name in _named(group)
    }
    for index, group in enumerate(groups):
        found: set[int] = set()
        for param, name in _named(group):
            if name not in places:
                result.missing.append(name)
                continue
            key, source = places[name]
            found.add(source)
            label = f"parameter {name!r}"
            result.pairs.append(Pair(key, param, group, label))
        if not group["params"] and index < len(saved) and not saved[index]["params"]:
            found = {index}
        sources = [saved[source] for source in sorted(found)]
        _choose_source(result, index, sources, kept)
    known = set(_names(groups))
    result.unexpected = [name for name in places if name not in known]
    if strict and (result.missing or result.unexpected):
        raise ValueError(
            f"loaded state dict lacks parameters {result.missing} of the optimizer and "
            f"has {result.unexpected}, which the optimizer does not. Nothing was "
            "loaded: strict=False loads what both have."
        )
    return result


def _named(group: Group) -> Iterable[tuple[Any, str]]:
    return zip(group["params"], group.get("param_names", ()), strict=True)


def _choose_source(
    result: Matching, index: int, found: list[Group], kept: Container[str]
) -> None:
    if any(not _agree(found[0], other, kept) for other in found[1:]):
        result.ambiguous.append(
            f"the parameters of group {index} are in {len(found)} groups of the "
            "checkpoint, whose hyperparameters differ"
        )
        found = []
    result.sources.append(found[0] if found else None)


def _agree(one: Group, other: Group, kept: Container[str]) -> bool:
    """Whether two groups have the same hyperparameters, but for those in ``kept``."""
    keys = (one.keys() | other.keys()).difference(_WHO)
    return all(
        key in kept or (key in one and key in other and _equal(one[key], other[key]))
        for key in keys
    )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def _by_position(groups: Sequence[Group], saved: Sequence[Group]) -> Matching:
    result = Matching()
    for index in range(max(len(groups), len(saved))):
        group = groups[index] if index < len(groups) else {"params": []}
        other = saved[index] if index < len(saved) else {"params": []}
        params, keys = group["params"], other["params"]
        both = min(len(params), len(keys))
        for key, param in zip(keys[:both], params[:both], strict=True):
            result.pairs.append(Pair(key, param, group, f"parameter {key}"))
        result.missing += [
            f"parameter {at} of group {index}" for at in range(both, len(params))
        ]
        result.unexpected += [
            f"parameter {at} of group {index}" for at in range(both, len(keys))
        ]
        if index < len(groups):
            result.sources.append(saved[index] if index < len(saved) else None)
    return result


def _check_sizes(groups: Sequence[Group], saved: Sequence[Group]) -> None:
    if len(groups) != len(saved):
        raise ValueError(
            "loaded state dict has a different number of parameter groups: "
            f"{len(saved)}, where the optimizer has {len(groups)}"
        )
    for index, (group, other) in enumerate(zip(groups, saved, strict=True)):
        if len(group["params"]) != len(other["params"]):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the "
                f"size of optimizer's group: group {index} has {len(other['params'])} "
                f"parameters there and {len(group['params'])} here"
            )
