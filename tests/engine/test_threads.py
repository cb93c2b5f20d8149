"""Threads and processes: several steps at once, after a fork, with any number."""

import threading

import pytest
import torch

import polyak
from polyak.engine import team

from .processes import run
from .support import engines, parameter

SIZES = {"small": [3, 100, 17], "large": [700_000, 3, 300_000]}


def train(kind, sizes, seed, steps=4):
    """The parameters after some steps."""
    generator = torch.Generator().manual_seed(seed)
    params = [
        parameter(torch.randn(size, generator=generator)) for size in SIZES[sizes]
    ]
    optimizer = getattr(polyak, kind)(params, lr=0.01)
    for _ in range(steps):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        optimizer.step()
    assert engines(optimizer) == "kernel"
    return [param.detach() for param in params]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("count", [1, 2])
def test_threads_step_at_once(sizes, count, threads):
    """Python threads, each with its optimizer: the bits are those of steps in turn."""
    threads(count)
    jobs = [
        (kind, sizes, seed) for kind in ("Adam", "SGD", "RMSprop") for seed in (0, 1)
    ]
    expected = [train(*job) for job in jobs]
    results, gate = {}, threading.Barrier(len(jobs))

    def work(index):
        gate.wait()
        for _ in range(3 if sizes == "small" else 1):
            results[index] = train(*jobs[index])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for index, due in enumerate(expected):
        assert all(map(torch.equal, results[index], due))


def test_threads_read_and_compile_at_once(monkeypatch, tmp_path):
    """The first steps of new optimizers, whose kernels nobody has compiled yet."""
    monkeypatch.setenv("POLYAK_CACHE_DIR", str(tmp_path))
    gate, results = threading.Barrier(6), [None] * 6

    class Mine(polyak.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr, "unused": 0.125})

        @staticmethod
        def rule(param, grad, memory, *, lr, unused):
            memory = torch.where(grad > unused, memory + grad, 0.375 * memory)
            return param - lr * memory, memory

    def work(index):
        gate.wait()
        param = parameter([1.0, 2.0], [1.0, -1.0])
        optimizer = Mine([param], lr=0.5)
        optimizer.step()
        results[index] = (engines(optimizer), param.tolist())

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [("kernel", [0.5, 2.0])] * 6


# The number of threads


def test_num_threads_is_honoured(threads):
    """What torch was told holds for steps as well, from the next one on."""
    for count in (2, 1, 3):
        threads(count)
        assert team.threads_for(team.SERIAL_BYTES * 100) == count


def test_small_steps_stay_on_one_thread(threads):
    """A team costs more than it saves."""
    threads(4)
    assert team.threads_for(team.SERIAL_BYTES - 1) == 1
    assert team.threads_for(team.SERIAL_BYTES) == 4


def test_no_team_without_openmp(threads, monkeypatch):
    """Where torch's runtime has no entry, a step runs on one thread."""
    threads(4)
    monkeypatch.setattr(team, "parallel_entry", lambda: 0)
    assert team.threads_for(team.SERIAL_BYTES * 100) == 1
    assert len(train("Adam", "large", 0)) == 3


def test_the_team_is_torchs():
    """The entry is found, in the runtime that torch itself uses."""
    assert team.parallel_entry()
    home = str(torch.__file__).rpartition("/")[0]
    assert team._openmp_runtimes()[0].startswith((home, home + ".libs"))


def test_grains_cover_little_and_much():
    """A claim is at least a chunk, and of about the same number of bytes."""
    assert team.grain(0, 0) == 1
    assert team.grain(1 << 40, 1) == 1
    assert team.grain(1 << 20, 1000) * (1 << 20) / 1000 <= team.GRAIN_BYTES


# Forks. In a child of a process that had a team, torch's own parallel operators hang:
# what the child steps on is made before.

TRAIN = """
import hashlib, os, sys, torch, warnings, polyak
from polyak.engine import team
warnings.simplefilter("ignore", DeprecationWarning)  # of os.fork
torch.set_num_threads(2)

def make():
    params = [torch.linspace(-1, 1, size).requires_grad_() for size in (800_000, 5)]
    for param in params:
        param.grad = torch.linspace(1, -1, len(param))
    return params, polyak.Adam(params, lr=0.01)

def digest(params, optimizer):
    for _ in range(2):
        optimizer.step()
    assert optimizer._plan.buckets and not optimizer._plan.eager
    numbers = b"".join(param.detach().numpy().tobytes() for param in params)
    return hashlib.sha256(numbers).hexdigest()

def in_child(function):
    sys.stdout.flush()
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        return
    try:
        assert team.threads_for(1 << 40) == 1
        print(function(), flush=True)
        os._exit(0)
    finally:
        os._exit(1)
"""


def test_a_child_of_a_parallel_step():
    """The child steps on one thread, to the bits of its parent's team."""
    code = f"""{TRAIN}
params, optimizer = make()
digest(params, optimizer)
assert team.threads_for(1 << 40) == 2
in_child(lambda: digest(params, optimizer))
in_child(lambda: digest(params, optimizer))
print(digest(params, optimizer))
in_child(lambda: "end")
"""
    first, second, own, end = run(code, threads=2).split()
    assert first == second == own
    assert end == "end"


def test_a_child_that_makes_its_own():
    """A child of a process without a team compiles, plans and steps like any other."""
    code = f"""{TRAIN}
in_child(lambda: digest(*make()))
print(digest(*make()))
"""
    child, own = run(code, threads=2).split()
    assert child == own


POOL = """
import multiprocessing, sys

def work(seed):
    import torch, polyak
    torch.set_num_threads(1)
    param = torch.full((600_000,), 1.0 + seed).requires_grad_()
    param.grad = torch.ones_like(param)
    optimizer = polyak.SGD([param], lr=0.5)
    optimizer.step()
    optimizer.step()
    assert not optimizer._plan.eager
    return param.unique().tolist()

if __name__ == "__main__":
    if sys.argv[1] == "fork":
        import torch, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        assert work(0) == [0.0]
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        print(pool.map(work, [0, 1]))
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes_step(method, tmp_path):
    """multiprocessing's workers train, whichever way they are started."""
    program = tmp_path / "program.py"  # spawned workers import it
    program.write_text(POOL)
    code = f"import os, sys; os.execv(sys.executable, [sys.executable, {str(program)!r}"
    code += f", {method!r}])"
    assert run(code, threads=2).strip() == "[[0.0], [1.0]]"
