"""Random runs of every optimizer are those of torch: see CONTRIBUTING.md for many.

What happens in them is in scenario.py; what is known to differ, in differences.py.
"""

from random import Random

import pytest

from tests.contract.harness import NAMES
from tests.fuzz.check import check
from tests.fuzz.draw import scenario
from tests.fuzz.shrink import shrunk

# 1,000 in all, always the same.
CASES = -(-1000 // len(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_random_runs_are_those_of_torch(name):
    """Whatever happens between the steps, after each event."""
    for case in range(CASES):
        drawn = scenario(name, Random(case))
        try:
            check(drawn)
        except Exception as error:
            error.add_note(f"{shrunk(drawn, error)}")
            raise
