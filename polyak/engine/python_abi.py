"""Reading Python's own objects from native code.

Dictionaries are walked through CPython's stable interface. What else helps, and differs
from one Python to the next, is found out by trying it on a sample; where it is not
found, steps do without.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["addresses", "counts_references", "version_offset"]

_WORD = ctypes.sizeof(ctypes.c_size_t)


@functools.cache
def addresses() -> tuple[int, ...]:
    """The functions of CPython that native code calls."""
    names = ("PyDict_Next", "PyList_Size", "PyList_GetItem")
    functions = (getattr(ctypes.pythonapi, name) for name in names)
    return tuple(ctypes.cast(f, ctypes.c_void_p).value or 0 for f in functions)


class _Sample:
    """An object to which references are counted."""


@functools.cache
def counts_references() -> bool:
    """Whether an object begins with the number of references to it, in 32 bits.

    It does in CPython with a global lock.
    """
    sample = _Sample()
    count = ctypes.c_uint32.from_address(id(sample))
    before, held = count.value, [sample] * 3
    return count.value == before + len(held) and before > 0


@functools.cache
def version_offset() -> int:
    """Where a dictionary has a number that no change of it leaves as it was, or 0.

    CPython promises one up to 3.11, the same for no two states of any dictionaries
    (:pep:`509`); later ones have the field still, without the promise (:pep:`699`).
    Keys that come and go and values that are replaced must show in it.
    """
    if sys.version_info >= (3, 12):
        return 0
    changes: list[Callable[[dict[str, Any]], object]] = [
        lambda sample: sample.__setitem__("a", 1.0),
        lambda sample: sample.update(a=2.0),
        lambda sample: sample.__ior__({"a": 3.0}),
        lambda sample: sample.setdefault("b", 4.0),
        lambda sample: sample.pop("b"),
        lambda sample: sample.__setitem__("c", 5.0),
        lambda sample: sample.__delitem__("c"),
        lambda sample: sample.popitem(),
        lambda sample: sample.update({"a": 6.0}),
        lambda sample: sample.clear(),
        lambda sample: sample.__setitem__("a", 1.0),
    ]
    for offset in range(2 * _WORD, dict.__basicsize__, _WORD):
        sample = {"a": 0.0}
        version = ctypes.c_uint64.from_address(id(sample) + offset)
        seen = [version.value]
        for change in changes:
            change(sample)
            seen.append(version.value)
            stays = (dict(sample), sample.get("a"), [*sample.items()], version.value)
            if stays[-1] != seen[-1]:
                break
        else:
            if 0 not in seen and len({*seen}) == len(seen):
                return offset
    return 0
