"""Machine code on disk, so that a process starts with the kernels of the last one.

The folder is ``$POLYAK_CACHE_DIR``, or ``polyak`` in the user's cache folder
(``$XDG_CACHE_HOME``, ``~/.cache``); ``POLYAK_CACHE_DIR=""`` turns the cache off. An
entry is one file, named by the hash of everything that its content depends on, and
starts with the checksum of its name and of what follows. Entries are written to a
temporary file and renamed, so that processes may share the folder without a lock: a
reader sees a whole entry or none. An entry that is damaged is not used and is written
again; a folder that cannot be used costs one warning and the time of compiling.

Whoever writes an entry decides what runs here. So one that another user may have
written is not used: each is looked at when it is open, wherever its folder is. Only the
latest are kept (:data:`MOST`). No decision is made by the clock.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

__all__ = ["MOST", "cache_dir", "load", "store"]

MOST = 1000  # entries: some 10 MB, and more kernels than one machine's work needs

_DIGEST_BYTES = hashlib.sha256().digest_size
_OURS = re.compile(r"[0-9a-f]{64}\.o(\..*\.tmp)?")
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_warned = False


def cache_dir() -> Path | None:
    """The folder of compiled kernels, or None where the cache is turned off.

    Raises:
        RuntimeError: the user has no home folder.
    """
    chosen = os.environ.get("POLYAK_CACHE_DIR")
    if chosen is not None:
        return Path(chosen) if chosen else None
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "polyak"


def load(key: str) -> bytes | None:
    """The content stored under ``key``, or None if there is none to be trusted."""
    try:
        folder = cache_dir()
        if folder is None:
            return None
        with (folder / key).open("rb") as file:
            trusted = _is_own(os.fstat(file.fileno()))
            entry = file.read()
    except (OSError, RuntimeError):
        return None
    if not trusted:
        _warn_once(f"does not run {folder / key}, which others may have written")
        return None
    checksum, content = entry[:_DIGEST_BYTES], entry[_DIGEST_BYTES:]
    return content if _checksum(key, content) == checksum else None


def store(key: str, content: bytes) -> None:
    """Keep ``content`` under ``key`` if the folder allows it."""
    folder = None
    try:
        folder = cache_dir()
        if folder is None:
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(".tmp", f"{key}.", folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_checksum(key, content) + content)
            os.replace(name, folder / key)
        except BaseException:
            os.unlink(name)
            raise
    except (OSError, RuntimeError) as error:
        _warn_once(f"cannot keep compiled kernels in {folder or 'a folder'} ({error})")
    else:
        with suppress(OSError):  # others clean up too
            _remove_oldest(folder)


def _checksum(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + content).digest()


def _is_own(status: os.stat_result) -> bool:
    """Whether nobody but this user and the system's can have written a file."""
    if not hasattr(os, "geteuid"):  # permissions are not in the status
        return True
    owned = status.st_uid in (os.geteuid(), 0)
    return owned and not status.st_mode & _OTHERS_MAY_WRITE


def _remove_oldest(folder: Path) -> None:
    """Remove the older half of the entries where there are too many.

    What processes that were killed have left of theirs is among them.
    """
    with os.scandir(folder) as found:
        entries = [e for e in found if _OURS.fullmatch(e.name) and e.is_file()]
    if len(entries) > MOST:
        entries.sort(key=lambda entry: entry.stat().st_mtime)
        for entry in entries[: len(entries) // 2]:
            os.unlink(entry)


def _warn_once(what: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"polyak {what}. Kernels are compiled anew instead, in some tenths of a "
            "second. Set POLYAK_CACHE_DIR to a folder that you alone can write to, or "
            "to an empty string to turn the cache off.",
            RuntimeWarning,
            stacklevel=2,
        )
