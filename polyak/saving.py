"""A whole run in one file: saved entirely or not at all, and checked when it is read.

The file is one of :func:`torch.save`, and after it a last line with the version of this
format and the SHA-256 of all that comes before. :func:`torch.load` reads it as well,
unchecked: ``torch.load(path)["parts"]``.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import re
import secrets
import stat
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from copy import deepcopy
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch
from torch import Tensor

from .bounds import nearest

__all__ = ["load", "save"]

Path = str | os.PathLike[str]

_VERSION = 1
_SEAL = f"\npolyak checkpoint {_VERSION} sha256 ".encode()
_SEALED = re.compile(rb"\npolyak checkpoint (\d+) sha256 ([0-9a-f]{64})\n\Z")
_DIGEST_BYTES = 65  # hexadecimal, and the end of the line
_CHUNK = 1 << 20
_TEMPORARY_END = ".saving"

# What torch.load(weights_only=True) takes.
_ATOMS = {type(None), bool, int, float, complex, str, bytes, bytearray}
_ATOMS |= {torch.Size, torch.device, torch.dtype, torch.layout}
_INT_BITS = 2039


def save(path: Path, /, *, rng: bool = True, **parts: Any) -> None:
    """Save what a run is made of in one file, for :func:`polyak.load`.

    The file appears under its name, in place of the one before, once it is whole and on
    the disk. Whenever the process is killed, the name has the old file or the new one;
    what a killed process left beside it (``.NAME.*.saving``) is removed by the next
    save. Several processes may save to one path: the last one stays.

    Args:
        path: the file. It keeps its permissions; a link stays one.
        rng: save the random state too: torch's, of the CPU and of CUDA devices in use,
            NumPy's and Python's.
        parts: objects with a ``state_dict()`` (models, optimizers, schedulers,
            averages, scalers), of which that is saved; ``torch.Generator`` objects;
            and plain data: None, numbers, strings, tensors, and lists, tuples, dicts
            and sets of these. NumPy's scalars become Python's. Tensors are detached.

    Raises:
        TypeError: something that is none of these; nothing was written.
        ValueError: the path is a folder or a device; data that contains itself.
        OSError: the file could not be written; the one before it is whole.

    >>> import tempfile
    >>> model = torch.nn.Linear(2, 1)
    >>> optimizer = polyak.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     polyak.save(f"{folder}/run.pt", model=model, optimizer=optimizer, epoch=3)
    ...     polyak.load(f"{folder}/run.pt", model=model, optimizer=optimizer)
    {'epoch': 3}
    """
    from . import __version__

    if rng:
        parts["rng"] = _RandomState()
    content = {
        "polyak": __version__,
        "torch": str(torch.__version__),
        "parts": {name: _saved(name, part) for name, part in parts.items()},
    }
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        raise ValueError(f"{path} is no regular file, which a save would replace")
    try:
        with _replacing(target) as file:
            _write(file, content)
    except OSError as error:
        reason = f"{error.strerror or error}; nothing was saved, and nothing replaced"
        raise OSError(error.errno, reason, os.fspath(path)) from error
    _sync_folder(os.path.dirname(target))


def load(
    path: Path,
    /,
    *,
    rng: bool | None = None,
    map_location: Any = None,
    **parts: Any,
) -> dict[str, Any]:
    """Load a file of :func:`polyak.save` into the given objects, or change nothing.

    Args:
        path: the file.
        rng: restore the random state; by default if objects are given and the file has
            it. Of CUDA devices, that of those that are there.
        map_location: where tensors go, as for :func:`torch.load`. Most objects copy
            them to where their own are.
        parts: objects with ``state_dict()`` and ``load_state_dict(state)``, under the
            names that they were saved by, and ``torch.Generator`` objects. They are
            loaded in this order; if one refuses its state, all get theirs back.

    Returns:
        The parts that were not given, by their names, as plain data and state dicts.
        Without objects, this is all of the file, and nothing else happens.

    Raises:
        ValueError: the file is empty, damaged, cut off, or of something else; a part
            that it does not have.
        TypeError: an object that cannot be loaded.
        RuntimeError: an object refused its state.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     polyak.save(f"{folder}/run.pt", weight=torch.ones(2), losses=[0.5, 0.25])
    ...     polyak.load(f"{folder}/run.pt")
    {'weight': tensor([1., 1.]), 'losses': [0.5, 0.25]}
    """
    content = _read(path, map_location)
    saved = content["parts"]
    if rng or (rng is None and parts and "rng" in saved):
        parts["rng"] = _RandomState()
    _check_parts(path, parts, saved)
    before = [(part, deepcopy(_state_of(part))) for part in parts.values()]
    with ExitStack() as undo:
        # All of them: loading a scheduler changes its optimizer.
        for part, state in before:
            undo.callback(_put, part, state)
        for name, part in parts.items():
            try:
                _put(part, saved[name])
            except Exception as error:
                raise RuntimeError(
                    f"{name!r} refused its state of {path} (by polyak "
                    f"{content['polyak']}, torch {content['torch']}), and nothing was "
                    f"loaded: {error}"
                ) from error
        undo.pop_all()
    return {name: saved[name] for name in saved if name not in {*parts, "rng"}}


def _check_parts(
    path: Path, parts: Mapping[str, Any], saved: Mapping[str, Any]
) -> None:
    for name, part in parts.items():
        if name not in saved:
            raise ValueError(
                f"{path} has no {name!r}.{nearest(name, saved)} It has "
                f"{', '.join(saved) or 'nothing'}. Nothing was loaded."
            )
        if not _is_stateful(part):
            raise TypeError(
                f"{name!r} is a {_type_name(part)}, which has no load_state_dict(): do "
                "not give it, and take it from what load returns. Nothing was loaded."
            )


# Parts


class _RandomState:
    """The random state of this process: a part like others."""

    def state_dict(self) -> dict[str, Any]:
        numpys: Any = np.random.get_state(legacy=False)  # noqa: NPY002
        inner = {key: np.asarray(v).tolist() for key, v in numpys["state"].items()}
        in_use = torch.cuda.is_initialized()
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if in_use else [],
            "numpy": {**numpys, "state": inner},
            "python": random.getstate(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["torch"].cpu())
        for device, of_device in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(of_device.cpu(), device)
        np.random.set_state(state["numpy"])  # noqa: NPY002
        random.setstate(state["python"])


def _is_stateful(part: Any) -> bool:
    methods = ("state_dict", "load_state_dict")
    return isinstance(part, torch.Generator) or all(
        callable(getattr(part, method, None)) for method in methods
    )


def _state_of(part: Any) -> Any:
    if isinstance(part, torch.Generator):
        return part.get_state()
    return part.state_dict() if callable(getattr(part, "state_dict", None)) else part


def _put(part: Any, state: Any) -> None:
    if isinstance(part, torch.Generator):
        part.set_state(state.cpu())
    else:
        part.load_state_dict(state)


# Plain data


def _saved(name: str, part: Any) -> Any:
    try:
        return _plain(_state_of(part), name)
    except RecursionError:
        raise ValueError(
            f"{name} is nested too deeply, or contains itself. Nothing was saved."
        ) from None


def _plain(value: Any, where: str) -> Any:
    """A value as it will be loaded again, its tensors not copied, or TypeError."""
    kind = type(value)
    if isinstance(value, np.generic):
        value = value.item()
        kind = type(value)
    if kind is int and value.bit_length() > _INT_BITS:
        raise ValueError(f"{where} has more than {_INT_BITS} bits. Nothing was saved.")
    if kind in _ATOMS:
        return value
    if kind is Tensor or kind is torch.nn.Parameter:
        return value.detach()  # and without attributes that others gave to it
    if kind is list or kind is tuple:
        return kind(_plain(v, f"{where}[{i}]") for i, v in enumerate(value))
    if kind is set:
        return {_plain(member, f"{where}, a member,") for member in value}
    if kind is dict or kind is OrderedDict or kind is Counter:
        return _plain_dict(value, where)
    raise TypeError(_refusal(value, where))


def _plain_dict(value: Any, where: str) -> Any:
    made = type(value)()
    for key, entry in value.items():
        made[_plain(key, f"{where}, a key,")] = _plain(entry, f"{where}[{key!r}]")
    if isinstance(value, OrderedDict):  # a module's has the versions of its parts
        vars(made).update(_plain_dict(vars(value), f"vars({where})"))
    return made


def _refusal(value: Any, where: str) -> str:
    if isinstance(value, np.ndarray):
        remedy = "write torch.from_numpy(array)"
    elif _is_stateful(value):
        remedy = "give it as a part of its own"
    else:
        remedy = (
            "a file holds None, numbers, strings, tensors, and lists, tuples, dicts "
            "and sets of these"
        )
    return (
        f"{where} is a {_type_name(value)}, which could not be loaded again: {remedy}. "
        "Nothing was saved."
    )


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


# The file's content


class _Hashing:
    """Writes to a file, and takes the checksum on the way: nothing is held."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash = file, hashlib.sha256()
        self.failure: BaseException | None = None

    def write(self, data: bytes | memoryview) -> int:
        try:
            self.hash.update(data)
            return self.file.write(data)
        except BaseException as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _write(file: BinaryIO, content: dict[str, Any]) -> None:
    hashing = _Hashing(file)
    try:
        torch.save(content, hashing)  # type: ignore[arg-type]
    except RuntimeError as error:
        # torch's writer says of every failed write that its position is unexpected.
        raise hashing.failure or error from None
    hashing.write(_SEAL)
    file.write(hashing.hash.hexdigest().encode() + b"\n")


def _read(path: Path, map_location: Any) -> dict[str, Any]:
    with open(path, "rb") as file:
        _check_seal(file, path)
        file.seek(0)
        content: dict[str, Any] = torch.load(
            file, map_location=map_location, weights_only=True, mmap=False
        )
        return content


def _check_seal(file: BinaryIO, path: Path) -> None:
    size = os.fstat(file.fileno()).st_size
    start = file.read(4)
    file.seek(max(0, size - 200))
    end = file.read()
    seal = _SEALED.search(end)
    if not seal:
        _refuse(path, _what_it_is(start, end))
    if _digest(file, size - _DIGEST_BYTES) != seal[2].decode():
        _refuse(path, "was damaged since it was saved: its checksum is another.")
    if int(seal[1]) > _VERSION:
        raise ValueError(
            f"{path} has version {int(seal[1])} of the format, and this polyak reads "
            f"version {_VERSION}: install a newer polyak. Nothing was loaded."
        )


def _digest(file: BinaryIO, size: int) -> str:
    """The checksum of the first ``size`` bytes."""
    file.seek(0)
    checksum = hashlib.sha256()
    while size > 0:
        chunk = file.read(min(size, _CHUNK))
        if not chunk:
            break
        checksum.update(chunk)
        size -= len(chunk)
    return checksum.hexdigest()


def _what_it_is(start: bytes, end: bytes) -> str:
    """Say what a file is that has not polyak's last line."""
    if not end:
        return "is empty."
    if start != b"PK\x03\x04":
        return "is no file of polyak.save, or the start of it is damaged."
    if end[-22:-18] == b"PK\x05\x06":  # where a zip file of torch.save ends
        return (
            "has no checksum. If torch.save wrote it, read it with torch.load; if not, "
            "it was cut off."
        )
    return "is cut off, or the end of it is damaged."


def _refuse(path: Path, what: str) -> NoReturn:
    raise ValueError(
        f"{path} {what} Nothing was loaded: go back to a copy, or to an earlier file."
    )


# The file's place


@contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` when the block ends well.

    The old one must be one that may be written to, though nothing is.
    """
    _remove_leftovers(path)
    temporary, file = _new_file(path)
    with file:
        try:
            with suppress(FileNotFoundError), open(path, "r+b") as old:
                os.fchmod(file.fileno(), stat.S_IMODE(os.fstat(old.fileno()).st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise


def _new_file(path: str) -> tuple[str, BinaryIO]:
    """A locked file beside ``path``; the lock ends with the process."""
    while True:
        temporary = _temporary_start(path) + secrets.token_hex(8) + _TEMPORARY_END
        file = open(temporary, "xb")  # noqa: SIM115
        with suppress(OSError):  # a file system without locks: leftovers stay
            _lock(file, wait=True)
        if os.path.exists(temporary):
            return temporary, file
        file.close()  # another save took it for a leftover, before it was locked


def _remove_leftovers(path: str) -> None:
    """Remove the unfinished files of saves that are no more."""
    start = _temporary_start(path)
    with os.scandir(os.path.dirname(path)) as entries:
        names = [entry.path for entry in entries]
    for name in names:
        if name.startswith(start) and name.endswith(_TEMPORARY_END):
            # One that is locked is being written; one that is gone was finished.
            with suppress(OSError), open(name, "r+b") as file:
                _lock(file, wait=False)
                os.unlink(name)


def _temporary_start(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.")


def _lock(file: BinaryIO, *, wait: bool) -> None:
    import fcntl  # only POSIX has it, and polyak is imported elsewhere, too

    fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync_folder(folder: str) -> None:
    """Make a new name last, as the content does already."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that syncs no folders
            raise
    finally:
        os.close(handle)
