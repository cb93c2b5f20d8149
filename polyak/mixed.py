"""One optimizer that updates different parameters by different algorithms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any, Unpack

from .bounds import nearest
from .groups import ALGORITHM
from .hooks import HOOK_KINDS
from .optimizer import Optimizer
from .schema import Schema
from .slot import Group
from .stages import HYPERPARAMETERS, SETTINGS, Stages, asked

__all__ = ["Mixed"]


class Mixed(Optimizer):
    """Several optimizers as one: Muon for the matrices, AdamW for the rest.

    It is an optimizer like any other: one list of groups, one state, one state dict,
    one scheduler, one step that reads all gradients once. What is of the whole step
    counts for all parameters together: ``clip_grad_norm`` is a bound of one norm.

    Args:
        optimizers: what to make it of, each with parameters of its own. Mixed takes
            over their groups, the very dictionaries, and their state; they themselves
            are done with.
        stages: what else a step does in the same pass: :class:`~polyak.Stages`. An
            optimizer or a group may have an ``ema_decay`` of its own.

    Each group has the key ``"optimizer"``, the name of its algorithm. A group that is
    added must have it too, and takes its other values from that optimizer's arguments.
    A checkpoint has it as well, and a group of another algorithm is not loaded; where
    parameters have names, the order does not matter.

    Raises:
        TypeError: what is no optimizer of polyak's, or has a step of its own, as LBFGS.
        ValueError: parameters that two of them have; two of one name; hooks or settings
            of a whole step, which belong to Mixed.

    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = polyak.Mixed(
    ...     polyak.Muon([model.weight], lr=0.02),
    ...     polyak.AdamW([model.bias], lr=3e-4),
    ...     clip_grad_norm=1.0,
    ... )
    >>> model(torch.ones(3)).sum().backward()
    >>> optimizer.step()
    >>> for group in optimizer.param_groups:
    ...     print(group["optimizer"], group["lr"])
    Muon 0.02
    AdamW 0.0003
    >>> optimizer.add_param_group(
    ...     {"params": [torch.zeros(4, requires_grad=True)], "optimizer": "AdamW"}
    ... )
    """

    has_rule = True

    def __init__(self, *optimizers: Optimizer, **stages: Unpack[Stages]) -> None:
        _check(optimizers)
        chosen = {k: v for k, v in stages.items() if k in HYPERPARAMETERS}
        # Copies: they are asked about groups, and look at those of this object.
        self._members = {type(given).__name__: copy(given) for given in optimizers}
        for member in self._members.values():
            member.defaults = {**chosen, **member.defaults}
        groups = [
            (group, {**group, ALGORITHM: type(given).__name__})
            for given in optimizers
            for group in given.param_groups
        ]
        defaults = _common([given.defaults for given in optimizers])
        super().__init__([named for _, named in groups], defaults, **stages)
        # Who holds a group that was given, such as a scheduler, shall go on with it.
        for index, (group, _) in enumerate(groups):
            group.update(self.param_groups[index])
            self.param_groups[index] = group
        for given in optimizers:
            self.state.update(given.state)
            self._fresh |= given._fresh

    @property
    def schemas(self) -> list[Schema]:
        """The rule of each group, by its algorithm, with the stages of all."""
        names = asked(self)
        return [
            self.in_charge(group)._schema_with(names) for group in self.param_groups
        ]

    def in_charge(self, group: Group) -> Optimizer:
        """The optimizer that a group names; it works on the groups and state of this.

        Raises:
            ValueError: none, or an unknown one.
        """
        name = group.get(ALGORITHM)
        if name not in self._members:
            known = ", ".join(self._members)
            raise ValueError(
                f"Mixed has {known}, and cannot tell which is to update a group with "
                f"{ALGORITHM!r}: {name!r}.{nearest(str(name), self._members)} Give the "
                f"group the key {ALGORITHM!r}, with one of these names."
            )
        member = self._members[name]
        # Anew each time: frameworks put others in their place.
        member.param_groups, member._custody = self.param_groups, self._custody
        return member

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters, or raise and change nothing.

        Args:
            param_group: ``"params"``, ``"optimizer"``, which names one of the
                optimizers, and values of its own for some of its hyperparameters.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        member = self.in_charge(param_group)
        own = {key: param_group[key] for key in param_group if key != ALGORITHM}
        member.add_param_group(own)
        self.param_groups[-1][ALGORITHM] = param_group[ALGORITHM]


def _check(optimizers: Sequence[Any]) -> None:
    """Raise where optimizers cannot be one."""
    if not optimizers:
        raise ValueError("Mixed needs optimizers: Mixed(Muon(matrices), AdamW(rest))")
    for given in optimizers:
        _check_member(given)
    names = [type(given).__name__ for given in optimizers]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"Mixed got {name} more than once: give one {name} several groups, "
                "[{'params': ...}, {'params': ...}], each with values of its own"
            )
    if len({bool(given.defaults.get("differentiable")) for given in optimizers}) > 1:
        raise ValueError("Mixed needs the same `differentiable` of all its optimizers")


def _check_member(given: Any) -> None:
    name = type(given).__name__
    if not isinstance(given, Optimizer):
        raise TypeError(
            f"Mixed takes optimizers of polyak, as in Mixed(polyak.Muon(matrices), "
            f"polyak.AdamW(rest)), and got {type(given).__module__}.{name}"
        )
    if isinstance(given, Mixed):
        raise TypeError("Mixed cannot be part of another: give all optimizers to one")
    if not given.has_rule or type(given).step is not Optimizer.step:
        raise TypeError(
            f"{name} cannot be part of Mixed, which applies rules: {name} has a step "
            "of its own. Step it by itself"
        )
    own = [s for s in SETTINGS if getattr(given, s) != getattr(Optimizer, s).default]
    own += ["hooks" for kind in HOOK_KINDS if getattr(given, kind)]
    if own:
        raise ValueError(
            f"{name} has {own[0]} of its own, and the step will be Mixed's: give "
            f"{own[0]} to Mixed instead"
        )


def _common(defaults: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all have, with the same value."""
    first, *others = defaults
    return {
        key: value
        for key, value in first.items()
        if all(key in other and bool(other[key] == value) for other in others)
    }
