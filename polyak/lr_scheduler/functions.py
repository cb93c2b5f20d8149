"""Rates that functions of the user's set."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch.optim import lr_scheduler as torch_lr

from .. import schedules
from .attachment import check_optimizer
from .composable import ComposableLR
from .formula import FormulaLR
from .rates import Rate
from .scheduler import Hyperparams, StateDict

__all__ = ["LambdaLR", "MultiplicativeLR"]

Factor = Callable[[int], float]


class _FunctionsLR(FormulaLR):
    """A function for each group, in ``lr_lambdas``."""

    _per_group = (*ComposableLR._per_group, "lr_lambdas")
    _transient = FormulaLR._transient | {"lr_lambdas", "_walked"}

    # Running products, by function, as far as they were needed.
    _walked: dict[int, schedules.multiplicative] | None = None

    def __init__(
        self,
        optimizer: Any,
        lr_lambda: Factor | list[Factor],
        last_epoch: int = -1,
        verbose: bool | str = False,
    ) -> None:
        check_optimizer(self, optimizer)
        self.lr_lambdas = _functions(type(self).__name__, lr_lambda, optimizer)
        self._begin(optimizer, last_epoch, verbose)

    def _distinct(self) -> dict[int, Factor]:
        """The functions, each of them once."""
        functions = self.lr_lambdas
        if functions.count(functions[0]) == len(functions):
            return {id(functions[0]): functions[0]}
        return {id(function): function for function in functions}

    def _scaled(self, factors: dict[int, float]) -> list[Rate]:
        """The base rates times the factor that each group's function has given."""
        if len(factors) == 1:
            (factor,) = factors.values()
            return [base * factor for base in self.base_lrs]
        keys = map(id, self.lr_lambdas)
        return [b * factors[key] for key, b in zip(keys, self.base_lrs, strict=True)]

    def state_dict(self) -> StateDict:
        """Everything but the optimizer and the functions themselves.

        Of a function that is an object of a class, its attributes are saved; of plain
        functions and lambdas, and of schedules, nothing.
        """
        state = super().state_dict()
        state["lr_lambdas"] = [_attributes(function) for function in self.lr_lambdas]
        return state

    def _restore(self, state: StateDict, hyperparams: Hyperparams) -> None:
        saved = state.pop("lr_lambdas", None)
        if saved is None:
            raise ValueError(
                f"the state dict lacks lr_lambdas, which {type(self).__name__} saves: "
                "is it of another scheduler? Nothing was loaded."
            )
        self._walked = None
        load_attributes(self.lr_lambdas, saved)
        super()._restore(state, hyperparams)

    def _taking_back(self) -> AbstractContextManager[None]:
        return attributes_restored_on_error(self.lr_lambdas)


def load_attributes(functions: Iterable[Any], saved: Iterable[Any]) -> None:
    """Give functions that are objects what was saved of them."""
    for function, attributes in zip(functions, saved, strict=False):
        if attributes is not None:
            vars(function).update(attributes)


@contextmanager
def attributes_restored_on_error(functions: Iterable[Any]) -> Iterator[None]:
    """Give functions that are objects their attributes back, where the body raises."""
    kept = [
        vars(f) for f in functions if isinstance(getattr(f, "__dict__", None), dict)
    ]
    before = list(map(dict, kept))
    try:
        yield
    except BaseException:
        for attributes, old in zip(kept, before, strict=True):
            attributes.clear()
            attributes.update(old)
        raise


def _functions(owner: str, given: Any, optimizer: Any) -> list[Factor]:
    groups = optimizer.param_groups
    functions = (
        list(given) if isinstance(given, list | tuple) else [given] * len(groups)
    )
    for function in functions:
        if not callable(function):
            raise TypeError(
                f"lr_lambda should be a function, but got {type(function).__name__}: "
                f"{owner} takes a function of the epoch, or a list with one a group"
            )
    if len(functions) != len(groups):
        raise ValueError(
            f"Expected {len(groups)} lr_lambdas, but got {len(functions)}: give "
            f"{owner} one function for all parameter groups, or one a group"
        )
    return functions


def _attributes(function: Factor) -> dict[str, Any] | None:
    plain = isinstance(function, types.FunctionType | types.BuiltinFunctionType)
    if plain or isinstance(function, schedules.Schedule):
        return None
    return dict(getattr(function, "__dict__", {}))


class LambdaLR(_FunctionsLR, torch_lr.LambdaLR):
    r"""Set the learning rate to the base rate times a function of the epoch.

    .. math:: \eta_k = \eta_0 \lambda(k)

    A schedule is such a function: ``LambdaLR(optimizer, warmup(500) | cosine(9500))``.

    Args:
        optimizer: the optimizer whose rates it sets.
        lr_lambda: :math:`\lambda`, or a list of functions, one a group.
        last_epoch: the last epoch that was done; -1 begins.
        verbose: print each rate that is set.

    Raises:
        ValueError: another number of functions than there are groups.
        TypeError: what is no function.

    >>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
    >>> LambdaLR(optimizer, lambda epoch: 0.5**epoch).value_at(2)
    [0.025]
    """

    chainable = False

    def value_at(self, step: int) -> list[Rate]:
        """The learning rates at a step, one a group; nothing is changed."""
        return self._scaled({key: f(step) for key, f in self._distinct().items()})


class MultiplicativeLR(_FunctionsLR, torch_lr.MultiplicativeLR):
    r"""Multiply the learning rate at each epoch by a function of it.

    .. math:: \eta_k = \eta_{k-1} \lambda(k) = \eta_0 \prod_{j=1}^{k} \lambda(j)

    Args:
        optimizer: the optimizer whose rates it sets.
        lr_lambda: :math:`\lambda`, or a list of functions, one a group.
        last_epoch: the last epoch that was done; -1 begins.
        verbose: print each rate that is set.

    Raises:
        ValueError: another number of functions than there are groups.
        TypeError: what is no function.

    >>> optimizer = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
    >>> MultiplicativeLR(optimizer, lambda epoch: 0.5).value_at(2)
    [0.025]
    """

    def value_at(self, step: int) -> list[Rate]:
        """The learning rates at a step, one a group; nothing is changed."""
        if self._walked is None:
            self._walked = {}
        factors = {}
        for key, function in self._distinct().items():
            if key not in self._walked:
                self._walked[key] = schedules.multiplicative(function)
            factors[key] = self._walked[key].value_at(step)
        return self._scaled(factors)
