"""Parameter groups made from a model: what decays, and rates by layer or by name."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy

from .bounds import above, at_least, at_most
from .depths import Layers, depths_by, depths_in
from .patterns import Choice, Entry, chosen, entries_of
from .slot import Group
from .tables import PARAMETERS, aligned, is_off, settings, shown

__all__ = ["ParamGroups", "param_groups"]

_OWNER = "param_groups"
_NORM = re.compile(r".*Norm(\dd)?")
_SHOWN = 3


class ParamGroups(list[Group]):
    """Parameter groups, a list for any optimizer. Printed, they are a table."""

    def __str__(self) -> str:
        pairs = (pair for group in self for pair in settings(group).items())
        values = dict.fromkeys(key for key, value in pairs if not is_off(value))
        numbers = ["group", "parameters", "numbers", *values]
        rows = [
            [
                str(index),
                str(len(group["params"])),
                f"{sum(param.numel() for param in group['params']):,}",
                *(shown(group[key]) if key in group else "-" for key in values),
                _abbreviated(group.get("param_names", ())),
            ]
            for index, group in enumerate(self)
        ]
        return aligned([*numbers, "names"], rows, right=numbers)

    __repr__ = __str__


def param_groups(
    model: Module,
    weight_decay: float | None = None,
    *,
    no_decay: Choice | None = None,
    layer_decay: float | None = None,
    layers: Layers | None = None,
    lr: float | Tensor | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> ParamGroups:
    r"""Make parameter groups, with names, for any optimizer, polyak's or torch's.

    Parameters with equal hyperparameters share a group. Those that are frozen
    (``requires_grad=False``) are left out. Those that are shared by modules come once,
    and go by any of their names. Parameters are chosen by patterns of names, as of
    :mod:`fnmatch`: ``"*.bias"``, ``"encoder.layer.0.*"``.

    Args:
        model: the model, before a wrapper that flattens its parameters.
        weight_decay: for all parameters but those of ``no_decay``; by default the
            optimizer's own.
        no_decay: what gets a weight decay of 0: a pattern, a function of the name and
            the parameter, or a list of these; ``()`` for nothing. By default norms and
            biases: all parameters of fewer than two dimensions, and those of modules
            whose class is called ``...Norm``.
        layer_decay: :math:`d` in (0, 1]: a parameter in layer :math:`i` of
            :math:`0, \dots, n` gets the learning rate :math:`\gamma d^{n-i}`, the head
            all of it and the embeddings the least, for fine-tuning (`Clark et al., 2020
            <https://arxiv.org/abs/2003.10555>`_). Needs ``lr``.
        layers: what the layers are, from the input to the output: a list with a choice
            for each, such as ``["stem.*", "body.*", "*"]``, of which the first that has
            a parameter counts; or a function of the name that returns :math:`i`. By
            default the elements of the model's ModuleLists and Sequentials, in the
            order of registration; what is registered before them is the first layer,
            what is after them the last.
        lr: the learning rate :math:`\gamma`; by default the optimizer's own.
        overrides: hyperparameters of their own for the parameters of a pattern:
            ``{"head.*": {"lr": 1e-2, "betas": (0.9, 0.95)}}``. They come last, after
            ``layer_decay`` too, and of several that fit, each adds to the one before.

    Returns:
        The groups, in the order of their first parameters.

    Raises:
        ValueError: a pattern that matches nothing, a value out of its range, no
            parameter to train, or no layers.
        TypeError: something else than a model.

    >>> from torch.nn import LayerNorm, Linear, Sequential
    >>> model = Sequential(Linear(4, 3), LayerNorm(3), Linear(3, 2))
    >>> param_groups(model, 0.1, overrides={"2.*": {"lr": 0.01}})
    group  parameters  numbers  weight_decay    lr  names
        0           1       12           0.1     -  0.weight
        1           3        9             0     -  *.bias, 1.weight
        2           1        6           0.1  0.01  2.weight
        3           1        2             0  0.01  2.bias
    """
    _check(model, weight_decay, layer_decay, layers, lr)
    entries = _entries(model)
    undecayed = (
        _norms_and_biases(model, entries)
        if no_decay is None
        else chosen(f"{_OWNER}: no_decay", no_decay, entries)
    )
    rates = _rates(model, entries, lr, layer_decay, layers)
    values: dict[Entry, Group] = {entry: {} for entry in entries}
    for entry, own in values.items():
        if entry in rates:
            own["lr"] = rates[entry]
        if entry in undecayed:
            own["weight_decay"] = 0
        elif weight_decay is not None:
            own["weight_decay"] = weight_decay
    for pattern, extra in (overrides or {}).items():
        _check_override(pattern, extra)
        for entry in chosen(f"{_OWNER}: overrides", pattern, entries):
            values[entry].update(extra)
    trained = {e: own for e, own in values.items() if e.param.requires_grad}
    if not trained:
        raise ValueError(
            f"{_OWNER} finds no parameter to train in {type(model).__name__}: "
            f"requires_grad is False for all {len(entries)}"
        )
    return _merged(trained)


def _check(
    model: Any,
    weight_decay: Any,
    layer_decay: Any,
    layers: Any,
    lr: Any,
) -> None:
    if not isinstance(model, Module):
        raise TypeError(
            f"{_OWNER} takes a torch.nn.Module, of which it needs names and modules, "
            f"but got {torch.typename(model)}: give it the model itself"
        )
    if weight_decay is not None:
        at_least(0)(_OWNER, "weight_decay", weight_decay)
    if lr is not None:
        at_least(0, "learning rate")(_OWNER, "lr", lr)
    if layer_decay is not None:
        above(0)(_OWNER, "layer_decay", layer_decay)
        at_most(1)(_OWNER, "layer_decay", layer_decay)
        if lr is None:
            raise ValueError(
                f"{_OWNER}: layer_decay scales the learning rate, so lr must be given: "
                f"param_groups(model, lr=1e-3, layer_decay={layer_decay})"
            )
    elif layers is not None:
        raise ValueError(
            f"{_OWNER}: layers are for layer_decay, which must be given with them"
        )


def _entries(model: Module) -> list[Entry]:
    entries = entries_of(model)
    for entry in entries:
        if is_lazy(entry.param):
            raise ValueError(
                f"{_OWNER}: {entry.name!r} has no shape yet: run the model on a batch "
                "first, as lazy modules need"
            )
    return entries


def _norms_and_biases(model: Module, entries: Sequence[Entry]) -> set[Entry]:
    of_norms = {
        param
        for module in model.modules()
        if any(_NORM.fullmatch(kind.__name__) for kind in type(module).__mro__)
        for param in module.parameters(recurse=False)
    }
    return {e for e in entries if e.param.dim() < 2 or e.param in of_norms}


def _rates(
    model: Module,
    entries: Sequence[Entry],
    lr: float | Tensor | None,
    layer_decay: float | None,
    layers: Layers | None,
) -> dict[Entry, Any]:
    if lr is None:
        return {}
    if layer_decay is None:
        return dict.fromkeys(entries, lr)
    depths = depths_in(model, entries) if layers is None else depths_by(layers, entries)
    most = max(depths.values(), default=0)
    rate = {depth: lr * layer_decay ** (most - depth) for depth in set(depths.values())}
    return {entry: rate[depth] for entry, depth in depths.items()}


def _check_override(pattern: Any, values: Any) -> None:
    if not isinstance(pattern, str) or not isinstance(values, Mapping):
        raise TypeError(
            f"{_OWNER}: overrides are dicts of hyperparameters by pattern, "
            f"{{'head.*': {{'lr': 1e-2}}}}, but got {pattern!r}: {values!r}"
        )
    for key in PARAMETERS:
        if key in values:
            raise ValueError(
                f"{_OWNER}: overrides[{pattern!r}] has {key!r}, which is no "
                "hyperparameter: the pattern says which parameters are meant"
            )


def _merged(values: Mapping[Entry, Group]) -> ParamGroups:
    groups: dict[Hashable, Group] = {}
    for entry, own in values.items():
        group = groups.setdefault(_key(own), {"params": [], "param_names": [], **own})
        group["params"].append(entry.param)
        group["param_names"].append(entry.name)
    return ParamGroups(groups.values())


def _key(value: Any) -> Hashable:
    """The same for equal values; of tensors, which may change, for the same one."""
    if isinstance(value, Mapping):
        return frozenset((name, _key(part)) for name, part in value.items())
    if isinstance(value, tuple | list):
        return tuple(map(_key, value))
    is_plain = isinstance(value, Hashable) and not isinstance(value, Tensor)
    return value if is_plain else id(value)


def _abbreviated(names: Iterable[str]) -> str:
    """Some names, with a ``*`` for the numbers in which they differ."""
    alike: dict[str, list[list[str]]] = {}
    for name in names:
        parts = name.split(".")
        form = ".".join("*" if part.isdecimal() else part for part in parts)
        alike.setdefault(form, []).append(parts)
    patterns = [_pattern(several) for several in alike.values()]
    more = len(patterns) - _SHOWN
    return ", ".join(patterns[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _pattern(names: Sequence[Sequence[str]]) -> str:
    places = zip(*names, strict=True)
    return ".".join(place[0] if len(set(place)) == 1 else "*" for place in places)
