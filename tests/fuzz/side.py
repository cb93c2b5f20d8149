"""One side of a comparison: an optimizer to which a scenario happens."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
from tests.fuzz.nudge import Nudge
from tests.fuzz.scenario import (
    Add,
    Arguments,
    Change,
    Copy,
    Drop,
    Event,
    Freeze,
    Group,
    Move,
    Reload,
    Reset,
    Scenario,
    Spec,
    Step,
    Swap,
)
from tests.fuzz.stages import step_with
from tests.fuzz.tensors import gradient, parameter

HALVES = ("bfloat16", "float16")
# torch casts the state to the parameter's dtype when it loads it: to fewer digits, or
# numbers such as `mu_product` to more, with which it then goes on.
ROUNDED_BY_TORCH = (*HALVES, "float64")
# What is said of parameters by bits is said again of those after that many.
BITS = 12


class Side:
    """An optimizer in the middle of a scenario.

    Args:
        scenario: what happens to it.
        library: "polyak" or "torch". Of parameters in half precision torch's has
            float32 copies, which :meth:`follow` polyak's from step to step: a step of
            polyak is computed in float32 and rounded once.
        nudge: a change of every number that is given.
    """

    def __init__(
        self, scenario: Scenario, library: str, nudge: Nudge | None = None
    ) -> None:
        self.name, self.library = scenario.name, library
        self.case = case_of(self.name)
        self.rng = torch.Generator().manual_seed(scenario.seed)
        self.nudge, self.stages = nudge, scenario.stages
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

    @contextmanager
    def unnoticed(self) -> Iterator[None]:
        """In this block the state may be read, and the next step does not look at it.

        Whoever reads ``optimizer.state`` makes the next step of polyak look for changes
        (:mod:`polyak.custody`). A comparison changes nothing, and would hide what a
        step does without looking.
        """
        custody = getattr(self.optimizer, "_custody", None)
        keeper = None if custody is None else custody.keeper
        yield
        if custody is not None:
            custody.keeper = keeper

    def follow(self, other: Side) -> None:
        """Go on from where the other side is, in what it keeps in half precision."""
        with other.unnoticed():
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
        if self.nudge and hasattr(optimizer, "rounds"):
            optimizer.rounds = True
        _part_rates(optimizer)
        return optimizer

    def _arguments(self, arguments: Arguments) -> dict[str, Any]:
        arguments = self._own(arguments)
        if self.library == "torch":
            arguments = {k: v for k, v in arguments.items() if k not in FLAGS}
            if takes(self.name, "foreach"):
                arguments["foreach"] = False
            return arguments
        return {**arguments, **self.stages}

    def _group(self, group: Group) -> dict[str, Any]:
        params = []
        for spec in group.specs:
            half = self.library == "torch" and spec.dtype in HALVES
            values = parameter(spec, self.rng, torch.float32 if half else None)
            values = self._nudged(values)
            params.append(Parameter(values, requires_grad=self.requires_grad))
        self.specs += group.specs
        return {"params": params, **self._own(group.arguments)}

    def _nudged(self, values: Tensor) -> Tensor:
        return self.nudge.tensor(values) if self.nudge else values

    def _own(self, arguments: Arguments) -> dict[str, Any]:
        own = copy.deepcopy(dict(arguments))
        return self.nudge.arguments(own) if self.nudge else own

    # What happens

    def _step(self, event: Step) -> None:
        params = params_of(self.optimizer)
        closure = None
        if self.case.closure:
            closure = closure_for(self.optimizer, params, event.seed)
        elif event.closure:
            closure = functools.partial(self._give, params, event)
        else:
            self._give(params, event)
        if self.library == "polyak":
            self.optimizer.step(closure)
        else:
            step_with(self.optimizer, self.stages, closure)

    def _give(self, params: list[Tensor], event: Step) -> None:
        """Give all parameters their gradients."""
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
            if event.missing >> index % BITS & 1:
                param.grad = None
            elif event.kept and _is_writable(param.grad) and not grad.is_sparse:
                param.grad.copy_(grad)
            else:
                param.grad = grad

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
            group.update(self._own({event.name: event.value}))

    def _reload(self, event: Reload) -> None:
        # torch knows no averages.
        if event.through == "torch" and "ema_decay" not in self.stages:
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
        if self.library == "polyak":
            if event.way == "deepcopy":
                self.optimizer = copy.deepcopy(self.optimizer)
            else:
                self.optimizer = pickle.loads(pickle.dumps(self.optimizer))
            return
        for param in params_of(self.optimizer):
            param.grad = None  # copies of parameters have none
            if event.way == "deepcopy":  # it closes gaps in the memory
                param.data = param.data.clone()

    def _add(self, event: Add) -> None:
        self.optimizer.add_param_group(self._group(event.group))
        _part_rates(self.optimizer)

    def _drop(self, event: Drop) -> None:
        if len(self.optimizer.param_groups) > 1:
            for param in self.optimizer.param_groups.pop()["params"]:
                self.optimizer.state.pop(param, None)
                self.specs.pop()

    def _swap(self, event: Swap) -> None:
        groups, state = self.optimizer.param_groups, self.optimizer.state
        params = groups[event.group % len(groups)]["params"]
        for index, old in enumerate(params):
            params[index] = new = Parameter(_copied(old.data), old.requires_grad)
            its = state.pop(old, None)
            if event.with_state and its is not None:
                state[new] = its

    def _move(self, event: Move) -> None:
        for param in params_of(self.optimizer):
            if event.what == "params":
                param.data = _copied(param.data)
                continue
            state = self.optimizer.state.get(param, {})
            for key, value in state.items():
                if isinstance(value, Tensor):
                    state[key] = value.clone()

    def _freeze(self, event: Freeze) -> None:
        for index, param in enumerate(params_of(self.optimizer)):
            free = self.requires_grad and not event.params >> index % BITS & 1
            param.requires_grad_(free)

    def _reset(self, event: Reset) -> None:
        self.optimizer.state.clear()


def _part_rates(optimizer: torch.optim.Optimizer) -> None:
    """Give each group a rate of its own: one tensor may be the default of several."""
    for group in optimizer.param_groups:
        group["lr"] = copy.deepcopy(group["lr"])


def _is_writable(grad: Tensor | None) -> bool:
    """Whether each number has memory of its own."""
    return (
        grad is not None
        and not grad.is_sparse
        and torch._debug_has_internal_overlap(grad) == 0
    )


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
