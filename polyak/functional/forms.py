"""torch's functional forms: a step on lists of tensors, which are updated in place.

There is one for every rule of which torch has one, with torch's signature; none is
written out. What the arguments mean is told by two tables: which slot a list holds, and
which numbers make a pair among the hyperparameters. All other names are those of the
class.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ..engine.eager import update
from ..optimizer import Optimizer
from ..optimizers import all_optimizers
from ..slot import number
from .step import complete

__all__ = ["all_forms"]

# Which slot each of torch's lists holds.
_LISTS = {
    "acc_deltas": "acc_delta",
    "axs": "ax",
    "col_vars": "col_var",
    "etas": "eta",
    "exp_avg_sqs": "exp_avg_sq",
    "exp_avgs": "exp_avg",
    "exp_infs": "exp_inf",
    "grad_avgs": "grad_avg",
    "max_exp_avg_sqs": "max_exp_avg_sq",
    "momentum_buffer_list": "momentum_buffer",
    "mu_products": "mu_product",
    "muon_momentum_bufs": "momentum_buffer",
    "mus": "mu",
    "prevs": "prev",
    "row_vars": "row_var",
    "square_avgs": "square_avg",
    "state_steps": "step",
    "state_sums": "sum",
    "step_sizes": "step_size",
    "variances": "variance",
}

# The hyperparameters that torch's functions take number by number.
_PAIRS = {
    "betas": ("beta1", "beta2"),
    "eps": ("eps1", "eps2"),
    "etas": ("etaminus", "etaplus"),
    "step_sizes": ("step_size_min", "step_size_max"),
}

# Those that are given the number of the step to come: torch's classes count before.
_COUNTED = ("sparse_adam",)


@cache
def all_forms() -> dict[str, Callable[..., None]]:
    """The functional form of every optimizer of which torch has one, by name."""
    forms = {}
    for kind in all_optimizers().values():
        original = _torchs(kind.__module__.rpartition(".")[2])
        if original is not None and hasattr(kind, "rule"):
            forms[original.__name__] = _form(kind, original)
    return forms


def _torchs(name: str) -> Callable[..., None] | None:
    for place in (name, "_functional", f"_{name}"):
        try:
            module = import_module(f"torch.optim.{place}")
        except ModuleNotFoundError:
            continue
        if inspect.isfunction(found := getattr(module, name, None)):
            return found
    return None


def _form(kind: type[Optimizer], original: Callable[..., None]) -> Callable[..., None]:
    signature, name = inspect.signature(original), original.__name__

    def form(*args: Any, **kwargs: Any) -> None:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{name}(): {error}") from None
        bound.apply_defaults()
        given = bound.arguments
        params, grads, *_ = given.values()
        # Those that have no such argument are always differentiable, as torch's.
        asked = given.get("differentiable", True)
        given["differentiable"] = recorded = asked and torch.is_grad_enabled()
        with torch.set_grad_enabled(recorded):
            _step(name, kind, params, grads, given)

    form.__name__ = form.__qualname__ = name
    form.__module__ = __package__ or __name__
    form.__doc__ = (
        f"One step of :class:`polyak.{kind.__name__}`, on lists of tensors.\n\n"
        f"The arguments are those of :func:`{original.__module__}.{name}`. Parameters "
        "and state\nare updated in place."
    )
    form.__signature__ = signature  # type: ignore[attr-defined]
    return form


def _step(
    name: str,
    kind: type[Optimizer],
    params: list[Tensor],
    grads: list[Tensor],
    given: dict[str, Any],
) -> None:
    found_inf, grad_scale = given.get("found_inf"), given.get("grad_scale")
    if found_inf is not None and number(found_inf):
        return
    optimizer = _optimizer(kind, given)
    schema, group = optimizer.schema, optimizer.param_groups[0]
    if len(grads) != len(params):
        raise ValueError(
            f"{name}(): {len(grads)} gradients for {len(params)} params: give one for "
            "each"
        )
    lists = dict(_lists(name, given, len(params), (*schema.present(group), "step")))
    for param, grad in zip(params, grads, strict=True):
        optimizer.check_gradient(param, grad, group)
    for index, (param, grad) in enumerate(zip(params, grads, strict=True)):
        if grad_scale is not None:
            grad.div_(grad_scale)
        held = {slot: entries[index] for slot, entries in lists.items()}
        if name in _COUNTED:
            held["step"] = held["step"] - 1
        state, first = complete(optimizer, schema, param, held)
        update(
            schema,
            group,
            param,
            grad,
            state,
            present=schema.present(group, param),
            first=first,
            by_rows=grad.is_sparse and optimizer.on_sparse(group) == "rows",
        )
        for slot, entries in lists.items():
            if entries[index] is None:
                entries[index] = state.get(slot)


def _optimizer(kind: type[Optimizer], given: Mapping[str, Any]) -> Optimizer:
    """An optimizer without parameters, with the hyperparameters that were given."""
    optimizer = copy.copy(_template(kind))  # type: ignore[arg-type]
    group = dict(optimizer.param_groups[0])
    group.update((key, value) for key, value in given.items() if key in group)
    group["differentiable"] = given["differentiable"]
    for key, parts in _PAIRS.items():
        if all(part in given for part in parts):
            group[key] = tuple(given[part] for part in parts)
    optimizer.param_groups = [group]
    return optimizer


@cache
def _template(kind: type[Optimizer]) -> Optimizer:
    return kind([{"params": []}])  # type: ignore[call-arg]


def _lists(
    name: str, given: Mapping[str, Any], count: int, due: tuple[str, ...]
) -> Iterator[tuple[str, list[Any]]]:
    """The lists of state that the rule needs, by slot."""
    for argument, entries in given.items():
        slot = _LISTS.get(argument)
        if slot not in due:
            continue
        if len(entries) != count:
            raise ValueError(
                f"{name}(): {argument} has {len(entries)} entries for {count} params: "
                "give one for each"
            )
        if slot == "step" and name not in _COUNTED:
            _check_steps(entries)
        yield slot, entries


def _check_steps(steps: list[Any]) -> None:
    if not all(isinstance(step, Tensor) for step in steps):
        raise RuntimeError(
            "API has changed, `state_steps` argument must contain a list of singleton "
            "tensors: it is counted up in place"
        )
