"""Turning eight matrices: from one after another to place by place, and back.

Place by place there is a vector of what all of them have there. The processor's
shuffles do that for four places at once. A matrix that does not end with four has its
last four, some of them for the second time; if it has less, its numbers are picked one
by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .code import Code

__all__ = ["turn", "turn_function"]

_EIGHT, _FOUR = 8, 4


def turn(code: Code, real: str, way: str, size: str, line: str, room: str) -> None:
    """Write the code for matrices of a size.

    Args:
        code: what is written to.
        real: LLVM's type of a number.
        way: ``"in"``, from ``line`` to ``room``, or ``"out"``, back.
        size: the numbers of a matrix.
        line: where they lie one after another.
        room: where they lie place by place.
    """
    if not size.isdigit():
        code.write(f"call void @{way}(i64 {size}, ptr {line}, ptr {room})")
        return
    turner, count = _Turner(code, real, line, room), int(size)
    if count < _FOUR:
        turner.few(way, count)
        return
    firsts = {min(first, count - _FOUR) for first in range(0, count, _FOUR)}
    for first in sorted(firsts):
        turner.quad(way, size, str(first))


def turn_function(real: str, way: str) -> str:
    """The function that does it for matrices of any size."""
    code = Code()
    turner = _Turner(code, real, "%line", "%room")
    few = code.emit(f"icmp ult i64 %size, {_FOUR}")
    many = code.emit(f"xor i1 {few}, true")
    with code.when(few), code.loop("0", "%size") as place:
        for matrix in range(_EIGHT):
            turner.one(way, "%size", place, str(matrix))
    with code.when(many):
        last = code.emit(f"sub i64 %size, {_FOUR}")
        quads = code.divide(code.add("%size", str(_FOUR - 1)), str(_FOUR))
        with code.loop("0", quads) as index:
            first = code.multiply(index, str(_FOUR))
            is_last = code.emit(f"icmp ugt i64 {first}, {last}")
            first = code.emit(f"select i1 {is_last}, i64 {last}, i64 {first}")
            turner.quad(way, "%size", first)
    pointers = ["ptr noalias %line", "ptr noalias %room"]
    return code.function(way, ["i64 %size", *pointers])


class _Turner:
    """Writes loads, shuffles and stores."""

    def __init__(self, code: Code, real: str, line: str, room: str) -> None:
        self.code, self.real, self.line, self.room = code, real, line, room
        self.itemsize = 8 if real == "double" else 4

    def one(self, way: str, size: str, place: str, matrix: str) -> None:
        """One place of one matrix."""
        code = self.code
        in_line = self._in_line(code.add(code.multiply(matrix, size), place))
        lane = code.add(code.multiply(place, str(_EIGHT)), matrix)
        in_room = code.item(self.room, lane, self.itemsize)
        if way == "in":
            self._store(self._load(in_line, 1), in_room, 1)
        else:
            self._store(self._load(in_room, 1), in_line, 1)

    def quad(self, way: str, size: str, first: str) -> None:
        """Four places from ``first`` on."""
        code = self.code
        in_line = [
            self._in_line(code.add(code.multiply(str(matrix), size), first))
            for matrix in range(_EIGHT)
        ]
        in_room = [self._in_room(code.add(first, str(i))) for i in range(_FOUR)]
        if way == "in":
            found = [self._load(at, _FOUR) for at in in_line]
            both = [
                self._shuffled(x, y, range(_EIGHT), _FOUR)
                for x, y in zip(found[:_FOUR], found[_FOUR:], strict=True)
            ]
            for value, at in zip(self._turned(both), in_room, strict=True):
                self._store(value, at, _EIGHT)
        else:
            both = self._turned([self._load(at, _EIGHT) for at in in_room])
            halves = [self._shuffled(x, x, range(_FOUR)) for x in both]
            halves += [self._shuffled(x, x, range(_FOUR, _EIGHT)) for x in both]
            for value, at in zip(halves, in_line, strict=True):
                self._store(value, at, _FOUR)

    def _turned(self, rows: Sequence[str]) -> list[str]:
        """Four by four numbers, and beside them as many, each with its mirror image."""
        a, b, c, d = rows
        found = []
        for order in ((0, 8, 1, 9, 4, 12, 5, 13), (2, 10, 3, 11, 6, 14, 7, 15)):
            x, y = self._shuffled(a, b, order), self._shuffled(c, d, order)
            found.append(self._shuffled(x, y, (0, 1, 8, 9, 4, 5, 12, 13)))
            found.append(self._shuffled(x, y, (2, 3, 10, 11, 6, 7, 14, 15)))
        return found

    def few(self, way: str, size: int) -> None:
        """All places of matrices that have less than four."""
        in_line = [self._in_line(str(_EIGHT * i)) for i in range(size)]
        in_room = [self._in_room(str(place)) for place in range(size)]
        places, lanes = range(size), range(_EIGHT)
        if way == "in":
            source, target = in_line, in_room
            numbers = [[lane * size + place for lane in lanes] for place in places]
            picks = [[divmod(number, _EIGHT) for number in row] for row in numbers]
        else:
            source, target = in_room, in_line
            numbers = [[i * _EIGHT + lane for lane in lanes] for i in places]
            picks = [[divmod(number, size)[::-1] for number in row] for row in numbers]
        found = [self._load(at, _EIGHT) for at in source]
        for pick, at in zip(picks, target, strict=True):
            self._store(self._picked(found, pick), at, _EIGHT)

    def _picked(self, vectors: Sequence[str], picks: Sequence[tuple[int, int]]) -> str:
        """A vector of the numbers that (vector, lane) say."""
        so_far = vectors[0]
        for index, vector in enumerate(vectors[1:], 1):
            order = [
                _EIGHT + lane if of == index else lane if index == 1 else place
                for place, (of, lane) in enumerate(picks)
            ]
            so_far = self._shuffled(so_far, vector, order)
        return so_far

    def _in_line(self, number: str) -> str:
        return self.code.item(self.line, number, self.itemsize)

    def _in_room(self, place: str) -> str:
        first = self.code.multiply(place, str(_EIGHT))
        return self.code.item(self.room, first, self.itemsize)

    def _kind(self, lanes: int) -> str:
        return self.real if lanes == 1 else f"<{lanes} x {self.real}>"

    def _load(self, at: str, lanes: int) -> str:
        kind = self._kind(lanes)
        return self.code.emit(f"load {kind}, ptr {at}, align {self.itemsize}")

    def _store(self, value: str, at: str, lanes: int) -> None:
        text = f"store {self._kind(lanes)} {value}, ptr {at}, align {self.itemsize}"
        self.code.emit(text, void=True)

    def _shuffled(
        self, x: str, y: str, order: Iterable[int], lanes: int = _EIGHT
    ) -> str:
        kind, picks = self._kind(lanes), [f"i32 {pick}" for pick in order]
        mask = f"<{len(picks)} x i32> <{', '.join(picks)}>"
        return self.code.emit(f"shufflevector {kind} {x}, {kind} {y}, {mask}")
