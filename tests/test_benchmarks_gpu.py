"""The script for GPUs, as far as it runs without one."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import report
from benchmarks.gpu.checking import OPTIMIZERS, Outcome
from benchmarks.gpu.device import Device, Timing
from benchmarks.gpu.speed import CASES, PLAN, Figure
from tests.contract.harness import NAMES, find_case

ROOT = Path(__file__).parents[1]


def script(*arguments, out):
    return subprocess.run(
        ["bash", ROOT / "benchmarks/gpu.sh", *arguments],
        env={**os.environ, "OUT": str(out), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )


def test_a_dry_run_writes_the_report(tmp_path):
    pytest.importorskip("triton")
    done = script("--dry", "--only", "speed", "--seconds", "0.1", out=tmp_path)
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "gpu.md").read_text()
    assert "CPU (dry run)" in written
    assert "| 148 tensors, 124 M (GPT-2) | float32 | AdamW |" in written
    assert "Not measured" not in written
    assert {path.name for path in tmp_path.iterdir()} == {
        "gpu.md",
        "gpu-device.svg",
        "gpu-host.svg",
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(tmp_path):
    pytest.importorskip("triton")
    done = script(out=tmp_path)
    assert done.returncode == 2
    assert "torch sees no GPU here" in done.stderr


def test_every_optimizer_with_a_kernel_is_checked():
    """Rules with sums, and with leaves, have checks of their own."""
    kernels = [name for name in NAMES if (case := find_case(name)) and case.kernel]
    assert set(kernels) - {"Muon"} == {*OPTIMIZERS, "Adafactor"}


def test_cases_are_what_their_titles_say():
    for case in CASES.values():
        assert case.title.startswith(
            ("one", f"{len(case.shapes):,} ", str(len(case.shapes)))
        )
    counts = {"gpt2": 124_439_808, "medium": 354_823_168, "billion": 10**9}
    for key, count in counts.items():
        assert sum(map(math.prod, CASES[key].shapes)) == count
    measured = {name for _, _, names in PLAN for name in names}
    assert measured <= {*OPTIMIZERS, "Adafactor", "Muon"}


def test_the_report_has_ratios_shares_and_failures():
    figure = Figure(
        CASES["large"],
        torch.float32,
        "AdamW",
        traffic=28 * 10**8,
        times={
            "polyak": Timing(1e-3, 1.1e-3, 20e-6, 30e-6),
            "fused": Timing(2e-3, 2e-3, 60e-6, 60e-6),
        },
        launches={"polyak": (1, 1), "fused": (3, 0)},
        failed={"compile": "OutOfMemoryError: no"},
    )
    checks = [Outcome("a | b", True, "x"), Outcome("c", False, "y | z")]
    about = report.facts(Device(dry=True), 4e12)
    text = report.text(about, checks, [figure], 4e12, ["a note"])
    assert "1.00 | 0.700 | 2.00 | – | – | – | 2.00 | – | 20.0 | 60.0 | 3.00" in text
    assert "| 1 + 1 | fused 3 + 0 |" in text
    assert "| c | **fails** | y \\| z |" in text
    assert "AdamW, compile: OutOfMemoryError: no" in text
    assert "Against `fused`: 2.00 times faster" in text
