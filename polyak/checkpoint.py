"""State dicts: torch's layout, out and in.

``state_dict()`` has the keys, order and types of :mod:`torch.optim`, so that either
library continues what the other began. Loading checks everything before it changes
anything, works in place (lists, dicts and fitting tensors stay the objects they are),
copies (nothing is shared with the source), and keeps the dtype of every state tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .engine.layout import memory
from .slot import Group

if TYPE_CHECKING:
    from .optimizer import Optimizer

__all__ = ["pack", "unpack"]

StateDict = dict[str, Any]

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


def unpack(optimizer: Optimizer, state_dict: StateDict) -> None:
    """Load a state dict into an optimizer, or raise and change nothing.

    Raises:
        ValueError: the groups differ in number or size, a hyperparameter is out of its
            bounds, or a slot has not the shape of its parameter.
    """
    saved_groups = state_dict["param_groups"]
    _check_sizes(optimizer.param_groups, saved_groups)
    owner_of = _owners(optimizer.param_groups, saved_groups)

    groups = [
        _loaded_group(optimizer, group, saved)
        for group, saved in zip(optimizer.param_groups, saved_groups, strict=True)
    ]
    for group in groups:
        optimizer.check_group(group)
    state: dict[Any, Any] = {}
    for key, saved in state_dict["state"].items():
        if key in owner_of:
            param, label = owner_of[key]
            held = optimizer.state.get(param, {})
            state[param] = _loaded_state(optimizer, param, label, saved, held)
        else:
            state[key] = saved

    for group, loaded in zip(optimizer.param_groups, groups, strict=True):
        group.update(loaded)
    _replace(optimizer.state, state)


def _check_sizes(groups: list[Group], saved: list[Group]) -> None:
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


def _owners(groups: list[Group], saved: list[Group]) -> dict[int, tuple[Tensor, str]]:
    """The parameter that each saved one is, and what to call it in errors.

    They are matched by name where both sides have the same names, in any order; by
    position where one has none, or where all names are others (a model that was wrapped
    since). Names that agree in part are an error.
    """
    ids = [key for group in saved for key in group["params"]]
    params = [param for group in groups for param in group["params"]]
    names = [name for group in groups for name in group.get("param_names", ())]
    old_names = [name for group in saved for name in group.get("param_names", ())]
    if not _share_names(names, old_names):
        labels = (f"parameter {key}" for key in ids)
        return dict(zip(ids, zip(params, labels, strict=True), strict=True))
    by_name = dict(zip(names, params, strict=True))
    missing = [name for name in names if name not in set(old_names)]
    unexpected = [name for name in old_names if name not in by_name]
    if missing or unexpected:
        raise ValueError(
            f"loaded state dict lacks parameters {missing} of the optimizer and has "
            f"{unexpected}, which the optimizer does not. Nothing was loaded."
        )
    return {
        key: (by_name[name], f"parameter {name!r}")
        for key, name in zip(ids, old_names, strict=True)
    }


def _share_names(names: list[str], old_names: list[str]) -> bool:
    return not set(names).isdisjoint(old_names) and len(set(names)) == len(names)


def _loaded_group(optimizer: Optimizer, group: Group, saved: Group) -> Group:
    own = ("params", *_IMPLEMENTATION, *optimizer.constants)
    names = group.get("param_names", ())
    if _share_names(names, saved.get("param_names", ())):
        own = (*own, "param_names")
    loaded = {key: deepcopy(saved[key]) for key in saved if key not in own}
    return {**group, **loaded}


def _loaded_state(
    optimizer: Optimizer, param: Tensor, label: str, saved: Any, held: Mapping[str, Any]
) -> Any:
    if not isinstance(saved, Mapping):
        return deepcopy(saved)
    return {
        name: _staged(optimizer, param, label, name, value, held.get(name))
        for name, value in saved.items()
    }


def _staged(
    optimizer: Optimizer, param: Tensor, label: str, name: str, value: Any, target: Any
) -> Any:
    """A value as it will be in the state: a copy, or what a live tensor will take."""
    if name == "step":
        value = optimizer.loaded_step(param, value)
        return _Into(target, value) if _fits(target, value) else value
    optimizer.check_state(param, label, name, value)
    if not isinstance(value, Tensor):
        return _copied(param, value)
    return _Into(target, value) if _fits(target, value) else _like(param, value)


def _like(param: Tensor, value: Tensor) -> Tensor:
    """A copy on the parameter's device, laid out as the parameter is."""
    if value.layout is torch.strided and value.shape == param.shape:
        copy = torch.empty_like(
            param, dtype=value.dtype, memory_format=torch.preserve_format
        ).detach()
        return copy.copy_(value.detach())
    return value.detach().to(param.device, copy=True)


def _copied(param: Tensor, value: Any) -> Any:
    """A copy of anything, with the tensors in it on the parameter's device."""
    if isinstance(value, Tensor):
        return value.detach().to(param.device, copy=True)
    if isinstance(value, dict):
        return {key: _copied(param, part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(param, part) for part in value)
    return deepcopy(value)


class _Into:
    """A value that a live tensor will take, once nothing can fail any more."""

    def __init__(self, target: Tensor, value: Tensor) -> None:
        self.target, self.value = target, value

    def detach_from(self, live: set[int]) -> None:
        """Copy a value that is another live tensor: it may be written before."""
        if self.value is not self.target and memory(self.value) in live:
            self.value = self.value.clone()

    def load(self) -> Tensor:
        with torch.no_grad():
            return self.target.copy_(self.value)


def _fits(target: Any, value: Any) -> bool:
    return (
        isinstance(target, Tensor)
        and isinstance(value, Tensor)
        and target.shape == value.shape
        and target.dtype == value.dtype
        and target.layout == value.layout
        and not target.requires_grad
    )


def _replace(state: dict[Any, Any], new: dict[Any, Any]) -> None:
    staged = [
        value
        for values in new.values()
        if isinstance(values, dict)
        for value in values.values()
        if isinstance(value, _Into)
    ]
    live = {memory(value.target) for value in staged}
    for value in staged:
        value.detach_from(live)
    for key in [key for key in state if key not in new]:
        del state[key]
    for key, values in new.items():
        if not isinstance(values, dict):
            state[key] = values
            continue
        done = {k: v.load() if isinstance(v, _Into) else v for k, v in values.items()}
        held = state.setdefault(key, {})
        held.clear()
        held.update(done)
