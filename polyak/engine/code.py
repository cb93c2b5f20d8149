"""Writing a function in LLVM's language, from front to back.

Variables live in memory here; the optimizer's first act is to put them in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

__all__ = ["ATTRIBUTES", "Code", "words"]

# What a module with functions must define: those that are to be fast, to be small, and
# to be compiled quickly, since they run once a step.
ATTRIBUTES = """attributes #0 = { noinline nounwind "prefer-vector-width"="512" }
attributes #1 = { noinline nounwind optsize "prefer-vector-width"="512" }
attributes #2 = { noinline nounwind optnone }
"""


def words(base: str, names: Sequence[str]) -> str:
    """LLVM that loads words that lie one after another: ``%name`` for each.

    They are addresses, but for those whose name tells of a count or a place.
    """
    lines = []
    for index, name in enumerate(names):
        is_whole = name.endswith(("count", "offset", "references", "_at"))
        lines += [
            f"  %{name}.word = getelementptr i64, ptr {base}, i64 {index}",
            f"  %{name} = load {'i64' if is_whole else 'ptr'}, ptr %{name}.word",
        ]
    return "\n".join(lines)


class Code:
    """The body of a function."""

    def __init__(self) -> None:
        self._variables: list[str] = []
        self._lines: list[str] = []
        self._count = 0

    def emit(self, text: str, *, void: bool = False) -> str:
        """Write an instruction and name its result, unless it has none."""
        if void:
            self.write(text)
            return ""
        name = self._name("v")
        self._lines.append(f"  {name} = {text}")
        return name

    def write(self, text: str) -> None:
        """Write an instruction as it is."""
        self._lines.append(f"  {text}")

    def _name(self, letter: str) -> str:
        self._count += 1
        return f"%{letter}{self._count}"

    def variable(self, kind: str, start: str) -> str:
        """The address of a new variable, which is given a value here and now."""
        name = self._name("at")
        self._variables.append(f"  {name} = alloca {kind}")
        self.emit(f"store {kind} {start}, ptr {name}", void=True)
        return name

    def room(self, kind: str, count: int, name: str = "") -> str:
        """The address of memory for an array, on the stack."""
        name = name or self._name("room")
        self._variables.append(f"  {name} = alloca [{count} x {kind}], align 64")
        return name

    def repeat(self, times: str, body: Callable[[str], None]) -> None:
        """A loop, or its body as often as it is to be done where that is known."""
        if times.isdigit():
            for index in range(int(times)):
                body(str(index))
        else:
            with self.loop("0", times) as name:
                body(name)

    @contextmanager
    def loop(self, start: str, stop: str) -> Iterator[str]:
        """A loop over whole numbers; what is written within is its body."""
        counter = self.variable("i64", start)
        head, body, done = (self._name(letter) for letter in ("head", "body", "done"))
        self.emit(f"br label {head}", void=True)
        self._label(head)
        index = self.emit(f"load i64, ptr {counter}")
        more = self.emit(f"icmp slt i64 {index}, {stop}")
        self.emit(f"br i1 {more}, label {body}, label {done}", void=True)
        self._label(body)
        yield index
        following = self.emit(f"add nuw nsw i64 {index}, 1")
        self.emit(f"store i64 {following}, ptr {counter}", void=True)
        self.emit(f"br label {head}", void=True)
        self._label(done)

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """What is written within is done where the condition holds."""
        body, done = self._name("then"), self._name("done")
        self.emit(f"br i1 {condition}, label {body}, label {done}", void=True)
        self._label(body)
        yield
        self.emit(f"br label {done}", void=True)
        self._label(done)

    def _label(self, name: str) -> None:
        self._lines.append(f"{name[1:]}:")

    @property
    def text(self) -> str:
        """The lines, without the function's head and its last instruction."""
        return "\n".join([*self._variables, *self._lines])

    def function(
        self, name: str, arguments: Sequence[str], *, small: bool = False
    ) -> str:
        """The whole as a function that gives nothing.

        Args:
            name: the function's.
            arguments: with their types.
            small: LLVM leaves loops as they are, and so compiles in half the time.
        """
        group = "#1" if small else "#0"
        return (
            f"define internal void @{name}({', '.join(arguments)}) {group} {{\n"
            f"entry:\n{self.text}\n  ret void\n}}\n"
        )

    # Whole numbers and addresses

    def multiply(self, *factors: str) -> str:
        """A product of whole numbers that are not negative."""
        product = factors[0]
        for factor in factors[1:]:
            if product.isdigit() and factor.isdigit():
                product = str(int(product) * int(factor))
            elif "1" in (product, factor):
                product = factor if product == "1" else product
            else:
                product = self.emit(f"mul nuw nsw i64 {product}, {factor}")
        return product

    def add(self, x: str, y: str) -> str:
        """The sum of whole numbers that are not negative."""
        if x.isdigit() and y.isdigit():
            return str(int(x) + int(y))
        return self.emit(f"add nuw nsw i64 {x}, {y}")

    def divide(self, x: str, y: str) -> str:
        """A whole number by another, rounded down."""
        return self.emit(f"udiv i64 {x}, {y}")

    def item(self, base: str, index: str, itemsize: int) -> str:
        """The address of an item of an array."""
        if index == "0":
            return base
        return self.emit(f"getelementptr [{itemsize} x i8], ptr {base}, i64 {index}")
