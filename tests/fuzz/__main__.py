"""``python -m tests.fuzz --cases 100000 --seed 1``: fuzz for long.

The optimizers take turns, so that a run that is stopped early has seen all. A failure
is made as small as it gets and printed as the code that repeats it; the run goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from random import Random

from tests.contract.harness import NAMES
from tests.fuzz.check import check
from tests.fuzz.draw import scenario
from tests.fuzz.shrink import shrunk

REPORT_EVERY = 1000


def main() -> int:
    """Fuzz; return 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="go on from this case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=NAMES, action="append")
    parser.add_argument("--no-shrink", action="store_true", help="print as found")
    asked = parser.parse_args()
    names, ends, begin = asked.only or NAMES, Counter[str](), time.monotonic()
    for case in range(asked.first, asked.cases):
        name = names[case % len(names)]
        drawn = scenario(name, Random(f"{asked.seed} {case}"))
        try:
            ends[check(drawn)] += 1
        except Exception as error:
            ends["failed"] += 1
            found = drawn if asked.no_shrink else shrunk(drawn, error)
            print(f"\nFAILED case {case}: {error!r}\n{found}", flush=True)
        if (case + 1) % REPORT_EVERY == 0 or case + 1 == asked.cases:
            took = time.monotonic() - begin
            print(f"{case + 1} cases, {dict(ends)}, {took:.0f} s", flush=True)
    return int(ends["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
