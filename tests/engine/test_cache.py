"""Kernels on disk: found again, never trusted when damaged, never in the way."""

import ctypes
import hashlib
import os
import tempfile

import llvmlite
import pytest
import torch

import polyak
from polyak.engine import cache, jit

from .processes import finish, run, start
from .support import engines, parameter, probe

STEP = """
import sys, torch, polyak
from polyak.engine import jit
compiled = []
original = jit._optimized
jit._optimized = lambda ir, machine: compiled.append(ir) or original(ir, machine)
param = torch.tensor([1.0, 2.0], requires_grad=True)
param.grad = torch.tensor([1.0, -1.0])
optimizer = polyak.SGD([param], lr=0.5, momentum=0.5)
optimizer.step()
optimizer.step()
assert not optimizer._plan.eager
print(len(compiled), param.tolist())
"""
DONE = "[-0.25, 3.25]"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that is the cache and does not exist yet."""
    path = tmp_path / "cache"
    monkeypatch.setenv("POLYAK_CACHE_DIR", str(path))
    monkeypatch.setattr(cache, "_warned", False)
    return path


@pytest.fixture
def compiled(monkeypatch):
    """What was compiled, not loaded."""
    made, original = [], jit._optimized

    def optimized(ir, machine):
        made.append(ir)
        return original(ir, machine)

    monkeypatch.setattr(jit, "_optimized", optimized)
    return made


SOURCE = """
define i64 @answer() {
  ret i64 42
}
"""


def answer(ir=SOURCE):
    """Compile a function, as another process would, and call it."""
    jit._loaded.pop(ir, None)
    library = jit.compile_ir(ir)
    return ctypes.CFUNCTYPE(ctypes.c_int64)(library["answer"])()


def entries(folder):
    return sorted(path for path in folder.iterdir() if path.suffix == ".o")


# Where


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"POLYAK_CACHE_DIR": "/a/b"}, "/a/b"),
        ({"POLYAK_CACHE_DIR": ""}, "None"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/polyak"),
        ({"HOME": "/home/me"}, "/home/me/.cache/polyak"),
        ({"XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/polyak"),
        ({"POLYAK_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/x"}, "/a"),
    ],
)
def test_the_folder(environment, expected, monkeypatch):
    """$POLYAK_CACHE_DIR, $XDG_CACHE_HOME/polyak, ~/.cache/polyak, in this order."""
    for name in ("POLYAK_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(cache.cache_dir()) == expected


# Kept and found


def test_other_processes_compile_nothing(tmp_path):
    """They load what the first one stored, step alike, and repair what is damaged."""
    options = {"POLYAK_CACHE_DIR": str(tmp_path / "deep" / "cache")}
    first, second = run(STEP, **options), run(STEP, **options)
    assert first.endswith(f"{DONE}\n")
    assert int(first.split()[0]) > 0
    assert second == f"0 {DONE}\n"
    whole = {
        entry: entry.read_bytes() for entry in entries(tmp_path / "deep" / "cache")
    }
    for entry in whole:
        entry.write_bytes(whole[entry][:-1])
    assert run(STEP, **options) == first
    assert {entry: entry.read_bytes() for entry in whole} == whole


def test_an_entry_is_written_once(folder, compiled):
    """The same module is compiled, stored, and from then on loaded."""
    assert [answer(), answer(), answer()] == [42] * 3
    assert len(compiled) == 1
    (entry,) = entries(folder)
    assert not [path for path in folder.iterdir() if path != entry]


def test_an_entry_begins_with_its_checksum(folder):
    """SHA-256 of what follows, so that damage shows."""
    cache.store("key.o", b"content")
    stored = (folder / "key.o").read_bytes()
    assert stored.endswith(b"content")
    assert len(stored) == len(b"content") + hashlib.sha256().digest_size
    assert cache.load("key.o") == b"content"


def test_another_module_has_another_entry(folder, compiled):
    """One instruction more or less is another key."""
    assert answer() == 42
    assert answer(SOURCE.replace("42", "43")) == 43
    assert len(entries(folder)) == len(compiled) == 2


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (llvmlite, "__version__", "0.0.1"),
        (jit.llvm, "llvm_version_info", (1, 2, 3)),
        (jit, "_TUNING", {**jit._TUNING, "loop_unrolling": False}),
        (jit, "_LEVEL", 2),
    ],
)
def test_another_compiler_has_another_entry(
    where, name, value, folder, compiled, monkeypatch
):
    """After an upgrade, what the old one made is not used; going back, it is."""
    assert answer() == 42
    with monkeypatch.context() as patched:
        patched.setattr(where, name, value)
        assert answer() == 42
    assert len(entries(folder)) == len(compiled) == 2
    assert answer() == 42
    assert len(compiled) == 2


def test_another_processor_has_another_entry(folder, compiled, monkeypatch):
    """A home folder may be shared by machines: their code is kept apart."""
    assert answer() == 42
    triple, cpu, _ = jit._target()
    for target in ((triple, cpu, ""), (triple, "x86-64", "")):
        monkeypatch.setattr(jit, "_target", lambda target=target: target)
        try:
            assert answer() == 42
        except RuntimeError:  # not a processor of this architecture
            continue
    assert len(entries(folder)) == len(compiled) > 1


# Damage


def truncated(content):
    return content[: len(content) // 2]


def emptied(content):
    return b""


def shortened_checksum(content):
    return content[:10]


def flipped_bit(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def flipped_bit_of_checksum(content):
    return bytes([content[0] ^ 1]) + content[1:]


def zeroed(content):
    return bytes(len(content))


def lengthened(content):
    return content + b"\0"


def foreign(content):
    return b"not a kernel at all"


DAMAGE = [truncated, emptied, shortened_checksum, flipped_bit, flipped_bit_of_checksum]
DAMAGE += [zeroed, lengthened, foreign]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_entry_is_written_again(damage, folder, compiled):
    """It is compiled anew, without a word, and the entry is whole again."""
    answer()
    (entry,) = entries(folder)
    content = entry.read_bytes()
    entry.write_bytes(damage(content))
    assert answer() == 42
    assert len(compiled) == 2
    assert entry.read_bytes() == content
    assert answer() == 42
    assert len(compiled) == 2


def test_an_entry_under_another_name_is_not_used(folder, compiled):
    """A whole entry that belongs to another module: copied, or renamed by a tool."""
    answer()
    answer(SOURCE.replace("42", "43"))
    first, second = entries(folder)
    first.write_bytes(second.read_bytes())
    assert answer() == 42
    assert answer(SOURCE.replace("42", "43")) == 43


def test_other_files_are_left_alone(folder):
    """The folder may hold what it likes."""
    folder.mkdir()
    (folder / "README").write_text("mine")
    (folder / "subfolder.o").mkdir()
    assert answer() == 42
    assert (folder / "README").read_text() == "mine"


# Folders that cannot be used


def file_in_the_way(folder):
    folder.write_text("a file")


def file_above(folder):
    folder.parent.rmdir()
    folder.parent.write_text("a file")


def name_too_long(folder):
    os.environ["POLYAK_CACHE_DIR"] = str(folder / ("x" * 300))


def on_no_file_system(folder):
    os.environ["POLYAK_CACHE_DIR"] = "/proc/polyak"


OBSTACLES = [file_in_the_way, file_above, name_too_long, on_no_file_system]


@pytest.mark.parametrize("obstacle", OBSTACLES, ids=lambda obstacle: obstacle.__name__)
def test_a_folder_that_cannot_be_used_warns_once(obstacle, folder, compiled):
    """Everything works, for the price of compiling; the warning names the remedy."""
    obstacle(folder)
    with pytest.warns(RuntimeWarning, match="POLYAK_CACHE_DIR") as warned:
        answers = [answer(), answer()]
    assert answers == [42, 42]
    assert len(warned) == 1
    assert str(cache.cache_dir()) in str(warned[0].message)
    assert len(compiled) == 2


def test_a_warning_turned_into_an_error_is_one_step_late(folder):
    """With -W error the step that warns fails; nothing else does."""
    folder.write_text("a file")
    param = parameter([1.0], [1.0])
    optimizer = probe(lambda param, grad: param - 0.515625 * grad)([param])
    with pytest.raises(RuntimeWarning):
        optimizer.step()
    optimizer.step()
    assert param.item() == 1 - 0.515625
    assert engines(optimizer) == "kernel"


def test_a_read_only_folder_warns_once(folder, compiled, monkeypatch):
    """The cache of another user can be read, not written."""

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    answer()
    monkeypatch.setattr(tempfile, "mkstemp", refuse)  # root may write everywhere
    other = SOURCE.replace("42", "43")
    with pytest.warns(RuntimeWarning, match="Permission denied") as warned:
        answers = [answer(), answer(other), answer(other)]
    assert answers == [42, 43, 43]
    assert len(warned) == 1
    assert len(compiled) == 3


def test_a_full_disk_warns_and_leaves_nothing(folder, compiled, monkeypatch):
    """What could not be written whole is removed."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        assert answer() == 42
    assert list(folder.iterdir()) == []


def test_an_empty_name_turns_the_cache_off(folder, compiled, monkeypatch):
    """POLYAK_CACHE_DIR="": nothing is read, nothing is written, nobody is warned."""
    monkeypatch.setenv("POLYAK_CACHE_DIR", "")
    monkeypatch.chdir(folder.parent)
    assert [answer(), answer()] == [42, 42]
    assert len(compiled) == 2
    assert list(folder.parent.iterdir()) == []


# Many at once


def test_processes_compile_at_once(tmp_path):
    """Eight processes start with an empty cache: all are right, all entries whole."""
    options = {"POLYAK_CACHE_DIR": str(tmp_path)}
    processes = [start(STEP, **options) for _ in range(8)]
    printed = [finish(process) for process in processes]
    assert all(text.endswith(f"{DONE}\n") for text in printed)
    assert entries(tmp_path) == sorted(tmp_path.iterdir())
    assert run(STEP, **options) == f"0 {DONE}\n"


def test_a_reader_never_sees_half_an_entry(folder):
    """Writers replace files; they never write into them."""
    cache.store("key.o", b"old" * 1000)
    with (folder / "key.o").open("rb") as held:
        cache.store("key.o", b"new" * 2000)
        assert held.read().endswith(b"old" * 1000)
    assert cache.load("key.o") == b"new" * 2000


# Compiling


def test_a_rule_is_compiled_once_per_process(folder, compiled):
    """Another optimizer with the same rule gets the same code."""
    kind = probe(lambda param, grad: param - 0.2890625 * grad)
    kind([parameter([1.0], [1.0])]).step()
    before = len(compiled)
    assert before > 0
    kind([parameter([1.0], [1.0])]).step()
    assert len(compiled) == before


def test_unknown_functions_are_key_errors(folder):
    """A library says which function it does not have."""
    with pytest.raises(KeyError, match="question"):
        jit.compile_ir(SOURCE)["question"]


def test_assembly_can_be_read():
    """What explain() shows of a kernel."""
    param = torch.ones(3, requires_grad=True)
    param.grad = torch.ones(3)
    optimizer = polyak.SGD([param], lr=0.5)
    optimizer.step()
    assert "member" in optimizer._plan.buckets[0].library.assembly()
