"""``python -m tests.fuzz --cases 100000 --seed 1``: fuzz for long.

Each optimizer in turn gets a batch of scenarios, so that a run that is stopped early
has seen all. A failure is shrunk and printed as the code that repeats it; the run goes
on with the next batch.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.contract.harness import NAMES
from tests.fuzz.check import check
from tests.fuzz.draw import scenarios
from tests.fuzz.scenario import Scenario

BATCH = 200


def main() -> int:
    """Fuzz; return 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=NAMES, action="append")
    parser.add_argument("--no-shrink", action="store_true", help="print as found")
    asked = parser.parse_args()
    names, ends, failures = asked.only or NAMES, Counter[str](), 0
    begin = time.monotonic()
    for batch in range(-(-asked.cases // BATCH)):
        name = names[batch % len(names)]
        try:
            fuzz(name, hash((asked.seed, batch)), ends, shrink=not asked.no_shrink)
        except Exception as error:
            failures += 1
            notes = "\n".join(getattr(error, "__notes__", ()))
            print(f"\nFAILED {name}: {type(error).__name__}: {error}\n{notes}")
        print(
            f"{sum(ends.values())} cases, {failures} failures, {dict(ends)}, "
            f"{time.monotonic() - begin:.0f} s",
            flush=True,
        )
    return int(failures > 0)


def fuzz(name: str, number: int, ends: Counter[str], *, shrink: bool) -> None:
    """Check a batch of an optimizer's scenarios; count how they end."""

    @seed(number)
    @settings(
        max_examples=BATCH,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(scenarios(name))
    def run(scenario: Scenario) -> None:
        ends[check(scenario)] += 1

    run()


if __name__ == "__main__":
    sys.exit(main())
