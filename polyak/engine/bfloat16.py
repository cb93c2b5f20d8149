"""bfloat16 in memory: the upper half of a float32.

A number is read and written by itself, or :data:`PACKED` are at once: two share a word
of 32 bits, of which the lower one is shifted up, and the upper one is in its place. The
numbers at even places come first then, and behind them those at odd places. Where all
tensors of a kernel are read so, nothing need be moved between the places of a vector,
which takes processors longer than all the arithmetic of a simple rule.
"""

from __future__ import annotations

from collections.abc import Callable

from . import jit

__all__ = ["PACKED", "load", "load_packed", "store", "store_packed"]

Emit = Callable[..., str]

# Two of the processor's vectors.
PACKED = 32 if jit.host_has("avx512f") else 16

_WORDS = PACKED // 2
_UPPER = -65536  # the upper half of a word


def load(emit: Emit, real: str, address: str) -> str:
    """A number."""
    bits = emit(f"load i16, ptr {address}, align 2")
    wide = emit(f"zext i16 {bits} to i32")
    shifted = emit(f"shl i32 {wide}, 16")
    value = emit(f"bitcast i32 {shifted} to float")
    return value if real == "float" else emit(f"fpext float {value} to {real}")


def store(emit: Emit, real: str, value: str, address: str) -> None:
    """Store a number, rounded to nearest, ties to even."""
    if real != "float":
        value = emit(f"fptrunc {real} {value} to float")
    rounded = _rounded(emit, value, 1)
    kept = emit(f"lshr i32 {rounded}, 16")
    narrow = emit(f"trunc i32 {kept} to i16")
    emit(f"store i16 {narrow}, ptr {address}, align 2", void=True)


def load_packed(emit: Emit, real: str, address: str) -> str:
    """Many numbers, as ``real``, a vector of float32."""
    kind = _kind("i32", _WORDS)
    words = emit(f"load {kind}, ptr {address}, align 2")
    even = emit(f"shl {kind} {words}, {_all(16, _WORDS)}")
    odd = emit(f"and {kind} {words}, {_all(_UPPER, _WORDS)}")
    bits = _picked(emit, even, odd, range(PACKED))
    return emit(f"bitcast {_kind('i32', PACKED)} {bits} to {real}")


def store_packed(emit: Emit, real: str, value: str, address: str) -> None:
    """Store many numbers, which lie as they were loaded."""
    kind = _kind("i32", _WORDS)
    rounded = _rounded(emit, value, PACKED)
    even, odd = (
        _picked(emit, rounded, rounded, half, PACKED)
        for half in (range(_WORDS), range(_WORDS, PACKED))
    )
    lower = emit(f"lshr {kind} {even}, {_all(16, _WORDS)}")
    upper = emit(f"and {kind} {odd}, {_all(_UPPER, _WORDS)}")
    words = emit(f"or {kind} {lower}, {upper}")
    emit(f"store {kind} {words}, ptr {address}, align 2", void=True)


def _rounded(emit: Emit, value: str, lanes: int) -> str:
    """Words whose upper halves are float32 rounded; by integers, anywhere the same."""
    kind, real, mask = (_kind(scalar, lanes) for scalar in ("i32", "float", "i1"))
    bits = emit(f"bitcast {real} {value} to {kind}")
    high = emit(f"lshr {kind} {bits}, {_all(16, lanes)}")
    odd = emit(f"and {kind} {high}, {_all(1, lanes)}")
    bias = emit(f"add {kind} {odd}, {_all(32767, lanes)}")
    nearest = emit(f"add {kind} {bits}, {bias}")
    is_nan = emit(f"fcmp uno {real} {value}, {value}")
    nan = _all(0x7FC00000, lanes)
    return emit(f"select {mask} {is_nan}, {kind} {nan}, {kind} {nearest}")


def _picked(emit: Emit, x: str, y: str, order: range, lanes: int = _WORDS) -> str:
    kind = _kind("i32", lanes)
    picks = ", ".join(f"i32 {place}" for place in order)
    return emit(f"shufflevector {kind} {x}, {kind} {y}, <{len(order)} x i32> <{picks}>")


def _kind(scalar: str, lanes: int) -> str:
    return scalar if lanes == 1 else f"<{lanes} x {scalar}>"


def _all(value: int, lanes: int) -> str:
    """The same whole number everywhere."""
    return str(value) if lanes == 1 else f"<{', '.join([f'i32 {value}'] * lanes)}>"
