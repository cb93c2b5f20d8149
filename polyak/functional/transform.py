r"""Optimizers as functions: from parameters, gradients and state to new ones.

>>> import polyak
>>> opt = polyak.functional.transform(polyak.SGD, lr=0.5, momentum=0.9)
>>> params = {"w": torch.tensor([1.0, -2.0])}
>>> state = opt.init(params)
>>> grads = {"w": torch.tensor([1.0, 0.0])}
>>> for _ in range(2):
...     params, state = opt.update(params, grads, state)
>>> params
{'w': tensor([-0.4500, -2.0000])}
>>> state
{'w': {'momentum_buffer': tensor([1.9000, 0.0000])}}

Nothing that was given is written to, and so they compose with :mod:`torch.func`. How
the loss after two steps down a parabola depends on the learning rate:

>>> def after_two_steps(lr):
...     params = {"w": torch.tensor([1.0, -2.0])}
...     state = opt.init(params)
...     for _ in range(2):
...         params, state = opt.update(params, params, state, lr=lr)
...     return params["w"].square().sum()
>>> torch.func.grad(after_two_steps)(torch.tensor(0.5))
tensor(3.8000)
"""

from __future__ import annotations

import copy
from typing import Any

import torch  # noqa: F401  (for the examples above)
from torch import Tensor

from ..bounds import nearest
from ..optimizer import Optimizer
from ..schema import Schema
from ..slot import zeros
from ..stages import HYPERPARAMETERS
from .scalars import ends, readable
from .step import State, complete, injections, stepped
from .trees import Tree, label

__all__ = ["Transform", "transform"]


def transform(kind: type[Optimizer], /, **hyperparameters: Any) -> Transform:
    """The rule of an optimizer, as functions.

    Args:
        kind: the optimizer, such as :class:`polyak.AdamW`.
        hyperparameters: those of its constructor, with :class:`~polyak.Stages`. They
            may be tensors, also such as a transform differentiates by or maps over.
            What says how a class computes (``foreach``, ``fused``,
            ``differentiable``) changes nothing here.

    Raises:
        TypeError: no optimizer of polyak, or one without a rule; an unknown
            hyperparameter.
        ValueError: a value out of its bounds, or a stage that needs an object.
    """
    return Transform(kind, hyperparameters)


class Transform:
    """The functions :meth:`init` and :meth:`update`: see :func:`transform`.

    Parameters, gradients and state are dicts by name, or other trees of tensors, all of
    one form. A step gives the values that the class gives.

    Parameters that require gradients are differentiated through, step after step:
    outside :mod:`torch.func`, take ``param.detach()`` or :func:`torch.no_grad` where
    that is not wanted.
    """

    def __init__(self, kind: type[Optimizer], hyperparameters: dict[str, Any]) -> None:
        _check_kind(kind)
        lows, highs = _ends_of(hyperparameters)
        self._optimizer = kind([{"params": []}], **lows)
        if self._optimizer.nonfinite != "ignore":
            raise ValueError(
                f"{kind.__name__}: a function cannot leave steps out or count them "
                f"(nonfinite={self._optimizer.nonfinite!r}): choose between the old "
                "and the new values with torch.where"
            )
        if self._optimizer.clear_grads:
            raise ValueError(
                f"{kind.__name__}: a function is given its gradients and has none to "
                "clear (clear_grads=True)"
            )
        group = self._optimizer.param_groups[0]
        kind.check_group({**group, **{k: v for k, v in highs.items() if k in group}})
        group.update((k, v) for k, v in hyperparameters.items() if k in group)

    def __repr__(self) -> str:
        group = self._optimizer.param_groups[0]
        values = (f"{key}={value!r}" for key, value in group.items() if key != "params")
        return f"transform({type(self._optimizer).__name__}, {', '.join(values)})"

    def init(self, params: Any) -> Any:
        """The state before the first step.

        Args:
            params: tensors by name.

        Returns:
            ``{name: {slot: tensor}}``, with the names of the class's state; the counter
            ``step`` is a tensor without dimensions. What a rule itself begins, such as
            the momentum of SGD, comes with the first step.
        """
        optimizer, schema = self._optimizer, self._optimizer.schema
        tree = Tree(schema.owner, params)
        for index, param in enumerate(tree.params.values()):
            optimizer.check_param(param, [0, index])
        if schema.wants_first:
            return tree.like({} for _ in tree.params)
        params = tree.params.values()
        return tree.like(complete(optimizer, schema, param, {})[0] for param in params)

    def update(
        self, params: Any, grads: Any, state: Any, **hyperparameters: Any
    ) -> tuple[Any, Any]:
        """One step.

        Args:
            params: tensors by name.
            grads: their gradients; None leaves a parameter and its state as they are.
            state: what :meth:`init` or the step before gave.
            hyperparameters: values for this step alone.

        Returns:
            The new parameters and the new state.

        Raises:
            TypeError: an unknown hyperparameter.
            ValueError: names that are missing or unknown, a gradient of another shape,
                a value out of its bounds.
            RuntimeError: a sparse gradient that the optimizer does not take; the rule
                branches on a number that differs within a batch.
        """
        optimizer = self._with(hyperparameters)
        schema, group = optimizer.schema, optimizer.param_groups[0]
        tree = Tree(schema.owner, params)
        members, states = list(tree.grads(grads)), tree.states(state)
        given = [grad for _, _, grad in members if grad is not None]
        injected = injections(optimizer, schema, given)
        new = []
        for path, param, grad in members:
            if grad is None:
                new.append((param, states[path]))
                continue
            optimizer.check_gradient(param, grad, group)
            _check_shapes(schema, label(path), param, states[path])
            held, first = complete(optimizer, schema, param, states[path])
            new.append(stepped(optimizer, schema, param, grad, held, first, injected))
        return tree.like(p for p, _ in new), tree.like(s for _, s in new)

    def _with(self, hyperparameters: dict[str, Any]) -> Optimizer:
        """The optimizer with other hyperparameters."""
        if not hyperparameters:
            return self._optimizer
        kind, group = type(self._optimizer), self._optimizer.param_groups[0]
        known = [key for key in (*group, *HYPERPARAMETERS) if key != "params"]
        for name in hyperparameters:
            if name not in known:
                raise TypeError(
                    f"{kind.__name__}.update() got an unexpected hyperparameter "
                    f"{name!r}.{nearest(name, known)} It has "
                    f"{', '.join(dict.fromkeys(known))}."
                )
        if all(map(readable, _tensors(hyperparameters))):
            for values in _ends_of(hyperparameters):
                kind.check_group({**group, **values})
        optimizer = copy.copy(self._optimizer)
        optimizer.param_groups = [{**group, **hyperparameters}]
        return optimizer


# Checks


def _check_kind(kind: Any) -> None:
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise TypeError(
            f"transform() takes an optimizer class of polyak, got {kind!r}: write "
            "transform(polyak.AdamW, lr=1e-3)"
        )
    if not hasattr(kind, "rule"):
        raise TypeError(
            f"transform() takes an optimizer with a rule, and {kind.__name__} has "
            "none: its step is no function of parameters, gradients and state alone. "
            "Use the class."
        )


def _check_shapes(schema: Schema, name: str, param: Tensor, state: State) -> None:
    for key, value in state.items():
        slot = schema.slots.get(key)
        if slot is None or slot.number or slot.init is not zeros or value is None:
            continue
        shape = slot.extent.shape(param.shape)
        if value.shape != shape:
            raise ValueError(
                f"{schema.owner}: state has {key} of shape {tuple(value.shape)} for "
                f"{name}, where it is {shape}: take the state that "
                "init(params) or the update before gave"
            )


def _ends_of(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    found = {name: ends(value) for name, value in values.items()}
    return (
        {name: low for name, (low, _) in found.items()},
        {name: high for name, (_, high) in found.items()},
    )


def _tensors(values: dict[str, Any]) -> list[Tensor]:
    flat = (v if isinstance(v, tuple | list) else (v,) for v in values.values())
    return [part for parts in flat for part in parts if isinstance(part, Tensor)]
