"""Comparing many Python objects by identity at once."""

from __future__ import annotations

from ctypes import c_void_p, sizeof, string_at
from typing import Any

__all__ = ["addresses"]

_WORD = sizeof(c_void_p)


def addresses(objects: tuple[Any, ...]) -> bytes:
    """The addresses of a tuple's elements, as the tuple itself holds them.

    Tensors cannot be compared with ``==``, and ``is`` for each costs 0.03 microseconds:
    more than all else that a step does for a parameter. Equal bytes mean the same
    objects, as long as those of one of the tuples are alive.
    """
    return string_at(id(objects) + tuple.__basicsize__, len(objects) * _WORD)
