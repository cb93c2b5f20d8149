"""Reading a tensor from native code, through functions that torch itself exports.

A step must look at every parameter, gradient and slot: any of them may have moved since
the last. A look from Python costs 0.07 microseconds, several are needed a tensor, and a
fused step on small tensors would spend most of its time there. Native code does it in a
few nanoseconds, with:

- ``c10::TensorImpl::grad() const``, which gives the gradient of a parameter;
- ``torch::autograd::impl::bump_version``, what ``increment_version`` calls;
- ``at::native::is_neg`` and ``is_conj``, for views that negate or conjugate lazily;
- ``aoti_torch_get_*``, torch's stable C interface to a tensor's pointer and geometry.

A tensor is passed to them as a *handle*, the address of the ``at::Tensor`` inside the
Python object. Where that lies is found by looking for a known value, and is confirmed
for every tensor that is read this way (:func:`handle`). Where torch exports something
else (Windows, a future release), :func:`symbols` is None and Python does the looking.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils import dlpack

__all__ = ["Symbols", "device_code", "dtype_code", "functions", "handle", "symbols"]

# Each line: our name, the library, and the names under which torch exports it.
_EXPORTS = (
    ("grad", "c10", ("_ZNK3c1010TensorImpl4gradEv",)),
    (
        "bump_version",
        "torch_cpu",
        (
            "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE",
            "_ZN5torch8autograd4impl12bump_versionERKN2at10TensorBaseE",
        ),
    ),
    ("is_neg", "torch_cpu", ("_ZN2at6native6is_negERKNS_6TensorE",)),
    ("is_conj", "torch_cpu", ("_ZN2at6native7is_conjERKNS_6TensorE",)),
    ("data_ptr", "torch_cpu", ("aoti_torch_get_data_ptr",)),
    ("dtype", "torch_cpu", ("aoti_torch_get_dtype",)),
    ("device_type", "torch_cpu", ("aoti_torch_get_device_type",)),
    ("layout", "torch_cpu", ("aoti_torch_get_layout",)),
    ("dim", "torch_cpu", ("aoti_torch_get_dim",)),
    ("sizes", "torch_cpu", ("aoti_torch_get_sizes",)),
    ("strides", "torch_cpu", ("aoti_torch_get_strides",)),
)
_WORD = ctypes.sizeof(ctypes.c_size_t)

_confirmed: Symbols | None = None


class References(NamedTuple):
    """How torch counts references: where, and the counts that mean "no other".

    Attributes:
        count_offset: where a tensor's record, and a storage, has its count.
        record_count: of a record to which its Python object alone refers.
        storage_count: of a storage to which one record alone refers.
        shown_count: the same, once Python has seen the storage.
        object_offset: where the storage then has the address of its Python object.
    """

    count_offset: int = 0
    record_count: int = 0
    storage_count: int = 0
    shown_count: int = 0
    object_offset: int = 0


class Symbols(dict[str, int]):
    """Addresses of torch's functions by our names, and of its undefined tensor."""

    undefined: int
    handle_offset: int
    storage_offset: int
    version_offset: int
    references: References


def symbols() -> Symbols | None:
    """The addresses of what torch exports, or None where something is missing."""
    global _confirmed
    if _confirmed is None:
        found = _exports()
        if found is not None and _agrees(found):
            _confirmed = found
    return _confirmed


@functools.cache
def _exports() -> Symbols | None:
    found = Symbols()
    for name, library, exports in _EXPORTS:
        address = _address(library, exports)
        if address is None:
            return None
        found[name] = address
    return found


def handle(tensor: torch.Tensor) -> int | None:
    """The address of the ``at::Tensor`` in a Python tensor, confirmed, or None."""
    known = symbols()
    if known is None:
        return None
    address = id(tensor) + known.handle_offset
    return address if _word(address) == tensor._cdata else None


def functions() -> dict[str, int]:
    """What a table's record holds of torch: addresses by the names of its fields."""
    known = symbols()
    assert known is not None, "no native code without torch's functions"
    return {
        **known,
        "undefined": known.undefined,
        "storage_offset": known.storage_offset,
        "version_offset": known.version_offset,
        **known.references._asdict(),
    }


@functools.cache
def dtype_code(dtype: torch.dtype) -> int:
    """The number by which torch's C interface names a dtype."""
    return _property("dtype", torch.empty(0, dtype=dtype, device="cpu"))


@functools.cache
def device_code(kind: str) -> int:
    """The number by which torch's C interface names a kind of device."""
    return _property("device_type", torch.empty(0, device=kind))


def _property(name: str, sample: torch.Tensor) -> int:
    code = ctypes.c_int32()
    read = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p)
    read(functions()[name])(handle(sample) or 0, ctypes.addressof(code))
    return code.value


def _address(library: str, exports: tuple[str, ...]) -> int | None:
    suffix = {"darwin": "dylib", "linux": "so"}.get(sys.platform)
    path = Path(torch.__file__).parent / "lib" / f"lib{library}.{suffix}"
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError:
        return None
    for export in exports:
        if hasattr(loaded, export):
            return ctypes.cast(getattr(loaded, export), ctypes.c_void_p).value
    return None


def _sample(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _handle_offset() -> int | None:
    samples = [_sample(3), torch.nn.Parameter(_sample(2, 5))]
    for offset in range(0, torch.Tensor.__basicsize__, _WORD):
        if all(_word(id(sample) + offset) == sample._cdata for sample in samples):
            return offset
    return None


def _storage_offset() -> int:
    """Where a tensor's record has its storage's address; used to read ahead only."""
    samples = [_sample(3), _sample(2, 5)]
    for offset in range(0, 8 * _WORD, _WORD):
        if all(
            _word(sample._cdata + offset) == sample.untyped_storage()._cdata
            for sample in samples
        ):
            return offset
    return 0


def _version_offset() -> int:
    """Where it has the address of its counter of versions; to read ahead only.

    A tensor shares the counter with what is detached from it, not with its ``data``.
    """
    sample = _sample(3)
    detached, data = sample.detach(), sample.data
    for offset in range(0, 8 * _WORD, _WORD):
        known = _word(sample._cdata + offset)
        shared = known == _word(detached._cdata + offset)
        if shared and known != _word(data._cdata + offset):
            return offset
    return 0


def _references(storage_offset: int) -> References:
    """Found by looking at counts while something else refers to a sample.

    Where they cannot be told, they are such that somebody else always seems to.
    """
    sample = _sample(3)

    def counts(offset: int) -> tuple[int, int]:
        record = sample._cdata
        storage = _word(record + storage_offset)
        return _signed(record + offset), _signed(storage + offset)

    for offset in range(_WORD, 4 * _WORD, _WORD):
        record, storage = counts(offset)
        capsule = dlpack.to_dlpack(sample)  # type: ignore[attr-defined]
        counted = counts(offset) == (record + 1, storage)
        del capsule
        detached = sample.detach()  # another record of the same storage
        counted &= counts(offset) == (record, storage + 1)
        del detached
        if counted and counts(offset) == (record, storage):
            break
    else:
        return References()
    shown = sample.untyped_storage()
    places = range(offset, 12 * _WORD, _WORD)
    found = [place for place in places if _word(shown._cdata + place) == id(shown)]
    if len(found) != 1:
        return References(offset, record, storage)
    del shown
    return References(offset, record, storage, counts(offset)[1], found[0])


def _grad_of(function: int, tensor: torch.Tensor) -> int:
    prototype = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_size_t)
    gradient = int(prototype(function)(tensor._cdata))
    return _word(gradient)


def _undefined(function: int) -> int:
    return _grad_of(function, _sample(1))


def _agrees(found: Symbols) -> bool:
    """Whether what the functions say of a sample is what Python says."""
    offset = _handle_offset()
    if offset is None:
        return False
    found.handle_offset = offset
    found.storage_offset = _storage_offset()
    found.version_offset = _version_offset()
    found.references = _references(found.storage_offset)
    found.undefined = _undefined(found["grad"])
    sample = torch.nn.Parameter(_sample(2, 3))
    if _grad_of(found["grad"], sample) != found.undefined:
        return False
    sample.grad = _sample(2, 3)
    if _grad_of(found["grad"], sample) != sample.grad._cdata:
        return False
    address = id(sample) + found.handle_offset
    pointer = ctypes.c_size_t()
    read = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p)
    failed = read(found["data_ptr"])(address, ctypes.addressof(pointer))
    before = sample._version
    ctypes.CFUNCTYPE(None, ctypes.c_size_t)(found["bump_version"])(address)
    bumped = sample._version == before + 1
    return not failed and pointer.value == sample.data_ptr() and bumped


def _word(address: int) -> int:
    return ctypes.c_size_t.from_address(address).value


def _signed(address: int) -> int:
    return ctypes.c_int64.from_address(address).value
