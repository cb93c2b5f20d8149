"""Which engine runs which parameter, why, and what it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .groups import named

if TYPE_CHECKING:
    from .engine.kernel import Kernel
    from .engine.survey import Member
    from .optimizer import Optimizer
    from .slot import Group

__all__ = ["Explanation", "Served", "explain"]


@dataclass(frozen=True)
class Served:
    """A parameter and the engine that runs it.

    Attributes:
        name: its name where the optimizer has names, its number otherwise.
        shape: its shape.
        dtype: its dtype.
        engine: ``"cpu"`` or ``"triton"``, one fused kernel, or ``"eager"``, the rule
            called on tensors.
        why: the reason for the eager engine.
        kernel: number of the kernel in :attr:`Explanation.kernels`.
        rule: the optimizer whose rule it is, in a :class:`~polyak.Mixed`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    engine: str
    why: str | None
    kernel: int | None
    rule: str | None = None

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        runs = f"kernel {self.kernel}" if self.why is None else f"eager: {self.why}"
        rule = "" if self.rule is None else f", {self.rule}"
        return f"{self.name} {self.shape} {dtype}{rule}: {runs}"


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found; ``str()`` of it is the text.

    Attributes:
        optimizer: the optimizer's name.
        served: every parameter, in order.
        kernels: the kernels that serve them.
        show_kernels: the text has the kernels' loops.
    """

    optimizer: str
    served: list[Served]
    kernels: list[Kernel]
    show_kernels: bool = False

    def __str__(self) -> str:
        fused = sum(served.why is None for served in self.served)
        kernels = f"{len(self.kernels)} kernel{'s' * (len(self.kernels) != 1)}"
        lines = [
            f"{self.optimizer}: {fused} of {len(self.served)} parameters in {kernels}"
        ]
        lines += [f"  {served}" for served in self.served]
        if self.show_kernels:
            for number, kernel in enumerate(self.kernels):
                lines += ["", f"kernel {number}", kernel.listing.rstrip()]
        return "\n".join(lines)


def explain(optimizer: Optimizer, *, kernel: bool = False) -> Explanation:
    """Tell for each parameter of an optimizer which engine runs it, and why.

    Nothing is changed. A parameter without gradient is judged as if it had one like
    itself, and the kernels are those of a step that is not the first.

    Args:
        optimizer: one of polyak's.
        kernel: show the generated kernels too. ``explanation.kernels[0].ir`` is the
            LLVM that they are compiled from.

    >>> import polyak
    >>> w = torch.zeros(3, requires_grad=True)
    >>> print(polyak.explain(polyak.SGD([w], lr=0.1), kernel=True))
    SGD: 1 of 1 parameters in 1 kernel
      0 (3,) float32: kernel 0
    <BLANKLINE>
    kernel 0
    # SGD: param float32, grad float32
    # for each number, in float32
    for i in range(n):
        param[i] = param[i] - lr * grad[i]
    """
    from .engine.survey import Hyperparameters, kernel_for, survey

    owner = type(optimizer).__name__
    if not optimizer.has_rule:
        served = [
            Served(name, tuple(p.shape), p.dtype, "eager", f"{owner} has no rule", None)
            for name, p in named(optimizer.param_groups)
        ]
        return Explanation(owner, served, [], kernel)
    kernels: list[Kernel] = []
    served = []
    names = {id(param): name for name, param in named(optimizer.param_groups)}
    with torch.no_grad():
        members = list(_members(optimizer))
        for verdict in survey(optimizer, members, Hyperparameters.of(optimizer)):
            number = None
            if verdict.why is None:
                made, _ = kernel_for(optimizer, verdict)
                if made not in kernels:
                    kernels.append(made)
                number = kernels.index(made)
            param = verdict.member.param
            engine = verdict.engine if verdict.why is None else "eager"
            name, shape = names[id(param)], tuple(param.shape)
            kind = verdict.member.schema.owner
            rule = None if kind == owner else kind
            served.append(
                Served(name, shape, param.dtype, engine, verdict.why, number, rule)
            )
    return Explanation(owner, served, kernels, kernel)


def _members(optimizer: Optimizer) -> Iterator[Member]:
    """Every parameter as it will be in a step, with stand-ins for what it lacks."""
    from .engine.survey import Member

    schemas = optimizer.schemas
    for index, group in enumerate(optimizer.param_groups):
        owner = optimizer.in_charge(group)
        for param in group["params"]:
            present = schemas[index].present(group, param)
            grad = torch.empty_like(param) if param.grad is None else param.grad
            missing = owner.missing_state(param, group, present)
            state = dict(optimizer.state.get(param, {}))
            state |= _stand_ins(owner, group, param, missing)
            yield Member(
                param, grad, index, schemas[index], state, present, first=False
            )


def _stand_ins(
    owner: Optimizer, group: Group, param: torch.Tensor, missing: list[str]
) -> dict[str, Any]:
    """State that is to be made: of tensors like the parameter, untouched memory."""
    on_host = {"capturable": False, "fused": None}
    made = state_to_come(owner, {**group, **on_host}, param, missing)
    for name in owner.schema.numbers(owner.schema.present(group, param)):
        if name in made and (group.get("capturable") or group.get("fused")):
            made[name] = made[name].to(param.device)
    for name, value in made.items():
        if isinstance(value, torch.Tensor) and value.is_meta:
            made[name] = torch.empty_like(value, device=param.device)
    return made


def state_to_come(
    owner: Optimizer, group: Group, param: torch.Tensor, missing: list[str]
) -> dict[str, Any]:
    """The state that the next step makes, on the meta device where it can be."""
    model = torch.empty_like(param, device="meta")
    try:
        return owner.initial_state(model, group, missing)
    except RuntimeError:  # it asks for the parameter's values
        return owner.initial_state(param, group, missing)
