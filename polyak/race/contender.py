"""Who races: optimizers, written `name` or `name(option=value)`, and their rates."""

import ast
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..optimizer import Optimizer
from ..optimizers import by_name
from .errors import RaceError

DEFAULT_LINEUP = (
    "SGD",
    "SGD(momentum=0.9)",
    "Adam",
    "AdamW",
    "Adamax",
    "RMSprop",
    "Adagrad",
    "Adadelta",
)

# The rate that one would cautiously begin with, where it is not the default.
USUAL_LR = {"SGD": 0.03, "ASGD": 0.03, "RMSprop": 1e-3, "LBFGS": 0.1}


@dataclass(frozen=True)
class Contender:
    """One optimizer at one learning rate."""

    optimizer: type[Optimizer]
    options: Mapping[str, Any]
    lr: float

    @property
    def name(self) -> str:
        """The optimizer as it was written, without its learning rate."""
        options = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        name = self.optimizer.__name__
        return f"{name}({options})" if options else name

    def build(self, model: nn.Module) -> Optimizer:
        """A new optimizer of the model's parameters."""
        make: Any = self.optimizer
        optimizer: Optimizer = make(model.parameters(), lr=self.lr, **self.options)
        return optimizer


def lineup(specs: Sequence[str], lrs: Sequence[float] = ()) -> list[Contender]:
    """Every optimizer at every given rate, or else at rates that suit it."""
    contenders = {}
    for spec in specs:
        name, _, arguments = spec.partition("(")
        optimizer = _find(name.strip())
        options = _options(spec, arguments or ")")
        rates = [options.pop("lr")] if "lr" in options else lrs or _grid(optimizer)
        for lr in sorted(rates):
            contender = Contender(optimizer, options, lr)
            contenders[contender.name, lr] = contender
    return list(contenders.values())


def _find(name: str) -> type[Optimizer]:
    try:
        optimizer = by_name(name)
    except ValueError as error:
        raise RaceError(str(error)) from error
    if optimizer.__name__ == "SparseAdam":
        raise RaceError(
            "SparseAdam takes sparse gradients only, and the race's are dense: "
            "race Adam instead"
        )
    return optimizer


def _options(spec: str, arguments: str) -> dict[str, Any]:
    """The options in ``sgd(momentum=0.9)``, from what follows the bracket."""
    try:
        match ast.parse(f"options({arguments}", mode="eval").body:
            case ast.Call(func=ast.Name("options"), args=[], keywords=keywords):
                return {str(k.arg): ast.literal_eval(k.value) for k in keywords}
    except (SyntaxError, ValueError) as error:
        raise _unreadable(spec) from error
    raise _unreadable(spec)


def _unreadable(spec: str) -> RaceError:
    return RaceError(
        f"{spec!r} is not an optimizer and its options: write name or "
        "name(option=value, ...), such as 'sgd(momentum=0.9, nesterov=True)'"
    )


def _grid(optimizer: type[Optimizer]) -> list[float]:
    """The usual rate and a decade up, as 1, 3, 10: a short race bears large rates."""
    name = optimizer.__name__
    default = getattr(inspect.signature(optimizer).parameters.get("lr"), "default", 0)
    usual = USUAL_LR.get(name, default)
    if not isinstance(usual, int | float) or usual <= 0:
        raise RaceError(f"{name} has no usual learning rate: give one with --lr")
    lowest = round(2 * math.log10(usual))
    return [float(f"{10 ** (half / 2):.0e}") for half in range(lowest, lowest + 3)]


def check(contenders: Sequence[Contender], model: nn.Module) -> None:
    """Refuse before the start what an optimizer would refuse in the middle."""
    for contender in contenders:
        try:
            contender.build(model)
        except (TypeError, ValueError) as error:
            raise RaceError(
                f"{contender.name} at lr {contender.lr} refuses this model or these "
                f"options: {error}"
            ) from error
