"""Reading a rule: from a Python function on tensors to a graph of operators.

A rule is called once with stand-ins. *Tensors* are symbols: whatever is done to them is
recorded. *Scalars* (hyperparameters, the step) are symbols that know their value: they
may be branched on, and the branch taken is kept as a *guard*, so that the graph is used
only where the rule would take the same branches again. What is made of scalars alone
never reaches a kernel: it is computed once per step on the host, in float64
(:mod:`.scalars`), and enters the kernel as an argument.

The graph is a :class:`torch.fx.Graph` whose nodes are the core operators
(:mod:`.operators`). A rule that cannot be read this way is refused with the offending
line and the remedy.
"""

from __future__ import annotations

import linecache
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any, NoReturn

import torch
from torch import fx

from .operators import CORE, REWRITES, operator_name

__all__ = ["Graph", "RuleError", "leaf", "trace"]

Value = fx.Node | float | int | bool
_HERE = str(Path(__file__).parent)
_TORCH = str(Path(torch.__file__).parent)
_ON_SCALARS = (
    *("add", "sub", "mul", "div", "floordiv", "mod", "pow", "neg", "pos", "abs"),
    *("lt", "le", "gt", "ge", "eq", "ne"),
)


class RuleError(TypeError):
    """A rule that no engine can read. The message has its line and the remedy."""


@dataclass(frozen=True)
class Graph:
    """What a rule computes, for one choice of its branches.

    Attributes:
        nodes: the operators in order; each is a tensor or a scalar.
        scalars: the nodes made of scalars alone, with the value seen while tracing.
        tensors: the tensor inputs by name.
        hyperparameters: the scalar inputs by name, as ``betas_0`` for ``betas[0]``.
        guards: the scalars that were branched on, with the outcome.
        outputs: by name (``param``, then each slot), the new value.
        leaves: opaque functions that were called.
    """

    nodes: list[fx.Node]
    scalars: dict[fx.Node, Any]
    tensors: dict[str, fx.Node]
    hyperparameters: dict[str, fx.Node]
    guards: dict[fx.Node, bool | int]
    outputs: dict[str, Value]
    leaves: list[str] = field(default_factory=list)

    def arguments(self) -> list[fx.Node]:
        """The scalars that a kernel takes: those that tensor operators use."""
        used = {
            operand: None
            for node in self.nodes
            if node not in self.scalars
            for operand in node.all_input_nodes
            if operand in self.scalars
        }
        for value in self.outputs.values():
            if isinstance(value, fx.Node) and value in self.scalars:
                used[value] = None
        return list(used)


def leaf(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a tensor function as opaque: a rule may call it, and it is not looked into.

    Use it for what is not elementwise (a matrix product, a norm). A rule with a leaf
    runs eagerly.

    >>> @leaf
    ... def unit(x):
    ...     return x / x.norm()
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        for argument in args:
            if isinstance(argument, Symbol):
                return argument.tracer.leaf(function, args, kwargs)
        return function(*args, **kwargs)

    call.__name__ = function.__name__
    call.__doc__ = function.__doc__
    return call


def trace(
    rule: Callable[..., Any],
    tensors: Sequence[str],
    absent: Sequence[str],
    scalars: Mapping[str, Any],
    static: Mapping[str, Any],
    *,
    scalar_slots: Mapping[str, float] | None = None,
    owner: str = "rule",
) -> Graph:
    """Read a rule for one choice of its branches.

    Args:
        rule: the function.
        tensors: names of the positional arguments that are tensors.
        absent: names of the positional arguments that are None.
        scalars: numeric keyword arguments: a number, or a tuple with numbers in it.
        static: the other keyword arguments, passed as they are.
        scalar_slots: positional arguments that are numbers, with their values.
        owner: the name to use in errors, such as ``"Adam.rule"``.

    Raises:
        RuleError: the rule branches on a tensor, mutates an argument, returns the wrong
            number of values, or uses an operator that is not elementwise.
    """
    tracer = _Tracer(rule, owner)
    known = dict(scalar_slots or {})
    positional: dict[str, Any] = {name: tracer.tensor(name) for name in tensors}
    positional |= {name: tracer.scalar(name, known[name]) for name in known}
    positional |= dict.fromkeys(absent)
    keywords = {name: tracer.lift(name, value) for name, value in scalars.items()}
    order = [name for name in rule.__code__.co_varnames if name in positional]
    returned = rule(*(positional[name] for name in order), **keywords, **static)
    names = [name for name in order if name != "grad"]
    return tracer.finish(returned, names, set(absent), set(known))


class _Stand(fx.Proxy):
    """A stand-in for an argument or a result."""

    tracer: _Tracer

    def __iter__(self) -> NoReturn:
        self.tracer.refuse("iterates over a value", "name the values in the signature")

    def __len__(self) -> NoReturn:
        self.tracer.refuse("takes the length of a value", "wrap it in polyak.leaf")


class Scalar(_Stand):
    """A stand-in for a number, which knows the number."""

    def __float__(self) -> NoReturn:
        self.tracer.refuse(
            "turns a scalar into a Python float",
            "use operators, such as x ** 0.5 for math.sqrt(x)",
        )

    def __int__(self) -> int:
        return self.tracer.fix(self)

    __index__ = __int__


class Symbol(_Stand):
    """A stand-in for a tensor."""

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        self.tracer.refuse_mutation("x[...] = y")


def _refuse_augmented(sign: str) -> Callable[..., NoReturn]:
    def method(self: Symbol, other: Any) -> NoReturn:
        self.tracer.refuse_mutation(f"x {sign}= y")

    return method


_AUGMENTED = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "pow": "**"}
for _name, _sign in _AUGMENTED.items():
    setattr(Symbol, f"__i{_name}__", _refuse_augmented(_sign))


class _Tracer(fx.Tracer):
    def __init__(self, rule: Callable[..., Any], owner: str) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.code: CodeType = rule.__code__
        self.owner = owner
        self.scalars: dict[fx.Node, Any] = {}
        self.inputs: dict[str, fx.Node] = {}
        self.hyperparameters: dict[str, fx.Node] = {}
        self.guards: dict[fx.Node, bool | int] = {}
        self.leaves: list[str] = []
        self.rewriting = False

    # Inputs

    def tensor(self, name: str) -> Symbol:
        self.inputs[name] = node = self.graph.placeholder(name)
        return Symbol(node, self)

    def scalar(self, name: str, value: float) -> Scalar:
        self.hyperparameters[name] = node = self.graph.placeholder(name)
        self.scalars[node] = value
        return Scalar(node, self)

    def lift(self, name: str, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(self.lift(f"{name}_{i}", part) for i, part in enumerate(value))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self.scalar(name, value)
        return value

    # Operators

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *_: Any,
        **__: Any,
    ) -> Any:
        name = operator_name(target)
        operands = [x for x in (*args, *kwargs.values()) if isinstance(x, _Stand)]
        if not any(isinstance(operand, Symbol) for operand in operands):
            return self._on_scalars(name, target, args, kwargs)
        if (kind == "call_method" and name.endswith("_")) or "out" in kwargs:
            self.refuse_mutation(f"x.{name}(...)")
        if name in ("maximum", "minimum") and len(args) < 2:  # x.max(): a reduction
            self._refuse_operator(name)
        if name in ("add", "sub") and "alpha" in kwargs:
            args = (args[0], kwargs["alpha"] * args[1])
            kwargs = {}
        if name in REWRITES:
            return self._rewritten(REWRITES[name], args, kwargs)
        if name not in CORE or kwargs:
            self._refuse_operator(name)
        if name == "where" and not self.rewriting:
            self._check_where(*args)
        operands_or_numbers = tuple(self._operand(name, x) for x in args)
        node = self.graph.call_function(CORE[name], operands_or_numbers)
        return Symbol(node, self)

    def _rewritten(self, rewrite: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        before, self.rewriting = self.rewriting, True
        try:
            return rewrite(*args, **kwargs)
        finally:
            self.rewriting = before

    def _check_where(self, condition: Any, *branches: Any) -> None:
        if len(branches) != 2 or not any(isinstance(x, Symbol) for x in branches):
            self.refuse(
                "chooses between numbers, which gives torch no dtype for the result",
                "let one branch be a tensor, as in torch.where(c, 2 * x, x)",
            )

    def leaf(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Symbol:
        self.leaves.append(function.__name__)
        node = self.create_node("call_function", function, self._nodes(args), {})
        return Symbol(node, self)

    def _on_scalars(self, name: str, target: Any, args: Any, kwargs: Any) -> Scalar:
        if name not in _ON_SCALARS or isinstance(target, str) or kwargs:
            self.refuse(
                f"calls {name} on a scalar, which is a Python number",
                "use operators, such as x ** 0.5",
            )
        node = self.graph.call_function(target, self._nodes(args))
        known = (self.scalars[x.node] if isinstance(x, Scalar) else x for x in args)
        self.scalars[node] = target(*known)
        return Scalar(node, self)

    def _nodes(self, operands: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self.create_arg(operand) for operand in operands)

    def _operand(self, name: str, operand: Any) -> Any:
        if isinstance(operand, fx.Proxy):
            return operand.node
        if isinstance(operand, int | float):
            return operand
        self.refuse(
            f"gives {name} an operand of type {type(operand).__name__}",
            "a rule computes with its tensors and with numbers",
        )

    # Branches

    def to_bool(self, obj: fx.Proxy) -> bool:
        if isinstance(obj, Symbol):
            self.refuse(
                "branches on a tensor",
                "a rule may branch on scalars only; use torch.where",
            )
        return bool(self.guards.setdefault(obj.node, bool(self.scalars[obj.node])))

    def fix(self, scalar: Scalar) -> int:
        """Specialise the graph on the very value of an integer scalar."""
        value = self.scalars[scalar.node]
        return self.guards.setdefault(scalar.node, operator.index(value))

    # The end, and what is refused

    def finish(
        self,
        returned: Any,
        names: Sequence[str],
        absent: set[str],
        numbers: set[str],
    ) -> Graph:
        values = returned if isinstance(returned, tuple) else (returned,)
        if len(values) != len(names):
            self.refuse(
                f"returns {len(values)} values where {len(names)} are due",
                f"return ({', '.join(names)}), with None for an absent slot",
                self.code.co_firstlineno,
            )
        outputs = {
            name: self._output(name, value, absent, numbers)
            for name, value in zip(names, values, strict=True)
        }
        return Graph(
            nodes=[node for node in self.graph.nodes if node.op == "call_function"],
            scalars=self.scalars,
            tensors=self.inputs,
            hyperparameters=self.hyperparameters,
            guards=self.guards,
            outputs={name: out for name, out in outputs.items() if out is not None},
            leaves=self.leaves,
        )

    def _output(
        self, name: str, value: Any, absent: set[str], numbers: set[str]
    ) -> Any:
        line = self.code.co_firstlineno
        if (value is None) != (name in absent):
            got = "None" if value is None else "a value"
            due = "None, since it is absent" if name in absent else "a tensor"
            self.refuse(f"returns {got} for {name}", f"return {due}", line)
        if name in numbers and isinstance(value, Symbol):
            self.refuse(f"returns a tensor for {name}", "it is a number", line)
        if isinstance(value, fx.Proxy):
            return value.node
        if value is None or isinstance(value, int | float):
            return value
        kind = type(value).__name__
        self.refuse(f"returns {name} of type {kind}", "return a tensor", line)

    def refuse(self, what: str, remedy: str, line: int | None = None) -> NoReturn:
        file, number = self.code.co_filename, line or self._line()
        if line is None:
            file, number = self._where()
        source = linecache.getline(file, number).strip()
        raise RuleError(
            f"{self.owner} {what}: `{source}` ({Path(file).name}, line {number}). "
            f"Remedy: {remedy}."
        )

    def refuse_mutation(self, how: str) -> NoReturn:
        self.refuse(f"mutates a tensor ({how})", "a rule returns new values: x = x + y")

    def _refuse_operator(self, name: str) -> NoReturn:
        self.refuse(
            f"uses {name}, which no engine knows as an elementwise operator",
            "wrap what is not elementwise in a function marked @polyak.leaf",
        )

    def _line(self) -> int:
        return self._where()[1]

    def _where(self) -> tuple[str, int]:
        """The innermost line outside polyak's engine and torch."""
        frame = sys._getframe(1)
        while frame.f_back is not None:
            file = frame.f_code.co_filename
            if not file.startswith((_HERE, _TORCH)):
                return file, frame.f_lineno
            frame = frame.f_back
        return self.code.co_filename, self.code.co_firstlineno
