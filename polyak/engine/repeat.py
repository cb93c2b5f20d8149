"""A step like the one before, in one native call.

Most steps of a small network differ from the last in the gradients alone, and leave
Python nothing to decide. Native code looks at the groups (:mod:`.watch`) and at the
tensors (:mod:`.walk`), evaluates the scalars (:mod:`.evaluation`) and runs the kernels.
Step after step that saves 4 microseconds, and two to four times as much where other
code has had the processor's caches in between.

It is for small steps (:data:`.team.SERIAL_BYTES`): one thread does them, and keeps the
interpreter's lock.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from . import jit, walk
from .bucket import Bucket
from .code import Code, words
from .watch import Watch

__all__ = ["Repeat"]

_WORDS = ("look", "stream", "objects", "check", "launch", "count")
_PAIR = 16  # bytes: a table, and the function that evaluates its scalars, or 0


class Repeat:
    """What the native call is given.

    It is good for as long as it :meth:`fits` the buckets, and the watch is the same.

    Args:
        watch: looks at the groups; the state is in custody.
        buckets: all that a step does; they have done the last one.

    Attributes:
        is_native: Python has no part in such a step.
        groups: the list of groups that is looked at.
        step: does the step, and answers 0; something else, with nothing done, if it is
            not like the last.
        address: what it takes.
    """

    __slots__ = ("_natives", "_record", "address", "groups", "is_native", "step")

    def __init__(self, watch: Watch, buckets: Sequence[Bucket]) -> None:
        self._natives = [bucket.native() for bucket in buckets]
        self.is_native, self.groups = None not in self._natives, watch.groups
        library = walk.library()
        record = [*watch.native(), library["check"], library["launch"], len(buckets)]
        record += [word for native in self._natives for word in native or ()]
        self._record = np.array(record, np.int64)
        self.step, self.address = _compiled(), self._record.ctypes.data

    def fits(self, buckets: Sequence[Bucket]) -> bool:
        """Whether it is what would be made anew."""
        return self._natives == [bucket.native() for bucket in buckets]


@functools.cache
def _compiled() -> Callable[[int], int]:
    prototype = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
    return prototype(jit.compile_ir(_source())["repeat"])


def _source() -> str:
    """``@repeat(record)``: 0, or something else if the step was not done."""
    code = Code()
    code.write(words("%record", _WORDS))
    pairs = code.item("%record", str(len(_WORDS)), 8)
    refusals = code.variable("i64", "0")

    def ask(question: str, due: str) -> None:
        """An answer that is not the one due refuses the step."""
        is_other = code.emit(f"icmp ne i64 {code.emit(question)}, {due}")
        more = code.emit(f"zext i1 {is_other} to i64")
        count = code.add(code.emit(f"load i64, ptr {refusals}"), more)
        code.emit(f"store i64 {count}, ptr {refusals}", void=True)

    @contextmanager
    def each_table() -> Iterator[tuple[str, str]]:
        """A table, and the address of its pair, unless the step is refused."""
        count = code.emit(f"load i64, ptr {refusals}")
        is_fine = code.emit(f"icmp eq i64 {count}, 0")
        with code.when(is_fine), code.loop("0", "%count") as index:
            pair = code.item(pairs, index, _PAIR)
            yield code.emit(f"load ptr, ptr {pair}"), pair

    ask("call i64 %look(ptr %stream, ptr %objects, i64 1)", "0")
    with each_table() as (table, _):
        ask(f"call i64 %check(ptr {table})", str(walk.HOLDS))
    with each_table() as (table, pair):
        evaluate = code.emit(f"load ptr, ptr {code.item(pair, '1', 8)}")
        with code.when(code.emit(f"icmp ne ptr {evaluate}, null")):
            ask(f"call i64 {evaluate}(ptr {table})", "0")
    with each_table() as (table, _):
        code.emit(f"call void %launch(ptr {table})", void=True)
    code.write(f"%refused = load i64, ptr {refusals}")
    head = "define i64 @repeat(ptr %record) {\nentry:"
    return f"{head}\n{code.text}\n  ret i64 %refused\n}}\n"
