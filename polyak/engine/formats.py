"""How a number lies in memory, and how a kernel loads and stores it.

A kernel computes in float32, or in float64 where a tensor has it; what is narrower is
widened when loaded and rounded to nearest when stored. The rule never knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from . import jit

__all__ = ["Format", "format_of", "plain"]

Emit = Callable[..., str]


@dataclass(frozen=True)
class Format:
    """The storage of one real number.

    Attributes:
        name: for kernels' names and listings.
        itemsize: bytes.
        load: emits LLVM that reads the number at an address.
        store: emits LLVM that writes a number to an address.
    """

    name: str
    itemsize: int
    load: Callable[[Emit, str, str], str]
    store: Callable[[Emit, str, str, str], None]

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


def _load_bfloat16(emit: Emit, real: str, address: str) -> str:
    bits = emit(f"load i16, ptr {address}, align 2")
    wide = emit(f"zext i16 {bits} to i32")
    shifted = emit(f"shl i32 {wide}, 16")
    value = emit(f"bitcast i32 {shifted} to float")
    return value if real == "float" else emit(f"fpext float {value} to {real}")


def _store_bfloat16(emit: Emit, real: str, value: str, address: str) -> None:
    """Round to nearest, ties to even, by integer arithmetic: it vectorises anywhere."""
    if real != "float":
        value = emit(f"fptrunc {real} {value} to float")
    bits = emit(f"bitcast float {value} to i32")
    high = emit(f"lshr i32 {bits}, 16")
    odd = emit(f"and i32 {high}, 1")
    bias = emit(f"add i32 {odd}, 32767")
    rounded = emit(f"add i32 {bits}, {bias}")
    kept = emit(f"lshr i32 {rounded}, 16")
    is_nan = emit(f"fcmp uno float {value}, {value}")
    chosen = emit(f"select i1 {is_nan}, i32 32704, i32 {kept}")
    narrow = emit(f"trunc i32 {chosen} to i16")
    emit(f"store i16 {narrow}, ptr {address}, align 2", void=True)


def plain(kind: str, itemsize: int) -> Format:
    """The storage of a type of LLVM as it is: a real, or several as a vector."""
    load, store = _load_same(kind, itemsize), _store_same(kind, itemsize)
    return Format(kind, itemsize, load, store)


_FLOAT16 = Format("float16", 2, _load_float16, _store_float16)
_FORMATS = {
    torch.float64: Format(
        "float64", 8, _load_same("double", 8), _store_same("double", 8)
    ),
    torch.float32: Format(
        "float32", 4, _load_same("float", 4), _store_same("float", 4)
    ),
    torch.bfloat16: Format("bfloat16", 2, _load_bfloat16, _store_bfloat16),
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
