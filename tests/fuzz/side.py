"""One side of a comparison: an optimizer to which a scenario happens."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from tests.contract.harness import (
    before_lr_changes,
    case_of,
    closure_for,
    make,
    ours,
    params_of,
    reference,
    takes,
)
from tests.fuzz.hyperparameters import FLAGS
from tests.fuzz.scenario import (
    Add,
    Change,
    Copy,
    Event,
    Group,
    Move,
    Reload,
    Scenario,
    Spec,
    Step,
)
from tests.fuzz.tensors import gradient, parameter

HALVES = ("bfloat16", "float16")
# torch casts the state to the parameter's dtype when it loads it: to fewer digits, or
# numbers such as `mu_product` to more, with which it then goes on.
ROUNDED_BY_TORCH = (*HALVES, "float64")


class Side:
    """An optimizer in the middle of a scenario.

    Args:
        scenario: what happens to it.
        library: "polyak" or "torch". Of parameters in half precision torch's has
            float32 copies, which :meth:`follow` polyak's from step to step: a step of
            polyak is computed in float32 and rounded once.
        nudge: the seed of a change in the last place of every number that is given.
    """

    def __init__(
        self, scenario: Scenario, library: str, nudge: int | None = None
    ) -> None:
        self.name, self.library = scenario.name, library
        self.case = case_of(self.name)
        self.rng = torch.Generator().manual_seed(scenario.seed)
        self.noise = None if nudge is None else torch.Generator().manual_seed(nudge)
        self.specs: list[Spec] = []
        self.requires_grad = not scenario.arguments.get("differentiable")
        self.optimizer = self._new(
            library,
            [self._group(group) for group in scenario.groups],
            self._arguments(scenario.arguments),
        )
        self.constructed = self._arguments(scenario.arguments)

    def apply(self, event: Event) -> None:
        """Let something happen."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            getattr(self, f"_{type(event).__name__.lower()}")(event)

    def follow(self, other: Side) -> None:
        """Go on from where the other side is, in what it keeps in half precision."""
        for param, its in zip(
            params_of(self.optimizer), params_of(other.optimizer), strict=True
        ):
            _take(param.data, its)
            state, its_state = self.optimizer.state, other.optimizer.state
            for key, value in its_state.get(its, {}).items():
                _take(state.get(param, {}).get(key), value)

    # What is made

    def _new(
        self, library: str, groups: list[dict[str, Any]], arguments: dict[str, Any]
    ) -> torch.optim.Optimizer:
        kind = ours(self.name) if library == "polyak" else reference(self.name)
        optimizer = make(kind, groups, arguments)
        _part_rates(optimizer)
        return optimizer

    def _arguments(self, arguments: Any) -> dict[str, Any]:
        arguments = copy.deepcopy(dict(arguments))
        if self.library == "torch":
            arguments = {k: v for k, v in arguments.items() if k not in FLAGS}
            if takes(self.name, "foreach"):
                arguments["foreach"] = False
        return arguments

    def _group(self, group: Group) -> dict[str, Any]:
        params = []
        for spec in group.specs:
            half = self.library == "torch" and spec.dtype in HALVES
            values = parameter(spec, self.rng, torch.float32 if half else None)
            values = self._nudged(values)
            params.append(Parameter(values, requires_grad=self.requires_grad))
        self.specs += group.specs
        return {"params": params, **copy.deepcopy(dict(group.arguments))}

    def _nudged(self, values: Tensor) -> Tensor:
        """Each number changed in its last place, or not."""
        if self.noise is None:
            return values
        sign = torch.randint(-1, 2, values.shape, generator=self.noise)
        eps = torch.finfo(values.dtype).eps
        return values * (1 + eps * sign.to(values.real.dtype))

    # What happens

    def _step(self, event: Step) -> None:
        params = params_of(self.optimizer)
        if self.case.closure:
            self.optimizer.step(closure_for(self.optimizer, params, event.seed))
            return
        rng = torch.Generator().manual_seed(event.seed)
        for index, (param, spec) in enumerate(zip(params, self.specs, strict=True)):
            layout, bad = event.layout, event.bad if index == 0 else None
            if layout == "sparse" and not self._takes_sparse(param, index):
                layout = "like"
            grad = gradient(param, spec, rng, layout, event.scale, bad)
            if self.library == "torch":
                grad = self._plain(grad)
            if not grad.is_sparse:
                grad = self._nudged(grad)
            param.grad = None if event.missing >> index & 1 else grad
        self.optimizer.step()

    def _plain(self, grad: Tensor) -> Tensor:
        """A gradient as torch takes it: some forms make some of its classes raise."""
        if grad.is_sparse:
            return grad.to_dense() if self.case.sparse == "also" else grad
        return grad.resolve_conj().resolve_neg()

    def _takes_sparse(self, param: Tensor, index: int) -> bool:
        group = next(
            g
            for g in self.optimizer.param_groups
            if any(param is p for p in g["params"])
        )
        refused = any(group.get(key) for key in self.case.sparse_refuses)
        return param.dim() > 0 and not refused

    def _change(self, event: Change) -> None:
        groups = self.optimizer.param_groups
        group = groups[event.group % len(groups)]
        before = group[event.name]
        if isinstance(before, Tensor) and event.fill:
            before_lr_changes(self.name, self.optimizer)
            group[event.name].fill_(event.value)
        else:
            group[event.name] = copy.deepcopy(event.value)

    def _reload(self, event: Reload) -> None:
        if event.through == "torch":
            if not any(spec.dtype in ROUNDED_BY_TORCH for spec in self.specs):
                other = "polyak" if self.library == "torch" else "torch"
                for library in (other, self.library):
                    self._load(library, copy.deepcopy(self.optimizer.state_dict()))
        elif self.library == "polyak":
            saved = self.optimizer.state_dict()
            if event.through == "file":
                file = io.BytesIO()
                torch.save(saved, file)
                file.seek(0)
                saved = torch.load(file, weights_only=True)
            self._load("polyak", saved)

    def _load(self, library: str, saved: dict[str, Any]) -> None:
        groups = [{"params": g["params"]} for g in self.optimizer.param_groups]
        arguments = self.constructed if library == self.library else {}
        self.optimizer = self._new(library, groups, arguments)
        self.optimizer.load_state_dict(saved)
        _part_rates(self.optimizer)

    def _copy(self, event: Copy) -> None:
        if self.library == "torch":
            if event.way == "deepcopy":  # of a parameter, it closes gaps in the memory
                for param in params_of(self.optimizer):
                    param.data = param.data.clone()
        elif event.way == "deepcopy":
            self.optimizer = copy.deepcopy(self.optimizer)
        else:
            self.optimizer = pickle.loads(pickle.dumps(self.optimizer))

    def _add(self, event: Add) -> None:
        self.optimizer.add_param_group(self._group(event.group))
        _part_rates(self.optimizer)

    def _move(self, event: Move) -> None:
        for param in params_of(self.optimizer):
            param.data = _copied(param.data)


def _part_rates(optimizer: torch.optim.Optimizer) -> None:
    """Give each group a rate of its own: one tensor may be the default of several."""
    for group in optimizer.param_groups:
        group["lr"] = copy.deepcopy(group["lr"])


def _copied(values: Tensor) -> Tensor:
    """A copy in other memory, of the same strides."""
    memory = values.new_zeros(1 + sum(_reach(values))).as_strided(
        values.shape, values.stride()
    )
    return memory.copy_(values)


def _reach(values: Tensor) -> Iterator[int]:
    sizes = zip(values.shape, values.stride(), strict=True)
    return ((size - 1) * stride for size, stride in sizes if size)


def _take(value: Any, its: Any) -> None:
    """Take the other's numbers, if they are in half precision."""
    if isinstance(its, Tensor) and its.dtype in (torch.bfloat16, torch.float16):
        value.copy_(its.detach())
