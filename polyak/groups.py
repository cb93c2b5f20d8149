"""Parameter groups: what may be in one, and the checks before it is taken in."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import required

from .bounds import nearest
from .slot import Group

__all__ = [
    "ALGORITHM",
    "allow_group_keys",
    "checked_group",
    "group_list",
    "named",
    "required",
]

# The key of a group that names the algorithm, where an optimizer has several.
ALGORITHM = "optimizer"

# Keys that schedulers and model libraries put into groups when they make them.
_allowed = {
    "params",
    "param_names",
    "name",
    "initial_lr",
    "lr_scale",
    "max_lr",
    "min_lr",
    "base_momentum",
    "max_momentum",
    "swa_lr",
}


def allow_group_keys(*keys: str) -> None:
    """Let parameter groups carry keys of your own at construction.

    A key that no optimizer knows is an error when a group is taken in, since it is most
    often a misspelt hyperparameter. Keys set on a group later are not checked.

    >>> allow_group_keys("block_index")
    """
    _allowed.update(keys)


def group_list(params: Any) -> list[Group]:
    """What was given to an optimizer, as a list of groups.

    Raises:
        TypeError: a tensor, where an iterable of them is due.
        ValueError: nothing.
    """
    if isinstance(params, Tensor):
        raise TypeError(
            "params argument given to the optimizer should be an iterable of Tensors "
            f"or dicts, but got {torch.typename(params)}: write [param]"
        )
    if isinstance(params, Mapping):
        raise TypeError(
            "params argument given to the optimizer should be an iterable of Tensors "
            "or dicts, but got a dict: write [group] for one group"
        )
    groups = list(_ordered(params))
    if not groups:
        raise ValueError(
            "optimizer got an empty parameter list: has the model parameters, and was "
            "the iterator model.parameters() used before?"
        )
    return groups if isinstance(groups[0], dict) else [{"params": groups}]


def named(groups: Iterable[Group]) -> Iterator[tuple[str, Tensor]]:
    """Every parameter with its name, or with its number where it has none."""
    count = 0
    for group in groups:
        names = group.get("param_names")
        for index, param in enumerate(group["params"]):
            yield (names[index] if names else str(count)), param
            count += 1


def checked_group(
    owner: str,
    group: Group,
    defaults: Mapping[str, Any],
    others: Iterable[Group],
    optional: Iterable[str] = (),
) -> Group:
    """A complete copy of a group, every entry of it checked but the values' bounds.

    Args:
        owner: the optimizer's name, for errors.
        group: as given by the user.
        defaults: values for the keys it lacks.
        others: the groups that the optimizer has.
        optional: hyperparameters that a group may have without a default.

    Raises:
        TypeError: not a dict, parameters in a set, or something that is no tensor.
        ValueError: an unknown key, a required one that is missing, a tensor that is no
            leaf or is in another group, or names for some parameters only.
    """
    if not isinstance(group, dict):
        raise TypeError(f"param_group must be a dict, but got {type(group)}")
    _check_keys(owner, group, [*defaults, *optional])
    complete = dict(group)
    complete["params"], names = _params(group["params"])
    if names:
        complete["param_names"] = names
    for param in complete["params"]:
        _check_param(param, defaults)
    for name, default in defaults.items():
        if default is required and name not in complete:
            raise ValueError(
                "parameter group didn't specify a value of required optimization "
                f"parameter {name}"
            )
        complete.setdefault(name, default)
    _check_against(complete, list(others))
    return complete


def _check_keys(owner: str, group: Group, known: Collection[str]) -> None:
    if "params" not in group:
        raise ValueError(f"a parameter group of {owner} needs the key 'params'")
    for key in group:
        if key not in known and key not in _allowed:
            raise ValueError(
                f"{owner} has no hyperparameter {key!r}.{nearest(key, known)} "
                f"It has {', '.join(known)}. To carry a key of your own, call "
                f"polyak.allow_group_keys({key!r}) first."
            )


def _ordered(params: Any) -> Iterable[Any]:
    if isinstance(params, set | frozenset):
        raise TypeError(
            "optimizer parameters need to be organized in ordered collections, but the "
            "ordering of tensors in sets will change between runs. Please use a list "
            "instead."
        )
    return params  # type: ignore[no-any-return]


def _params(params: Any) -> tuple[list[Tensor], list[str]]:
    entries = [params] if isinstance(params, Tensor) else list(_ordered(params))
    names = [entry[0] for entry in entries if isinstance(entry, tuple)]
    if names and len(names) != len(entries):
        raise ValueError(
            "all optimizer params should be with/without names. Some param names are "
            "missing"
        )
    return [e[1] if isinstance(e, tuple) else e for e in entries], names


def _check_param(param: Any, defaults: Mapping[str, Any]) -> None:
    if not isinstance(param, Tensor):
        raise TypeError(
            "optimizer can only optimize Tensors, but one of the params is "
            f"{torch.typename(param)}"
        )
    if not (defaults.get("differentiable") or param.is_leaf or param.retains_grad):
        raise ValueError(
            "can't optimize a non-leaf Tensor: it is the result of an operation. Pass "
            "the tensor it was made from, or its .detach().requires_grad_()"
        )


def _check_against(group: Group, others: list[Group]) -> None:
    if len(group["params"]) != len(set(group["params"])):
        warnings.warn(
            "optimizer contains a parameter group with duplicate parameters; each is "
            "updated once a step (torch updates it as often as it is listed, see "
            "github.com/pytorch/pytorch/issues/40967)",
            stacklevel=5,
        )
    for other in others:
        if ("param_names" in group) != ("param_names" in other):
            kind = "with names" if "param_names" in group else "without names"
            raise ValueError(
                "all optimizer param groups should be with/without names. cannot add "
                f"param group {kind} to the optimizer"
            )
    taken = {param for other in others for param in other["params"]}
    if not taken.isdisjoint(group["params"]):
        raise ValueError("some parameters appear in more than one parameter group")
