"""The files of polyak.save: damaged, on a full disk, in the middle of a kill."""

import errno
import os
import pickle
import random
import resource
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import polyak
from polyak import saving
from tests.engine import processes


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.pt"


def names(folder):
    return sorted(entry.name for entry in Path(folder).iterdir())


# Files that are none


@pytest.fixture
def small(path):
    polyak.save(path, rng=False, weight=torch.arange(3.0), epoch=3)
    return path


def refused(path):
    """Whether a file is refused, with an error that tells which, and what to do."""
    with pytest.raises(ValueError, match="Nothing was loaded: go back to") as caught:
        polyak.load(path)
    assert str(caught.value).startswith(f"{path} ")
    return True


def test_a_file_that_is_cut_off_at_any_byte(small):
    for size in reversed(range(small.stat().st_size)):
        os.truncate(small, size)
        assert refused(small)


def test_a_file_with_any_byte_damaged(small):
    rng = random.Random(0)
    with small.open("r+b", buffering=0) as file:
        for index, byte in enumerate(file.read()):
            os.pwrite(file.fileno(), bytes([byte ^ 1 << rng.randrange(8)]), index)
            assert refused(small)
            os.pwrite(file.fileno(), bytes([byte]), index)
    assert polyak.load(small)["epoch"] == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello", "is no file of polyak.save"),
        (b"PK\x03\x04" + bytes(300), "is cut off, or the end of it is damaged"),
        (pickle.dumps({"epoch": 3}), "is no file of polyak.save"),
        (b"\npolyak checkpoint 1 sha256 " + b"0" * 64 + b"\n", "was damaged"),
    ],
)
def test_a_file_of_something_else(content, message, path):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        polyak.load(path)


def test_a_file_that_was_appended_to(small):
    with small.open("ab") as file:
        file.write(b"\n")
    assert refused(small)


def test_a_file_of_torch_save_is_told_apart(path):
    torch.save({"epoch": 3}, path)
    with pytest.raises(
        ValueError, match=r"If torch.save wrote it, read it with torch.l"
    ):
        polyak.load(path)


def test_a_file_of_a_later_format(path, monkeypatch):
    monkeypatch.setattr(saving, "_SEAL", b"\npolyak checkpoint 12 sha256 ")
    polyak.save(path, epoch=3)
    with pytest.raises(
        ValueError, match=r"has version 12 .* reads version 1: install a"
    ):
        polyak.load(path)


def test_a_file_cannot_run_code(path):
    with path.open("wb") as file:
        saving._write(file, {"parts": {"code": print}})
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        polyak.load(path)


def test_no_file(path):
    with pytest.raises(FileNotFoundError, match=r"run\.pt"):
        polyak.load(path)


# Saves that fail


@contextmanager
def file_size_limit(size):
    """The system writes no file beyond this size: a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_at_any_byte_leaves_the_file_before(small):
    before = small.read_bytes()
    for size in range(len(before)):
        with (
            file_size_limit(size),
            pytest.raises(
                OSError, match="nothing was saved, and nothing repl"
            ) as caught,
        ):
            polyak.save(small, rng=False, weight=torch.arange(3.0), epoch=4)
        assert caught.value.filename == str(small)
        assert small.read_bytes() == before
        assert names(small.parent) == ["run.pt"]
    with file_size_limit(len(before)):
        polyak.save(small, rng=False, weight=torch.arange(3.0), epoch=4)
    assert polyak.load(small)["epoch"] == 4


def test_a_disk_that_is_full_while_a_large_tensor_is_written(small):
    before = small.read_bytes()
    with file_size_limit(1 << 20), pytest.raises(OSError, match="File too large"):
        polyak.save(small, weight=torch.zeros(1 << 20))
    assert small.read_bytes() == before
    assert names(small.parent) == ["run.pt"]


class Interrupted:
    """A file whose user presses Ctrl-C at one of its writes."""

    def __init__(self, file, after):
        self.file, self.left = file, after

    def write(self, data):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.file.write(data)

    def flush(self):
        self.file.flush()


@pytest.mark.parametrize("after", range(6))
def test_an_interrupt_while_writing_is_an_interrupt(after, small, monkeypatch):
    before, replacing = small.read_bytes(), saving._replacing

    @contextmanager
    def interrupted(path):
        with replacing(path) as file:
            yield Interrupted(file, after)

    monkeypatch.setattr(saving, "_replacing", interrupted)
    with pytest.raises(KeyboardInterrupt):
        polyak.save(small, weight=torch.ones(2))
    assert small.read_bytes() == before
    assert names(small.parent) == ["run.pt"]


@pytest.mark.parametrize("before", [True, False])
def test_a_folder_that_cannot_be_written_to(before):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if before:
            polyak.save(folder / "run.pt", epoch=3)
            content = (folder / "run.pt").read_bytes()
        folder.chmod(0o555)
        with as_nobody(), pytest.raises(PermissionError, match="nothing was saved"):
            polyak.save(folder / "run.pt", epoch=4)
        folder.chmod(0o755)
        assert names(folder) == ["run.pt"][: int(before)]
        assert not before or (folder / "run.pt").read_bytes() == content


def test_a_file_that_must_not_be_written_to_is_not_replaced():
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "run.pt"
        polyak.save(path, epoch=3)
        path.chmod(0o444)
        path.parent.chmod(0o777)
        with as_nobody(), pytest.raises(PermissionError, match="nothing was saved"):
            polyak.save(path, epoch=4)
        assert polyak.load(path) == {"epoch": 3}
        assert names(path.parent) == ["run.pt"]


@contextmanager
def as_nobody():
    """Without the rights of root, whom no permission stops."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing was saved") as caught:
        polyak.save(tmp_path / "none" / "run.pt", epoch=3)
    assert caught.value.filename == str(tmp_path / "none" / "run.pt")


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe):
        with pytest.raises(ValueError, match=f"{path} is no regular file"):
            polyak.save(path, epoch=3)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


# Paths


def test_a_name_relative_to_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    polyak.save("run.pt", epoch=3)
    assert polyak.load("run.pt") == {"epoch": 3}
    assert names(tmp_path) == ["run.pt"]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "latest.pt").symlink_to("run.pt")
    for epoch in range(2):
        polyak.save(tmp_path / "latest.pt", epoch=epoch)
        assert polyak.load(tmp_path / "run.pt") == {"epoch": epoch}
    assert (tmp_path / "latest.pt").is_symlink()


def test_names_that_mean_something_to_a_pattern(tmp_path):
    for name in ("[a]*.pt", "a", ".hidden"):
        polyak.save(tmp_path / name, name=name)
        assert polyak.load(tmp_path / name) == {"name": name}


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_a_file_keeps_its_permissions(mode, path):
    polyak.save(path, epoch=1)
    path.chmod(mode)
    polyak.save(path, epoch=2)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_permissions_of_any_new_file(path):
    other = path.with_name("other")
    other.touch()
    polyak.save(path, epoch=1)
    assert path.stat().st_mode == other.stat().st_mode


def test_parts_may_be_called_as_arguments_are(path):
    polyak.save(path, path=1, parts=2, map_location=3)
    assert polyak.load(path) == {"path": 1, "parts": 2, "map_location": 3}


# Processes that die, and others


def test_content_then_name_then_folder_are_made_to_last(path, monkeypatch):
    """Else the name could outlast a power cut, and not what is in the file."""
    polyak.save(path, epoch=1)
    events = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(handle):
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        events.append("folder" if is_folder else os.fstat(handle).st_size)
        fsync(handle)

    def recorded_replace(source, target):
        events.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    polyak.save(path, epoch=2)

    assert events == [path.stat().st_size, "replace", "folder"]


def test_what_a_killed_process_left_is_removed_and_what_lives_is_not(path):
    left = path.with_name(".run.pt.0123.saving")
    others = [path.with_name(".run.pt.backup"), path.with_name(".run2.pt.0123.saving")]
    for file in (left, *others):
        file.write_bytes(b"half")
    with saving._replacing(str(path)) as file:
        assert not left.exists()
        polyak.save(path, epoch=1)
        assert os.fstat(file.fileno()).st_nlink == 1
        file.write(b"the last one stays")

    assert path.read_bytes() == b"the last one stays"
    assert names(path.parent) == [*(file.name for file in others), "run.pt"]


def test_a_new_file_that_is_taken_for_a_leftover_is_made_again(path, monkeypatch):
    """Another save may come between the making of a file and its lock."""
    lock, taken = saving._lock, []

    def late(file, *, wait):
        if not taken:
            taken.append(file.name)
            os.unlink(file.name)
        lock(file, wait=wait)

    monkeypatch.setattr(saving, "_lock", late)
    polyak.save(path, epoch=1)

    assert len(taken) == 1
    assert polyak.load(path) == {"epoch": 1}


def test_a_file_system_without_locks(path, monkeypatch):
    """What was left there stays: it could be in the making."""

    def no_lock(file, *, wait):
        raise OSError(errno.ENOLCK, "No locks available")

    left = path.with_name(".run.pt.0123.saving")
    left.write_bytes(b"half")
    monkeypatch.setattr(saving, "_lock", no_lock)
    polyak.save(path, epoch=1)

    assert polyak.load(path) == {"epoch": 1}
    assert names(path.parent) == [left.name, "run.pt"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_a_folder_that_cannot_be_made_to_last(code, path, monkeypatch):
    """Some file systems know no such thing: that is no error, others are."""
    fsync = os.fsync

    def files_only(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", files_only)
    if code == errno.EINVAL:
        polyak.save(path, epoch=1)
    else:
        with pytest.raises(OSError, match="Input/output error"):
            polyak.save(path, epoch=1)
    assert polyak.load(path) == {"epoch": 1}


KILLS = int(os.environ.get("POLYAK_KILLS", "30"))

KILLED = """
import os, random, signal, sys, time
import torch, polyak

path, kills = sys.argv[1], int(sys.argv[2])
folder = os.path.dirname(path)

def save(epoch):
    weights = [torch.full((size,), epoch) for size in (3, 1000, 100_000)]
    polyak.save(path, weights=weights, epoch=epoch)

def keep_saving(epoch, pipe):
    while True:
        save(epoch)
        os.write(pipe, epoch.to_bytes(8, "big"))
        epoch += 1

begin = time.perf_counter()
for _ in range(10):
    save(0)
duration = (time.perf_counter() - begin) / 10
rng, epoch, halves = random.Random(0), 0, 0
for _ in range(kills):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        keep_saving(epoch + 1, writer)
    time.sleep(rng.random() * 3 * duration)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        told = pipe.read()[-8:]
    content = polyak.load(path)
    at_least = int.from_bytes(told, "big") if told else epoch
    assert at_least <= content["epoch"] <= at_least + 1, (at_least, content["epoch"])
    epoch = content["epoch"]
    assert all((w == epoch).all() for w in content["weights"])
    halves += len(os.listdir(folder)) - 1
    assert len(os.listdir(folder)) <= 2
save(epoch)
assert os.listdir(folder) == [os.path.basename(path)]
print(kills, epoch, halves)
"""


def test_a_process_killed_while_saving_leaves_a_whole_file(path, monkeypatch):
    """The file is the last that was saved, or the one in the making.

    ``POLYAK_KILLS=1000`` kills as many: 785 of them left half a file beside the whole
    one, and none left anything else.
    """
    monkeypatch.setattr(processes, "DEADLINE", processes.DEADLINE + KILLS)

    printed = processes.run(KILLED, str(path), str(KILLS))
    kills, epochs, halves = map(int, printed.split())

    assert kills == KILLS
    assert epochs > 0
    assert halves > 0


CONCURRENT = """
import os, sys
import torch, polyak

path, saves = sys.argv[1], 40
polyak.save(path, who=0, epoch=0)
children = []
for who in (1, 2):
    child = os.fork()
    if child == 0:
        for epoch in range(saves):
            weight = torch.full((10_000,), 1000 * who + epoch)
            polyak.save(path, weight=weight, who=who, epoch=epoch)
        os._exit(0)
    children.append(child)

seen = set()
while children:
    done, status = os.waitpid(-1, os.WNOHANG)
    if done:
        assert status == 0, status
        children.remove(done)
    content = polyak.load(path)
    if content["who"]:
        expected = 1000 * content["who"] + content["epoch"]
        assert (content["weight"] == expected).all()
    seen.add(content["who"])
assert content["epoch"] == saves - 1
assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
print(len(seen))
"""


def test_two_processes_save_to_one_path(path):
    """And a third finds a whole file there, always."""
    assert int(processes.run(CONCURRENT, str(path))) >= 2


# Memory

BIG = """
import resource, sys
import torch, polyak

path, size = sys.argv[1], 64 << 20
weight = torch.zeros(size // 4)
weight.fill_(1)
polyak.save(path, epoch=0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
polyak.save(path, weight=weight)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (size / 1024))
"""


def test_a_save_makes_no_copy_of_the_state(path):
    assert float(processes.run(BIG, str(path))) < 0.1
