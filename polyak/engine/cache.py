"""Machine code on disk, so that a process starts with the kernels of the last one.

The folder is ``$POLYAK_CACHE_DIR``, or ``polyak`` in the user's cache folder
(``$XDG_CACHE_HOME``, ``~/.cache``); ``POLYAK_CACHE_DIR=""`` turns the cache off. An
entry is one file, named by the hash of everything that its content depends on, and
starts with the checksum of its name and of what follows. Entries are written to a
temporary file and renamed, so that processes may share the folder without a lock: a
reader sees a whole entry or none. An entry that is damaged is not used and is written
again; a folder that cannot be used costs one warning and the time of compiling.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from pathlib import Path

__all__ = ["cache_dir", "load", "store"]

_DIGEST_BYTES = hashlib.sha256().digest_size
_warned = False


def cache_dir() -> Path | None:
    """The folder of compiled kernels, or None where the cache is turned off."""
    chosen = os.environ.get("POLYAK_CACHE_DIR")
    if chosen is not None:
        return Path(chosen) if chosen else None
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "polyak"
    except RuntimeError:  # no home folder
        return None


def load(key: str) -> bytes | None:
    """The content stored under ``key``, or None if there is none that is whole."""
    folder = cache_dir()
    if folder is None:
        return None
    try:
        entry = (folder / key).read_bytes()
    except OSError:
        return None
    checksum, content = entry[:_DIGEST_BYTES], entry[_DIGEST_BYTES:]
    return content if _checksum(key, content) == checksum else None


def store(key: str, content: bytes) -> None:
    """Keep ``content`` under ``key`` if the folder allows it."""
    folder = cache_dir()
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_checksum(key, content) + content)
            os.replace(name, folder / key)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        _warn_once(folder, error)


def _checksum(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()


def _warn_once(folder: Path, error: OSError) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"polyak cannot keep compiled kernels in {folder} ({error}); every process "
            "compiles its own. Set POLYAK_CACHE_DIR to a writable folder, or to an "
            "empty string to turn the cache off.",
            RuntimeWarning,
            stacklevel=2,
        )
