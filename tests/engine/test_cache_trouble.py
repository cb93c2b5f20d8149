"""What may befall a cache: done to it, in processes that then start and step."""

import json
import os
import textwrap

import pytest

from polyak.engine import cache

from .processes import run

PROGRAM = """
import json, os, pwd, resource, shutil, sys, warnings
from pathlib import Path

import torch, polyak
from polyak.engine import jit

compiled, original = [], jit._optimized
jit._optimized = lambda ir, machine: compiled.append(ir) or original(ir, machine)

def trained(kind, **arguments):
    param = torch.tensor([1.0, 2.0], requires_grad=True)
    param.grad = torch.tensor([1.0, -1.0])
    optimizer = kind([param], lr=0.5, **arguments)
    for _ in range(2):
        optimizer.step()
    assert not optimizer._plan.eager
    return param.tolist()

def lose_privileges():
    # Root may write everywhere. What a step imports and opens may be root's alone.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ["POLYAK_CACHE_DIR"] = ""
        trained(polyak.Adagrad)
        del os.environ["POLYAK_CACHE_DIR"]
    if os.geteuid() == 0:
        os.seteuid(65534)

folder = Path(sys.argv[1])
{before}
compiled.clear()
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    assert trained(polyak.SGD) == [0.0, 3.0]
    first = len(compiled)
    {between}
    assert trained(polyak.SGD, momentum=0.5) == [-0.25, 3.25]
    counts = first, len(compiled) - first
print(json.dumps([counts, [str(warning.message) for warning in warned]]))
"""
NONE = [0, 0]


def trial(folder, before="", between="pass", **environment):
    """Two optimizers step: how many modules each compiled, and the warnings."""
    between = textwrap.indent(textwrap.dedent(between).strip(), "    ").strip()
    program = PROGRAM.format(before=textwrap.dedent(before), between=between)
    compiled, warned = json.loads(run(program, str(folder), **environment))
    return compiled, warned


def alone(environment):
    """The caches of the user and of these tests are not to be found."""
    names = ("POLYAK_CACHE_DIR", "XDG_CACHE_HOME")
    return "".join(f"os.environ.pop({name!r}, None)\n" for name in names) + environment


def only(warned):
    """The one warning, which names the remedy."""
    (message,) = warned
    assert "Set POLYAK_CACHE_DIR to a folder" in message
    return message


def entries(folder):
    return sorted(folder.iterdir())


# Folders that cannot be written


def test_a_home_that_is_read_only(tmp_path):
    """Nothing can be made in it."""
    before = alone("os.environ['HOME'] = str(folder)\nfolder.chmod(0o555)\n")
    compiled, warned = trial(tmp_path, before + "lose_privileges()")
    assert all(compiled)
    assert f"{tmp_path}/.cache/polyak ([Errno 13] Permission denied" in only(warned)
    assert entries(tmp_path) == []


def test_no_home(tmp_path):
    """HOME is not set, and the user is not in the system's list, as in a container."""
    before = """
    os.environ.pop("HOME", None)
    def unknown(user):
        raise KeyError(user)
    pwd.getpwuid = unknown
    """
    compiled, warned = trial(tmp_path, alone(textwrap.dedent(before)))
    assert all(compiled)
    assert "(Could not determine home directory.)" in only(warned)


def test_a_working_folder_that_is_gone(tmp_path):
    """A relative name is of no file then."""
    before = """
    os.chdir(folder)
    os.environ["POLYAK_CACHE_DIR"] = "kernels"
    folder.rmdir()
    """
    compiled, warned = trial(tmp_path, before)
    assert all(compiled)
    assert "in kernels ([Errno 2]" in only(warned)


def test_a_disk_that_is_full(tmp_path):
    """The system stops each file short: none is left, whole or not."""
    before = "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))"
    compiled, warned = trial(tmp_path, before, POLYAK_CACHE_DIR=str(tmp_path))
    assert all(compiled)
    assert f"{tmp_path} ([Errno 27] File too large)" in only(warned)
    assert entries(tmp_path) == []
    assert trial(tmp_path, POLYAK_CACHE_DIR=str(tmp_path)) == (compiled, [])
    assert trial(tmp_path, before, POLYAK_CACHE_DIR=str(tmp_path)) == (NONE, [])


# Folders that change while processes run


def test_a_folder_that_is_removed_between_steps(tmp_path):
    """It is made again; what is loaded stays."""
    folder = tmp_path / "cache"
    compiled, warned = trial(
        folder, between="shutil.rmtree(folder)", POLYAK_CACHE_DIR=str(folder)
    )
    assert all(compiled)
    assert not warned
    assert len(entries(folder)) == compiled[1]


def test_a_folder_that_is_moved_between_steps(tmp_path):
    """With all that is in it; under its new name it is as good as it was."""
    folder, other = tmp_path / "cache", tmp_path / "other"
    between = "folder.rename(folder.parent / 'other')"
    options = {"POLYAK_CACHE_DIR": str(folder)}
    (first, second), warned = trial(folder, between=between, **options)
    assert not warned
    assert [len(entries(each)) for each in (other, folder)] == [first, second]
    options = {"POLYAK_CACHE_DIR": str(other)}
    assert trial(other, **options) == ([0, second], [])
    assert trial(other, **options) == (NONE, [])


def test_a_file_in_the_place_of_the_folder(tmp_path):
    """Steps go on."""
    folder = tmp_path / "cache"
    between = """
    shutil.rmtree(folder)
    folder.write_text("a file")
    """
    options = {"POLYAK_CACHE_DIR": str(folder)}
    compiled, warned = trial(folder, between=between, **options)
    assert all(compiled)
    assert "cannot keep compiled kernels" in only(warned)
    assert folder.read_text() == "a file"


# Who has written an entry


def writable_by_all(entry):
    entry.chmod(0o602)


def writable_by_a_group(entry):
    entry.chmod(0o620)


def of_another_user(entry):
    os.chown(entry, 12345, -1)


FOREIGN = [
    writable_by_all,
    writable_by_a_group,
    pytest.param(
        of_another_user,
        marks=pytest.mark.skipif(
            not hasattr(os, "geteuid") or os.geteuid() != 0,
            reason="only root can give a file away",
        ),
    ),
]


@pytest.mark.parametrize("give_away", FOREIGN)
def test_what_others_may_have_written_is_not_run(give_away, tmp_path):
    """It is compiled, and replaced where the folder is one's own."""
    options = {"POLYAK_CACHE_DIR": str(tmp_path)}
    every, _ = trial(tmp_path, **options)
    assert len(entries(tmp_path)) == sum(every)
    for entry in entries(tmp_path):
        give_away(entry)
    compiled, warned = trial(tmp_path, **options)
    assert compiled == every
    message = only(warned)
    assert f"does not run {tmp_path}" in message
    assert "which others may have written" in message
    if give_away is writable_by_all:
        assert trial(tmp_path, **options) == (NONE, [])


def test_one_foreign_entry_among_ones_own(tmp_path):
    """The others are used; a folder that all can write to is as good."""
    options = {"POLYAK_CACHE_DIR": str(tmp_path)}
    trial(tmp_path, **options)
    tmp_path.chmod(0o777)
    entries(tmp_path)[0].chmod(0o666)
    compiled, warned = trial(tmp_path, **options)
    assert sum(compiled) == 1
    assert str(entries(tmp_path)[0]) in only(warned)


@pytest.mark.parametrize(
    ("owner", "mode", "own"),
    [
        (1000, 0o100600, True),
        (1000, 0o100644, True),
        (0, 0o100644, True),
        (1001, 0o100644, False),
        (1000, 0o100664, False),
        (1000, 0o100646, False),
        (0, 0o100666, False),
    ],
)
def test_whose_entries_are_run(owner, mode, own, monkeypatch):
    """Those of the user and of the system, if nobody else may write to them."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    status = os.stat_result((mode, 1, 1, 1, owner, 1000, 10, 0, 0, 0))
    assert cache._is_own(status) is own


# How many there are, and how old


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that is the cache and may have ten entries."""
    monkeypatch.setenv("POLYAK_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "_warned", False)
    monkeypatch.setattr(cache, "MOST", 10)
    return tmp_path


def key(number):
    return f"{number:064x}.o"


def store(number, time=None):
    """An entry, written at a time."""
    cache.store(key(number), b"%d" % number)
    if time is not None:
        os.utime(cache.cache_dir() / key(number), (time, time))


def kept(count=100):
    """The numbers of the entries that can be loaded."""
    found = {number: cache.load(key(number)) for number in range(count)}
    assert all(value in (None, b"%d" % n) for n, value in found.items())
    return [number for number, value in found.items() if value is not None]


def test_the_latest_entries_are_kept(folder):
    """Where there are too many, the older half goes."""
    for number in range(10):
        store(number, time=1000 - number)
    assert kept() == list(range(10))
    store(10)
    assert kept() == [0, 1, 2, 3, 4, 10]
    for number in range(11, 100):
        store(number)
    assert 5 <= len(entries(folder)) <= 10


def test_only_entries_are_removed(folder):
    """Files of others stay; what processes that were killed left does not."""
    others = ["README", "ab.o", f"{'0' * 64}.oo", f"{'0' * 64}.o.bak"]
    for name in others:
        (folder / name).write_text("mine")
        os.utime(folder / name, (0, 0))
    (folder / key(0)).mkdir()
    left = folder / f"{key(1)}.abc.tmp"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    for number in range(2, 12):
        store(number, time=1000 + number)  # the eleventh, with what was left
    assert not left.exists()
    assert all((folder / name).read_text() == "mine" for name in others)
    assert (folder / key(0)).is_dir()
    assert kept() == list(range(6, 12))


@pytest.mark.parametrize("time", [0, 1, 2**33])
def test_a_clock_that_is_wrong(folder, time):
    """Entries of 1970 and of the future are entries; the bound holds."""
    for number in range(10):
        store(number, time)
    assert kept() == list(range(10))
    store(10)
    assert len(kept()) == 6


def test_processes_that_clean_up_at_once(folder, monkeypatch):
    """What another has removed meanwhile is gone, without a warning."""

    def gone(path):
        raise FileNotFoundError(2, "No such file", str(path))

    monkeypatch.setattr(os, "unlink", gone)
    for number in range(15):
        store(number)
    assert kept() == list(range(15))
