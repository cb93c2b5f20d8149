"""State dicts: torch's layout, out and in.

``state_dict()`` has the keys, order and types of :mod:`torch.optim`, so that either
library continues what the other began. Loading checks everything before it changes
anything, works in place (lists, dicts and fitting tensors stay the objects they are),
copies (nothing is shared with the source), and keeps the dtype of every state tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from .bounds import nearest
from .engine.layout import memory
from .groups import ALGORITHM
from .matching import Match, Matching, Pair, match_groups
from .slot import Group

if TYPE_CHECKING:
    from .optimizer import Optimizer

__all__ = ["Hyperparams", "LoadReport", "pack", "unpack"]

StateDict = dict[str, Any]
_Transfer = tuple[Tensor, Tensor]  # a live tensor, and what it will take
Hyperparams = Literal["checkpoint", "current"] | Collection[str]

# How a step is computed is this run's choice, not the checkpoint's.
_IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")


def pack(optimizer: Optimizer) -> StateDict:
    """The state dict of an optimizer. Its tensors are the live ones."""
    index: dict[int, int] = {}
    groups = []
    for group in optimizer.param_groups:
        for param in group["params"]:
            index.setdefault(id(param), len(index))
        packed = {key: value for key, value in group.items() if key != "params"}
        packed["params"] = [index[id(param)] for param in group["params"]]
        groups.append(packed)
    # The state of a parameter that was taken out of the groups is nobody's.
    state = {
        index[id(key)] if isinstance(key, Tensor) else key: _shallow(value)
        for key, value in optimizer.state.items()
        if not isinstance(key, Tensor) or id(key) in index
    }
    return {"state": state, "param_groups": groups}


def _shallow(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


@dataclass(frozen=True)
class LoadReport:
    """What did not fit when a state dict was loaded; all empty where all did.

    Attributes:
        missing: parameters of the optimizer that the state dict lacks.
        unexpected: those of the state dict that the optimizer lacks.
        mismatched: what both have and does not fit, with the reason.
    """

    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    def __str__(self) -> str:
        lines = [
            f"{kind}: {', '.join(found)}" for kind, found in vars(self).items() if found
        ]
        return "\n".join(lines) or "everything fits"


@torch.inference_mode(False)
@torch.no_grad()
def unpack(
    optimizer: Optimizer,
    state_dict: StateDict,
    *,
    strict: bool = True,
    match: Match = "auto",
    hyperparams: Hyperparams = "checkpoint",
) -> LoadReport:
    """Load a state dict into an optimizer, or raise and change nothing.

    The arguments are those of :meth:`.Optimizer.load_state_dict`.
    """
    lacking = {"state", "param_groups"} - state_dict.keys()
    if lacking:
        raise ValueError(
            f"the state dict lacks {' and '.join(sorted(lacking))}: is it of an "
            "optimizer? Nothing was loaded."
        )
    live = optimizer.param_groups
    keep = _kept(optimizer, state_dict["param_groups"], hyperparams)
    matching = match_groups(
        live, state_dict["param_groups"], match, strict=strict, kept=keep
    )
    mismatched = matching.ambiguous
    if strict and mismatched:
        raise ValueError(
            f"{mismatched[0]}. Nothing was loaded: hyperparams='current' keeps those "
            "of this run."
        )

    for group, source in zip(live, matching.sources, strict=True):
        _check_algorithm(group, source or {})
    groups = [
        _loaded_group(optimizer.in_charge(group), group, saved, keep)
        for group, saved in zip(live, matching.sources, strict=True)
    ]
    for group in groups:
        optimizer.in_charge(group).check_group(group)
    owned = {key for group in state_dict["param_groups"] for key in group["params"]}
    pairs = {pair.key: pair for pair in matching.pairs}
    state: dict[Any, Any] = {}
    transfers: list[_Transfer] = []
    untouched = _unmatched(live, matching)
    for key, saved in state_dict["state"].items():
        if key not in owned:
            state[key] = deepcopy(saved)
        if key not in pairs:
            continue
        pair = pairs[key]
        try:
            owner = optimizer.in_charge(pair.group)
            state[pair.param], inside = _loaded_state(owner, pair, saved)
            transfers += inside
        except ValueError as error:
            if strict:
                raise
            mismatched.append(str(error).removesuffix(" Nothing was loaded."))
            untouched.add(pair.param)

    for group, loaded in zip(live, groups, strict=True):
        group.update(loaded)
    _transfer(transfers)
    _replace(optimizer.state, state, untouched)
    optimizer._fresh &= untouched
    return LoadReport(matching.missing, matching.unexpected, mismatched)


def _check_algorithm(group: Group, saved: Group) -> None:
    own, other = group.get(ALGORITHM), saved.get(ALGORITHM)
    if None not in (own, other) and own != other:
        raise ValueError(
            f"loaded state dict has a group of {other} where the optimizer has one of "
            f"{own}: build it from the same optimizers in the same order, or with "
            "names, which are found in any. Nothing was loaded."
        )


def _kept(
    optimizer: Optimizer, saved: list[Group], hyperparams: Hyperparams
) -> Container[str]:
    """The hyperparameters that stay as they are."""
    groups = [*optimizer.param_groups, *saved]
    known = [key for group in groups for key in group if key != "params"]
    if hyperparams == "checkpoint":
        return _IMPLEMENTATION
    if hyperparams == "current":
        return _Everything()
    if isinstance(hyperparams, str) or not isinstance(hyperparams, Collection):
        raise ValueError(
            "hyperparams must be 'checkpoint', 'current', or the names of those that "
            f"stay as they are, got {hyperparams!r}. Nothing was loaded."
        )
    for name in hyperparams:
        if name not in known:
            raise ValueError(
                f"hyperparams names {name!r}, which {type(optimizer).__name__} does "
                f"not have.{nearest(str(name), known)} Nothing was loaded."
            )
    return {*hyperparams, *_IMPLEMENTATION}


class _Everything:
    def __contains__(self, name: object) -> bool:
        return True


def _unmatched(groups: list[Group], matching: Matching) -> set[Tensor]:
    """The parameters whose state stays as it is."""
    matched = {pair.param for pair in matching.pairs}
    return {param for group in groups for param in group["params"]} - matched


def _loaded_group(
    optimizer: Optimizer, group: Group, saved: Group | None, keep: Container[str]
) -> Group:
    own = {"params", "param_names", *optimizer.constants}
    if saved is not None and not _names_are_ours(group, saved):
        own.remove("param_names")
    loaded = {
        key: deepcopy(value)
        for key, value in (saved or {}).items()
        if key not in own and key not in keep
    }
    return {**group, **loaded}


def _names_are_ours(group: Group, saved: Group) -> bool:
    """Whether a group keeps its names: where the saved ones are, in part, the same."""
    return not set(group.get("param_names", ())).isdisjoint(
        saved.get("param_names", ())
    )


def _loaded_state(
    optimizer: Optimizer, pair: Pair, saved: Any
) -> tuple[Any, list[_Transfer]]:
    """The state of a parameter, and what its live tensors are still to take."""
    if not isinstance(saved, Mapping):
        return deepcopy(saved), []
    optimizer.check_slots(pair.group, pair.label, saved)
    held = optimizer.state.get(pair.param, {})
    loaded: dict[str, Any] = {}
    transfers: list[_Transfer] = []
    for name, value in saved.items():
        optimizer.check_state(pair.param, pair.group, pair.label, name, value)
        target = held.get(name)
        fits = _fits(target, value)
        if not fits:
            value = _made(optimizer, pair, name, value)
            fits = target is not None and _fits(target, value)
        if fits:
            transfers.append((target, value))
            value = target
        loaded[name] = value
    return loaded, transfers


def _made(optimizer: Optimizer, pair: Pair, name: str, value: Any) -> Any:
    """A value as this optimizer has it: a copy."""
    if name == "step":
        return optimizer.loaded_step(pair.param, value, pair.group)
    value = optimizer.loaded_number(pair.param, pair.group, name, value)
    return _copied(pair.param, value)


def _like(param: Tensor, value: Tensor) -> Tensor:
    """A copy on the parameter's device, laid out as the parameter is."""
    if value.layout is not torch.strided or value.shape != param.shape:
        return value.detach().to(param.device, copy=True)
    if value.device == param.device and value.stride() == param.stride():
        return value.clone()
    copy = torch.empty_like(
        param, dtype=value.dtype, memory_format=torch.preserve_format
    ).detach()
    return copy.copy_(value.detach())


def _copied(param: Tensor, value: Any) -> Any:
    """A copy of anything, with the tensors in it on the parameter's device."""
    if isinstance(value, Tensor):
        return _like(param, value)
    if isinstance(value, dict):
        return {key: _copied(param, part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(param, part) for part in value)
    return deepcopy(value)


def _fits(target: Any, value: Any) -> bool:
    return (
        isinstance(target, Tensor)
        and type(target) is type(value)
        and target.shape == value.shape
        and target.dtype == value.dtype
        and target.layout == value.layout
        and not target.requires_grad
    )


def _transfer(transfers: list[_Transfer]) -> None:
    """Write into live tensors, now that nothing can fail any more."""
    live = {memory(target) for target, _ in transfers}
    targets, values = [], []
    for target, value in transfers:
        # What is another live tensor may be written to before it is read.
        if value is not target and memory(value) in live:
            value = value.clone()
        if type(target) is Tensor:
            targets.append(target)
            values.append(value)
        else:  # of several processes, say: torch copies them one by one alone
            target.copy_(value)
    if targets:
        torch._foreach_copy_(targets, values)


def _replace(
    state: dict[Any, Any], new: dict[Any, Any], untouched: set[Tensor]
) -> None:
    for key in [key for key in state if key not in new and key not in untouched]:
        del state[key]
    for key, values in new.items():
        held = state.get(key)
        if isinstance(held, dict) and isinstance(values, dict):
            held.clear()
            held.update(values)
        else:
            state[key] = values
