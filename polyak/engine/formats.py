"""How a number lies in memory, and how a kernel loads and stores it.

A kernel computes in float32, or in float64 where a tensor has it; what is narrower is
widened when loaded and rounded to nearest when stored. The rule never knows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import bfloat16, jit

__all__ = ["Format", "Packed", "format_of", "plain"]

Emit = Callable[..., str]


@dataclass(frozen=True)
class Packed:
    """The storage of several numbers, in a vector that has them in any order.

    Attributes:
        lanes: how many.
        load: emits LLVM that reads them.
        store: emits LLVM that writes them, in the order in which they are read.
    """

    lanes: int
    load: Callable[[Emit, str, str], str]
    store: Callable[[Emit, str, str, str], None]


@dataclass(frozen=True)
class Format:
    """The storage of one real number.

    Attributes:
        name: for kernels' names and listings.
        itemsize: bytes.
        load: emits LLVM that reads the number at an address.
        store: emits LLVM that writes a number to an address.
        packed: how many of them are read and written at once, where that is faster
            than what LLVM makes of the above.
    """

    name: str
    itemsize: int
    load: Callable[[Emit, str, str], str]
    store: Callable[[Emit, str, str, str], None]
    packed: Packed | None = None

    def is_real(self, real: str) -> bool:
        """Whether a number is stored as LLVM's type ``real``."""
        return self.name == {"float": "float32", "double": "float64"}[real]


def _load_float16(emit: Emit, real: str, address: str) -> str:
    half = emit(f"load half, ptr {address}, align 2")
    value = emit(f"fpext half {half} to float")
    return value if real == "float" else emit(f"fpext float {value} to {real}")


def _store_float16(emit: Emit, real: str, value: str, address: str) -> None:
    """By way of float32, as torch does: x86 has no instruction from float64."""
    if real != "float":
        value = emit(f"fptrunc {real} {value} to float")
    half = emit(f"fptrunc float {value} to half")
    emit(f"store half {half}, ptr {address}, align 2", void=True)


def _load_same(kind: str, itemsize: int) -> Callable[[Emit, str, str], str]:
    def load(emit: Emit, real: str, address: str) -> str:
        value = emit(f"load {kind}, ptr {address}, align {itemsize}")
        return value if real == kind else emit(f"fpext {kind} {value} to {real}")

    return load


def _store_same(kind: str, itemsize: int) -> Callable[[Emit, str, str, str], None]:
    def store(emit: Emit, real: str, value: str, address: str) -> None:
        if real != kind:
            value = emit(f"fptrunc {real} {value} to {kind}")
        emit(f"store {kind} {value}, ptr {address}, align {itemsize}", void=True)

    return store


def plain(kind: str, itemsize: int) -> Format:
    """The storage of a type of LLVM as it is: a real, or several as a vector."""
    load, store = _load_same(kind, itemsize), _store_same(kind, itemsize)
    return Format(kind, itemsize, load, store)


def _packed_bfloat16() -> Packed | None:
    if sys.byteorder != "little":
        return None
    return Packed(bfloat16.PACKED, bfloat16.load_packed, bfloat16.store_packed)


_FLOAT16 = Format("float16", 2, _load_float16, _store_float16)
_FORMATS = {
    torch.float64: Format(
        "float64", 8, _load_same("double", 8), _store_same("double", 8)
    ),
    torch.float32: Format(
        "float32", 4, _load_same("float", 4), _store_same("float", 4)
    ),
    torch.bfloat16: Format(
        "bfloat16", 2, bfloat16.load, bfloat16.store, _packed_bfloat16()
    ),
}
_REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}


def format_of(dtype: torch.dtype) -> Format | None:
    """The format of a tensor's real numbers, or None if no kernel has one.

    Complex tensors are pairs of reals. Float16 needs conversion instructions.
    """
    dtype = _REAL.get(dtype, dtype)
    if dtype is torch.float16:
        converts = jit.host_has("f16c") or jit.host_has("fullfp16")
        return _FLOAT16 if converts else None
    return _FORMATS.get(dtype)
