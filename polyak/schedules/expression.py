"""Schedules read from text."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from typing import Any, NoReturn

from ..bounds import nearest
from . import cycles, decays, functions, warmups
from .compose import absolute
from .schedule import Schedule

__all__ = ["parse"]

Maker = Callable[..., Schedule]

CURVES: Mapping[str, Maker] = {
    name: getattr(module, name)
    for module in (cycles, decays, functions, warmups)
    for name in module.__all__
} | {"absolute": absolute}

METHODS: Mapping[str, Maker] = {
    name: getattr(Schedule, name)
    for name in ("until", "strict", "in_epochs", "absolute")
}


def parse(text: str) -> Schedule:
    """The schedule that an expression says, such as one from a configuration file.

    An expression is built from the schedules of this package and their methods,
    numbers, strings, tuples and lists, ``|`` and ``*``. Nothing else is evaluated, so
    that text from anywhere is safe to read. It is the inverse of ``repr``.

    Args:
        text: the expression, on one line or more.

    Raises:
        ValueError: it cannot be read, or an argument is out of its range; the message
            shows where, and the name that was probably meant.
        TypeError: it is no string.

    >>> parse("warmup(500) | 0.5 * cosine(10_000, final=0.1)")
    warmup(500) | 0.5 * cosine(10000, 0.1)
    >>> parse("warmup(500) | cosin(100)")
    Traceback (most recent call last):
    ValueError: Invalid schedule: there is no 'cosin'. Did you mean 'cosine'?
        warmup(500) | cosin(100)
                      ^
    """
    if not isinstance(text, str):
        raise TypeError(f"parse needs a string, got {text!r} of {type(text).__name__}")
    # On one line, whose columns are those of the text.
    return _Reader(text.translate(dict.fromkeys(b"\n\r\t", " ")).strip()).read()


class _Reader:
    """Evaluates one expression; what fails is shown with its place in the text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def read(self) -> Schedule:
        try:
            return self.schedule(ast.parse(self.text, mode="eval").body)
        except SyntaxError as error:
            self.fail((error.offset or 1) - 1, error.msg)
        except (RecursionError, MemoryError):
            raise ValueError("Invalid schedule: it is nested too deeply") from None

    def schedule(self, node: ast.expr) -> Schedule:
        value = self.value(node)
        if not isinstance(value, Schedule):
            hint = f"; a constant factor is constant({value})" * _is_number(value)
            self.fail(node, f"{value!r} is no schedule{hint}")
        return value

    def value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as value):
                return value
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                return tuple(self.value(part) for part in parts)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.number(operand)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                first, then = self.schedule(left), self.schedule(right)
                return self.attempt(node, lambda: first | then)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return self.product(left, right)
            case ast.Call():
                return self.call(node)
            case ast.Name(id=name):
                self.named(CURVES, name, node)
                self.fail(node, f"{name} lacks its arguments: {name}(...)")
        self.foreign(node)

    def number(self, node: ast.expr) -> Any:
        value = self.value(node)
        if not _is_number(value):
            self.fail(node, f"{value!r} is no number")
        return value

    def product(self, left: ast.expr, right: ast.expr) -> Any:
        factors = [self.value(node) for node in (left, right)]
        for node, factor in zip((left, right), factors, strict=True):
            if not _is_number(factor) and not isinstance(factor, Schedule):
                self.fail(node, f"{factor!r} is no schedule and no number")
        return self.attempt(left, lambda: factors[0] * factors[1])

    def call(self, node: ast.Call) -> Any:
        match node.func:
            case ast.Name(id=name):
                maker, given = self.named(CURVES, name, node.func), []
            case ast.Attribute(value=inner, attr=name):
                given = [self.schedule(inner)]
                maker = self.named(METHODS, name, node.func)
            case _:
                self.fail(node.func, "only schedules and their methods can be called")
        given += [self.value(argument) for argument in node.args]
        keywords = self.keywords(node, maker)
        try:
            signature(maker).bind(*given, **keywords)
        except TypeError as error:
            self.fail(node, f"{name}: {error}", error)
        return self.attempt(node, lambda: maker(*given, **keywords))

    def keywords(self, node: ast.Call, maker: Maker) -> dict[str, Any]:
        known = [name for name in signature(maker).parameters if name != "self"]
        values: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None:
                self.foreign(keyword)
            if keyword.arg not in known:
                self.unknown(keyword, f"argument {keyword.arg!r}", keyword.arg, known)
            if keyword.arg in values:
                self.fail(keyword, f"{keyword.arg} is given twice")
            values[keyword.arg] = self.value(keyword.value)
        return values

    def named(self, known: Mapping[str, Maker], name: str, node: ast.expr) -> Maker:
        if name not in known:
            self.unknown(node, repr(name), name, known)
        return known[name]

    def unknown(
        self, node: ast.expr | ast.keyword, what: str, name: str, known: Iterable[str]
    ) -> NoReturn:
        hint = nearest(name, known) or f" There are {', '.join(sorted(known))}."
        self.fail(node, f"there is no {what}.{hint}")

    def foreign(self, node: ast.expr | ast.keyword) -> NoReturn:
        self.fail(
            node,
            "an expression holds schedules, their methods, numbers, strings, tuples, "
            "'|' and '*', and nothing else",
        )

    def attempt(self, node: ast.expr, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except (TypeError, ValueError) as error:
            self.fail(node, str(error), error)

    def fail(
        self,
        place: ast.expr | ast.keyword | int,
        message: str,
        cause: Exception | None = None,
    ) -> NoReturn:
        if isinstance(place, int):
            column = place
        else:  # ast counts bytes
            column = len(self.text.encode()[: place.col_offset].decode())
        raise ValueError(
            f"Invalid schedule: {message}\n    {self.text}\n    {' ' * column}^"
        ) from cause


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
