"""Reading ahead: what a step is about to look at is brought into the cache.

What is read of a tensor is a chain of addresses: the Python object, torch's record of
the tensor, its storage; of a gradient, those of its parameter before. After a forward
and backward pass each link is a wait for memory. Here the first links of a block of
tensors are asked for at once, then the second ones, and so on.

Memory that is known to be there is read, and the value dropped: processors leave out
prefetches where many are under way. What may be elsewhere, or not there, is prefetched,
which never fails. No answer depends on what is done here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .code import Code
from .table import loads

__all__ = [
    "AHEAD",
    "BLOCK",
    "PREFETCH",
    "before_advance",
    "before_check",
    "before_chunk",
    "before_look",
]

BLOCK = 16  # columns
AHEAD = 16  # objects
CHUNKS = 4
MOST_BYTES = 512  # the processor itself reads ahead in what is longer

# What a module with these functions declares.
PREFETCH = "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)\n"


def before_check() -> str:
    """``@fetch.tensors(table, first)``: a block that ``check`` comes to."""
    code = Code()
    code.write(
        loads("tensors objects numbers handles number_pointers grad storage_offset")
    )
    objects, last = "%objects", _end_of_block(code, "%tensors")
    with _entries(code, objects, last) as entry:
        _touch(code, _item(code, "%handles", entry))
    with _entries(code, "%numbers", last) as entry:
        _prefetch(code, _item(code, "%number_pointers", entry))
    with _entries(code, objects, last) as entry:
        _touch_record(code, _record(code, entry))
    with _entries(code, objects, last) as entry:
        _touch_storage(code, _record(code, entry))
    with _entries(code, "1", last) as entry:
        _touch_record(code, _gradient(code, entry))
    with _entries(code, "1", last) as entry:
        _touch_storage(code, _gradient(code, entry))
    return code.function("fetch.tensors", ["ptr %table", "i64 %first"], small=True)


def before_advance() -> str:
    """``@fetch.counters(table, first, stop)``: a block that ``advance`` comes to."""
    code = Code()
    code.write(loads("tensors objects numbers handles number_pointers version_offset"))
    objects, last = "%objects", _end_of_block(code, "%stop")
    with _entries(code, "%numbers", last) as entry:
        _prefetch(code, _item(code, "%number_pointers", entry), to_write=True)
    with _entries(code, objects, last) as entry:
        at = code.item(_record(code, entry), "%version_offset", 1)
        _prefetch(code, code.emit(f"load ptr, ptr {at}"), to_write=True)
    arguments = ["ptr %table", "i64 %first", "i64 %stop"]
    return code.function("fetch.counters", arguments, small=True)


def before_look() -> str:
    """``@fetch.objects(objects, n)``: what ``look`` comes to after the ``n``-th object.

    An object is (address, where in it the address of its items is, lines of these).
    """
    code = Code()
    near, far = (code.add("%n", str(count)) for count in (AHEAD // 2, AHEAD))
    object_at = code.emit(f"load ptr, ptr {code.item('%objects', far, 24)}")
    _touch(code, object_at)
    _touch(code, object_at, 32)
    record = code.item("%objects", near, 24)
    object_at = code.emit(f"load ptr, ptr {record}")
    offset, lines = (
        code.emit(f"load i64, ptr {code.item(record, str(word), 8)}") for word in (1, 2)
    )
    items = code.emit(f"load ptr, ptr {code.item(object_at, offset, 1)}")
    with code.loop("0", lines) as line:
        _prefetch(code, code.item(items, line, 64))
    return code.function("fetch.objects", ["ptr %objects", "i64 %n"], small=True)


def before_chunk() -> str:
    """``@fetch.chunk(table, c)``: the numbers that come after those of chunk ``c``."""
    code = Code()
    code.write(loads("tensors written chunks pointers bytes chunk"))
    ahead, roles = code.add("%c", str(CHUNKS)), code.add("%written", "1")
    with code.when(code.emit(f"icmp slt i64 {ahead}, %chunks")):
        at = code.item("%chunk", ahead, 8)
        column = code.emit(f"load i64, ptr {at}")
        with code.loop("0", roles) as role:
            entry = code.add(code.multiply(role, "%tensors"), column)
            numbers = _item(code, "%pointers", entry)
            size = code.emit(f"load i64, ptr {code.item('%bytes', entry, 8)}")
            is_short = code.emit(f"icmp slt i64 {size}, {MOST_BYTES}")
            end = code.emit(f"select i1 {is_short}, i64 {size}, i64 {MOST_BYTES}")
            with code.loop("0", code.divide(code.add(end, "63"), "64")) as line:
                _prefetch(code, code.item(numbers, line, 64))
    return code.function("fetch.chunk", ["ptr %table", "i64 %c"], small=True)


def _prefetch(
    code: Code, address: str, offset: int = 0, to_write: bool = False
) -> None:
    """Ask for a cache line."""
    at = code.item(address, str(offset), 1)
    call = f"call void @llvm.prefetch.p0(ptr {at}, i32 {int(to_write)}, i32 3, i32 1)"
    code.emit(call, void=True)


def _end_of_block(code: Code, stop: str) -> str:
    end = code.add("%first", str(BLOCK))
    is_whole = code.emit(f"icmp slt i64 {end}, {stop}")
    return code.emit(f"select i1 {is_whole}, i64 {end}, i64 {stop}")


@contextmanager
def _entries(code: Code, roles: str, last: str) -> Iterator[str]:
    """Where arrays by role and tensor have the columns from ``%first`` to ``last``."""
    with code.loop("0", roles) as role:
        row = code.multiply(role, "%tensors")
        with code.loop("%first", last) as column:
            yield code.add(row, column)


def _item(code: Code, array: str, entry: str) -> str:
    return code.emit(f"load ptr, ptr {code.item(array, entry, 8)}")


def _record(code: Code, entry: str) -> str:
    """The record that torch has of a tensor."""
    return code.emit(f"load ptr, ptr {_item(code, '%handles', entry)}")


def _gradient(code: Code, entry: str) -> str:
    """The record of a parameter's gradient, which may be that of the undefined one."""
    handle = code.emit(f"call ptr %grad(ptr {_record(code, entry)})")
    return code.emit(f"load ptr, ptr {handle}")


def _touch(code: Code, address: str, offset: int = 0) -> None:
    """Read a byte of memory that is there."""
    at = code.item(address, str(offset), 1)
    code.emit(f"load volatile i8, ptr {at}")


def _touch_record(code: Code, record: str) -> None:
    """Its lines: it has more than two, and may end in a fourth."""
    for offset in (0, 64, 128):
        _touch(code, record, offset)
    _prefetch(code, record, 160)


def _touch_storage(code: Code, record: str) -> None:
    """A tensor's storage, where the address of its data is; some tensors have none."""
    at = code.item(record, "%storage_offset", 1)
    storage = code.emit(f"load ptr, ptr {at}")
    has_none = code.emit(f"icmp eq ptr {storage}, null")
    known = code.emit(f"select i1 {has_none}, ptr {record}, ptr {storage}")
    _touch(code, known)
    _prefetch(code, known, 64)
