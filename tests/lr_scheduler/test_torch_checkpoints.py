"""torch's checkpoints continue here as they would have there, and the other way."""

import pytest

from tests.lr_scheduler.harness import (
    assert_close,
    every_torchs_case,
    runs,
    setup_of,
    start,
    through_torch,
)
from tests.lr_scheduler.nodes import OURS, STEPS, TORCHS
from tests.lr_scheduler.resuming import assert_resumes, resumed, saved_along

SPLITS = (0, 1, 4, 5, 9)


@runs(lambda case: not case.not_torchs, ["sgd", "groups"])
def test_torchs_state_dicts_load(label, setup):
    """In every order; the values go on as torch's would have in the one that works."""
    trace, states = saved_along(start(label, setup, TORCHS))
    assert_resumes(label, setup, trace, states, SPLITS, 1e-12)


@every_torchs_case
def test_ours_load_into_torchs(label):
    """In the one order in which torch resumes its own."""
    setup = setup_of(label)
    trace, states = saved_along(start(label, setup))
    for epoch in SPLITS:
        run = resumed(label, setup, states[epoch], "built_before", epoch, TORCHS)
        actual = run.trace(STEPS - epoch)
        for step in trace:
            step["last_epoch"] = None  # torch's ChainedScheduler does not count
        assert_close(actual, trace[epoch:], 1e-12, f"{label} from {epoch}")


@every_torchs_case
@pytest.mark.parametrize("library", [OURS, TORCHS], ids=["ours", "torchs"])
def test_through_a_file(label, library):
    """As far as torch can write it."""
    setup = setup_of(label)
    trace, states = saved_along(start(label, setup, library))
    run = resumed(label, setup, through_torch(states[7]), "scheduler_only", 7)
    assert_close(run.trace(STEPS - 7), trace[7:], 1e-12, label)
