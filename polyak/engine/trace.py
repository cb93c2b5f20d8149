"""Reading a rule: from a Python function on tensors to a graph of operators.

A rule is called once with stand-ins. *Tensors* are symbols: whatever is done to them is
recorded. *Scalars* (hyperparameters, the step) are symbols that know their value: they
may be branched on, and the branch taken is kept as a *guard*, so that the graph is used
only where the rule would take the same branches again. What is made of scalars alone
never reaches a kernel: it is computed once per step on the host, in float64
(:mod:`.scalars`), and enters the kernel as an argument.

The graph is a :class:`torch.fx.Graph` whose nodes are the core operators
(:mod:`.operators`), and sums and means over rows, columns, or all of a tensor. A node's
``meta["extent"]`` says along what its value extends (:mod:`polyak.extent`). A rule that
cannot be read this way is refused with the offending line and the remedy.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import operator
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import fx

from ..extent import Extent
from .graph import Graph, RuleError
from .operators import (
    CORE,
    MASKS,
    OF_TENSORS,
    POWERS,
    REDUCTIONS,
    REWRITES,
    operator_name,
    reduced,
)
from .stands import Mask, Scalar, Stand, Symbol, chosen, flat, mapped

__all__ = ["trace"]

_NOT_RULES = tuple(f"{Path(f).parent}{os.sep}" for f in (__file__, torch.__file__))
_ON_SCALARS = {
    getattr(operator, name)
    for name in (
        *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "neg", "pos"),
        *("abs", "lt", "le", "gt", "ge", "eq", "ne"),
    )
}


def trace(
    rule: Callable[..., Any],
    order: Sequence[str],
    tensors: Sequence[str],
    numbers: Mapping[str, float],
    scalars: Mapping[str, Any],
    static: Mapping[str, Any],
    *,
    extents: Mapping[str, Extent] | None = None,
    owner: str = "rule",
    live: bool = False,
) -> Graph:
    """Read a rule for one choice of its branches.

    Args:
        rule: the function.
        order: names of its positional arguments.
        tensors: those that are tensors.
        numbers: those that are numbers, with their values. The others are None.
        scalars: numeric keyword arguments: a number, or a tuple with numbers in it.
        static: the other keyword arguments, passed as they are.
        extents: along what the tensors extend that are not like the parameter.
        owner: the name to use in errors, such as ``"Adam.rule"``.
        live: the scalars stay on a device: :func:`polyak.where` chooses there.

    Raises:
        RuleError: the rule branches on a tensor, mutates an argument, returns the wrong
            number of values, or uses an operator that is not elementwise.
    """
    tracer, extents = Tracer(rule, owner, live), extents or {}
    positional: dict[str, Any] = dict.fromkeys(order)
    positional |= {name: tracer.scalar(name, numbers[name]) for name in numbers}
    positional |= {
        name: tracer.tensor(name, extents.get(name, Extent.NUMBER)) for name in tensors
    }
    keywords = {name: tracer.lift(name, value) for name, value in scalars.items()}
    try:
        returned = rule(*positional.values(), **keywords, **static)
    except RuleError:
        raise
    except TypeError as error:
        tracer.refuse_call(error)
    return tracer.finish(returned, positional)


class Tracer(fx.Tracer):
    """Records what a rule does to its stand-ins."""

    def __init__(self, rule: Callable[..., Any], owner: str, live: bool) -> None:
        super().__init__()
        self.live = live
        self.graph = fx.Graph()
        self.code = getattr(inspect.unwrap(rule), "__code__", None)
        self.owner = owner
        self.scalars: dict[fx.Node, Any] = {}
        self.tensors: dict[str, fx.Node] = {}
        self.hyperparameters: dict[str, fx.Node] = {}
        self.guards: dict[fx.Node, bool | int] = {}
        self.leaves: list[fx.Node] = []
        self.rewriting = False

    # Inputs

    def tensor(self, name: str, extent: Extent) -> Symbol:
        """A stand-in for a tensor argument."""
        self.tensors[name] = node = self.graph.placeholder(name)
        return self._symbol(node, extent)

    def _symbol(
        self, node: fx.Node, extent: Extent, kind: type[Symbol] = Symbol
    ) -> Symbol:
        node.meta["extent"] = extent
        return kind(node, self)

    def scalar(self, name: str, value: float) -> Scalar:
        """A stand-in for a number."""
        node = self.graph.placeholder(name.replace("[", "_").replace("]", ""))
        self.hyperparameters[name] = node
        self.scalars[node] = value
        return Scalar(node, self)

    def lift(self, name: str, value: Any) -> Any:
        """A hyperparameter with stand-ins for the numbers in it."""
        if isinstance(value, tuple):
            parts = enumerate(value)
            return tuple(self.lift(f"{name}[{i}]", part) for i, part in parts)
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
        """Record an operation; what every use of a stand-in comes to."""
        name = operator_name(target)
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        if not any(isinstance(x, Symbol) for x in flat((args, kwargs))):
            return self._on_scalars(name, target, args, kwargs)
        if (kind == "call_method" and name.endswith("_")) or "out" in kwargs:
            self.refuse_mutation(f"x.{name}(...)")
        args, kwargs = _positional(args, kwargs)
        if name == "where" and kind == "call_method":
            args = (args[1], args[0], *args[2:])
        if name in OF_TENSORS and not (
            len(args) == OF_TENSORS[name] and all(isinstance(x, Symbol) for x in args)
        ):
            self._refuse_operator(name)
        if name in ("add", "sub") and "alpha" in kwargs:
            args, kwargs = (args[0], kwargs["alpha"] * args[1]), {}
        if name == "pow" and len(args) == 2 and _literal(args[1]) in POWERS:
            return POWERS[args[1]](args[0])
        if name in REDUCTIONS:
            return self._reduction(name, args, kwargs)
        if name in REWRITES:
            return self._rewritten(name, args, kwargs)
        if name not in CORE or kwargs:
            self._refuse_operator(name)
        return self._core(name, args)

    def _rewritten(self, name: str, args: Any, kwargs: Any) -> Any:
        rewrite = REWRITES[name]
        try:
            inspect.signature(rewrite).bind(*args, **kwargs)
        except TypeError:
            self._refuse_operator(name)
        before, self.rewriting = self.rewriting, True
        try:
            return rewrite(*args, **kwargs)
        finally:
            self.rewriting = before

    def _core(self, name: str, args: tuple[Any, ...]) -> Symbol:
        if name == "where":
            self._check_where(args)
            args = (args[0], *self._as_numbers(name, args[1:]))
        elif name in ("and", "or", "invert"):
            if not all(isinstance(x, Mask) for x in args):
                self.refuse(
                    f"uses {name!r} on what is not a truth value",
                    "compare first, as in (x > 0) & (y > 0)",
                )
        else:
            args = self._as_numbers(name, args)
        operands = tuple(self._operand(name, operand) for operand in args)
        node = self.graph.call_function(CORE[name], operands)
        extents = (x.extent for x in args if isinstance(x, Symbol))
        extent = functools.reduce(operator.or_, extents)
        return self._symbol(node, extent, Mask if name in MASKS else Symbol)

    def _reduction(self, name: str, args: Any, kwargs: Mapping[str, Any]) -> Symbol:
        """A sum or a mean; over both last dimensions it is one, and then the other."""
        try:
            x, removed = reduced(*args, **kwargs)
        except (TypeError, ValueError) as error:
            self.refuse(
                f"takes a {name} that no engine knows ({error})",
                f"write x.{name}(), or x.{name}(-1, keepdim=True) of rows, or -2",
            )
        if x.is_mask:
            self.refuse(
                f"takes the {name} of truth values",
                "use torch.where, as in torch.where(x > 0, y, 0)",
            )
        everything = removed == Extent.NUMBER
        for step in [removed] if everything else [Extent.COLUMNS, Extent.ROWS]:
            if x.extent & removed & step:
                node = self.graph.call_function(REDUCTIONS[name], (x.node,))
                x = self._symbol(node, x.extent & ~step)
        symbol: Symbol = x
        return symbol

    def _check_where(self, args: tuple[Any, ...]) -> None:
        if len(args) != 3:
            self._refuse_operator("where")
        condition, *branches = args
        if not isinstance(condition, Mask):
            self.refuse(
                "gives torch.where a condition that is no comparison of tensors",
                "compare tensors, as in torch.where(x > 0, x, y), or use if on scalars",
            )
        if not (self.rewriting or any(isinstance(x, Symbol) for x in branches)):
            self.refuse(
                "chooses between numbers, which gives torch no dtype for the result",
                "let one branch be a tensor, as in torch.where(c, 2 * x, x)",
            )

    def _as_numbers(self, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The operands, with 1 and 0 for truth values, as torch promotes them."""
        if not any(isinstance(x, Mask) for x in args):
            return args
        numbers = any(isinstance(x, Symbol) and not x.is_mask for x in args)
        if not numbers or name == "sub":
            self.refuse(
                f"uses {name!r} on truth values, for which torch has no number",
                "use torch.where, as in torch.where(x > 0, y, z)",
            )
        return tuple(
            self._rewritten("from_mask", (x,), {}) if isinstance(x, Mask) else x
            for x in args
        )

    def epsilon(self) -> Symbol:
        """A stand-in for the spacing of numbers at one, as the kernel computes."""
        node = self.graph.call_function(CORE["epsilon"], ())
        return self._symbol(node, Extent.WHOLE)

    def leaf(
        self, function: Callable[..., Any], args: Any, kwargs: Any, batched: bool
    ) -> Symbol:
        """Record the call of an opaque function."""
        given = mapped((args, kwargs), _node)
        nodes = [x for x in flat(given) if isinstance(x, fx.Node)]
        operands = tuple(dict.fromkeys(nodes))
        node = self.create_node("call_function", function, operands, {})
        node.meta.update(given=given, batched=batched)
        self.leaves.append(node)
        return self._symbol(node, Extent.NUMBER)

    def _on_scalars(self, name: str, target: Any, args: Any, kwargs: Any) -> Scalar:
        if target not in _ON_SCALARS or kwargs:
            self.refuse(
                f"calls {name} on a scalar, which is a Python number",
                "use operators, such as x ** 0.5",
            )
        node = self.graph.call_function(target, tuple(map(self.create_arg, args)))
        known = (self.scalars[x.node] if isinstance(x, Scalar) else x for x in args)
        self.scalars[node] = target(*known)
        return Scalar(node, self)

    def _operand(self, name: str, operand: Any) -> Any:
        if isinstance(operand, fx.Proxy):
            return operand.node
        if isinstance(operand, int | float):
            return float(operand) if isinstance(operand, bool) else operand
        self.refuse(
            f"gives {name} an operand of type {type(operand).__name__}",
            "a rule computes with its tensors and with numbers",
        )

    # Branches

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Answer a branch, and keep the answer as a guard."""
        if isinstance(obj, Symbol):
            self.refuse(
                "branches on a tensor",
                "a rule may branch on scalars only; use torch.where",
            )
        truth = bool(self.scalars[obj.node])
        self.guards.setdefault(obj.node, truth)
        return truth

    def choose(self, condition: Scalar, x: Any, y: Any) -> Any:
        """The choice of :func:`polyak.where`: a branch, unless it is left to a step."""
        if not self.live:
            return x if condition else y
        operands = condition.node, *(self._operand("where", v) for v in (x, y))
        symbols = [value for value in (x, y) if isinstance(value, Symbol)]
        if symbols:
            extents = (symbol.extent for symbol in symbols)
            node = self.graph.call_function(torch.where, operands)
            return self._symbol(node, functools.reduce(operator.or_, extents))
        node = self.graph.call_function(chosen, operands)
        self.scalars[node] = chosen(*(self.scalars.get(v, v) for v in operands))
        return Scalar(node, self)

    def fix(self, scalar: Scalar) -> int:
        """Specialise the graph on the very value of an integer scalar."""
        value = self.scalars[scalar.node]
        if not isinstance(value, int):
            self.refuse("turns a scalar into an int", "use operators, such as x // 1")
        self.guards[scalar.node] = value
        return value

    # The end, and what is refused

    def finish(self, returned: Any, positional: Mapping[str, Any]) -> Graph:
        """Check what a rule returned, and make the graph."""
        values = returned if isinstance(returned, tuple) else (returned,)
        names = [name for name in positional if name != "grad"]
        if len(values) != len(names):
            self.refuse(
                f"returns {len(values)} values where {len(names)} are due",
                f"return ({', '.join(names)}), with None for an absent slot",
                self._first_line(),
            )
        outputs = {
            name: self._output(name, value, positional[name])
            for name, value in zip(names, values, strict=True)
        }
        return Graph(
            nodes=[node for node in self.graph.nodes if node.op == "call_function"],
            scalars=self.scalars,
            tensors=self.tensors,
            hyperparameters=self.hyperparameters,
            guards=self.guards,
            outputs={name: out for name, out in outputs.items() if out is not None},
            leaves=self.leaves,
        )

    def _output(self, name: str, value: Any, given: Any) -> Any:
        line = self._first_line()
        if (value is None) != (given is None):
            got = "None" if value is None else "a value"
            due = "None, since it is absent" if given is None else "a tensor"
            self.refuse(f"returns {got} for {name}", f"return {due}", line)
        if isinstance(given, Scalar) and isinstance(value, Symbol):
            self.refuse(f"returns a tensor for {name}", "it is a number", line)
        if isinstance(value, Mask):
            self.refuse(f"returns truth values for {name}", "use torch.where", line)
        if isinstance(value, Symbol) and not (
            self.leaves or value.extent in given.extent
        ):
            self.refuse(
                f"returns a value for each {value.extent} for {name}, which has one "
                f"for each {given.extent}",
                "reduce it, as in x.mean(-1, keepdim=True)",
                line,
            )
        if isinstance(value, Stand):
            return value.node
        if value is None or isinstance(value, int | float):
            return float(value) if isinstance(value, bool) else value
        kind = type(value).__name__
        self.refuse(f"returns {name} of type {kind}", "return a tensor", line)

    def refuse(
        self, what: str, remedy: str, line: tuple[str, int] | None = None
    ) -> NoReturn:
        """Raise with the line of the rule that is at fault."""
        file, number = line or self._where()
        source = linecache.getline(file, number).strip()
        quoted = f": `{source}`" if source else ""
        raise RuleError(
            f"{self.owner} {what}{quoted} ({Path(file).name}, line {number}). "
            f"Remedy: {remedy}."
        )

    def refuse_call(self, error: TypeError) -> NoReturn:
        """Raise for a function that does not take stand-ins, at the rule's line."""
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if not frame.filename.startswith(_NOT_RULES)]
        line = (own[-1].filename, own[-1].lineno or 0) if own else None
        remedy = "a rule uses operators and torch's elementwise functions"
        self.refuse(f"cannot be read: {error}", remedy, line)

    def refuse_mutation(self, how: str) -> NoReturn:
        """Raise for a tensor that is changed in place."""
        self.refuse(f"mutates a tensor ({how})", "a rule returns new values: x = x + y")

    def _refuse_operator(self, name: str) -> NoReturn:
        self.refuse(
            f"uses {name}, which no engine knows as an elementwise operator",
            "wrap what is neither elementwise nor a sum or mean in a function marked "
            "@polyak.leaf",
        )

    def _first_line(self) -> tuple[str, int]:
        if self.code is None:
            return "?", 0
        file, first = self.code.co_filename, self.code.co_firstlineno
        for line in range(first, first + 10):  # decorators come before the function
            if linecache.getline(file, line).lstrip().startswith("def "):
                return file, line
        return file, first

    def _where(self) -> tuple[str, int]:
        """The innermost line outside polyak's engine and torch."""
        frame = sys._getframe(1)
        while frame.f_back is not None:
            file = frame.f_code.co_filename
            if not file.startswith(_NOT_RULES):
                return file, frame.f_lineno
            frame = frame.f_back
        return self._first_line()


def _node(value: Any) -> Any:
    return value.node if isinstance(value, Stand) else value


def _literal(value: Any) -> Any:
    return value if isinstance(value, int | float) else None


def _positional(args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """``torch.mul(input=x, other=y)`` as ``torch.mul(x, y)``."""
    rest = dict(kwargs)
    for name in ("input", "other"):
        if name in rest:
            args = (*args, rest.pop(name))
    return args, rest
