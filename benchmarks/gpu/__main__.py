"""The command line of ``benchmarks/gpu.sh``."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from time import perf_counter

SECONDS = 450


def main() -> int:
    """Check, measure, and write the report after each part."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--only", choices=["checks", "speed"], help="a part")
    parser.add_argument("--dry", action="store_true", help="no GPU, at toy size")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all of it")
    chosen = parser.parse_args()
    if chosen.dry:
        os.environ["TRITON_INTERPRET"] = "1"
    missing = [
        name
        for name in ("torch", "triton", "llvmlite", "numpy")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        print(f"missing here: {', '.join(missing)}", file=sys.stderr)
        return 2
    return run(chosen)


def run(chosen: argparse.Namespace) -> int:
    """Do what the command line asks for; 1 if a check fails."""
    import torch

    from polyak.engine.triton import devices

    from . import checks, graphs, report  # noqa: F401, they bring the checks
    from .checking import Outcome, outcomes
    from .device import Device
    from .speed import Figure, figures

    if not chosen.dry and not torch.cuda.is_available():
        print("torch sees no GPU here; --dry tries the script out", file=sys.stderr)
        return 2
    if chosen.dry:
        devices.KERNELS["cpu"] = "triton"
    end = perf_counter() + chosen.seconds
    device = Device(dry=chosen.dry)
    bandwidth = device.bandwidth()
    about = report.facts(device, bandwidth)
    made: list[Outcome] = []
    measured: list[Figure] = []
    chosen.out.mkdir(parents=True, exist_ok=True)

    def write(*notes: str) -> None:
        words = report.text(about, made, measured, bandwidth, notes)
        (chosen.out / "gpu.md").write_text(words)

    if chosen.only != "speed":
        for outcome in outcomes(device):
            print(
                {True: "holds", False: "FAILS", None: "not made"}[outcome.passed],
                "-",
                outcome.name,
                "-",
                outcome.detail,
            )
            made.append(outcome)
            write("Not complete.")
    if chosen.only != "checks":
        for figure in figures(device, end - perf_counter()):
            times = {
                side: f"{1e3 * time.device:.3f} ms ({1e6 * time.host:.0f} µs host)"
                for side, time in figure.times.items()
            }
            print(figure.case.title, figure.dtype, figure.optimizer, times)
            measured.append(figure)
            write("Not complete.")
    drawn = report.pictures(measured, bandwidth, chosen.out) if measured else []
    write(*(f"![{name}]({name})" for name in drawn))
    print(f"written: {chosen.out / 'gpu.md'}")
    return int(any(outcome.passed is False for outcome in made))


if __name__ == "__main__":
    sys.exit(main())
