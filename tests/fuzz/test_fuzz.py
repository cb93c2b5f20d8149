"""Random runs of every optimizer are those of torch: see CONTRIBUTING.md for many.

What happens in them is in scenario.py; what is known to differ, in differences.py.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.harness import NAMES
from tests.fuzz.check import check
from tests.fuzz.draw import scenarios

# 2,000 in all, always the same.
CASES = -(-2000 // len(NAMES))


@pytest.mark.parametrize("name", NAMES)
@settings(
    max_examples=CASES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_random_runs_are_those_of_torch(name, data):
    """Whatever happens between the steps, after each event."""
    check(data.draw(scenarios(name)))
