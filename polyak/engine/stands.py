"""Stand-ins: what a rule is called with when it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import fx

from ..extent import Extent

if TYPE_CHECKING:
    from .trace import Tracer

__all__ = ["Mask", "Scalar", "Stand", "Symbol", "chosen", "epsilon", "flat", "mapped"]


def chosen(condition: Any, x: Any, y: Any) -> Any:
    """A choice between scalars, made in each step anew."""
    return x if condition else y


class Stand(fx.Proxy):
    """A stand-in for an argument or a result."""

    tracer: Tracer

    def __iter__(self) -> NoReturn:
        self.tracer.refuse("iterates over a value", "name the values in the signature")

    def __len__(self) -> NoReturn:
        self.tracer.refuse("takes the length of a value", "use polyak.leaf for that")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("tracer", "node"):
            self.tracer.refuse_mutation(f"x.{name} = y")
        super().__setattr__(name, value)

    def __float__(self) -> NoReturn:
        self.tracer.refuse(
            "turns a value into a Python float",
            "use operators, such as x ** 0.5 for math.sqrt(x)",
        )

    def __round__(self, digits: int | None = None) -> NoReturn:
        self.tracer.refuse("rounds a value", "use torch.floor on a tensor")


class Scalar(Stand):
    """A stand-in for a number, which knows the number."""

    def choose(self, x: Any, y: Any) -> Any:
        """One of two values, by what this number is in a step."""
        return self.tracer.choose(self, x, y)

    def __int__(self) -> int:
        return self.tracer.fix(self)

    __index__ = __int__


class Symbol(Stand):
    """A stand-in for a tensor of numbers."""

    is_mask = False

    @property
    def extent(self) -> Extent:
        """Along what of the parameter it extends."""
        extent: Extent = self.node.meta["extent"]
        return extent

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        self.tracer.refuse_mutation("x[...] = y")

    def __int__(self) -> NoReturn:
        self.tracer.refuse("turns a tensor into an int", "compute with the tensor")

    __index__ = __int__


class Mask(Symbol):
    """A stand-in for a tensor of truth values."""

    is_mask = True


def epsilon(x: Any) -> Any:
    """The spacing of numbers at one, in the precision of a tensor.

    >>> epsilon(torch.ones(3)) == 2**-23
    True
    """
    if isinstance(x, Symbol):
        return x.tracer.epsilon()
    return torch.finfo(x.dtype).eps


def flat(value: Any) -> Iterator[Any]:
    """What lists, tuples and dicts hold, at any depth."""
    if isinstance(value, tuple | list):
        for part in value:
            yield from flat(part)
    elif isinstance(value, dict):
        yield from flat(list(value.values()))
    else:
        yield value


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """The same lists, tuples and dicts, holding what a function makes of each part."""
    if isinstance(value, tuple | list):
        parts = [mapped(part, function) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {key: mapped(part, function) for key, part in value.items()}
    return function(value)


def _refuse_augmented(sign: str) -> Callable[..., NoReturn]:
    def method(self: Symbol, other: Any) -> NoReturn:
        self.tracer.refuse_mutation(f"x {sign}= y")

    return method


_AUGMENTED = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "truediv": "/",
    "pow": "**",
    "and": "&",
    "or": "|",
}
for _name, _sign in _AUGMENTED.items():
    setattr(Symbol, f"__i{_name}__", _refuse_augmented(_sign))
