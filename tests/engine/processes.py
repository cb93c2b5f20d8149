"""Python processes of the engine tests: each has a deadline, none outlives its test."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEADLINE = 60  # seconds


def start(code, *arguments, threads=1, **environment):
    """Start a program in a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments],
        env={**env, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process):
    """Wait for a process, which must exit with 0; what it printed."""
    try:
        printed, _ = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        raise AssertionError(f"no end after {DEADLINE} s:\n{printed}") from None
    assert process.returncode == 0, printed
    return printed


def run(code, *arguments, **options):
    """Run a program; what it printed."""
    return finish(start(code, *arguments, **options))
