"""The values are torch's, step for step, and so is all that is kept of them."""

from typing import Any

from tests.lr_scheduler.cases import CASES
from tests.lr_scheduler.harness import (
    DIFFERENT,
    assert_close,
    driven,
    every_case,
    every_torchs_case,
    every_torchs_run,
    lrs_of,
    runs,
    start,
)
from tests.lr_scheduler.nodes import OURS, RATES, STEPS, TORCHS
from tests.lr_scheduler.reference import has_formula, value


def tolerance(label: str, setup: str) -> float:
    """None where torch has a closed form; a tensor's rates are float32."""
    case = CASES[label]
    if case.exact and (setup != "tensor" or not case.metrics):
        return 0
    return 1e-6 if setup == "tensor" else 1e-12


@every_torchs_run
def test_values_are_torchs(label, setup):
    """Rates, momenta, ``get_last_lr`` and ``last_epoch``, at every step."""
    actual = start(label, setup).trace()
    expected = start(label, setup, TORCHS).trace()
    assert_close(actual, expected, tolerance(label, setup), label)


@runs(lambda case: bool(case.not_torchs) and has_formula(case.node))
def test_other_values_are_the_formulas(label, setup):
    """Where torch is no reference, the definition is."""
    case, run = CASES[label], start(label, setup)
    for epoch in range(STEPS):
        due = [value(case.node, base, epoch) for base in RATES[: len(run.lrs)]]
        rel = 1e-6 if setup == "tensor" else 1e-12
        assert_close(run.lrs, due, rel, f"epoch {epoch}")
        assert_close(run.seen()["last_lr"], run.lrs, 0)
        run.step()


@runs(lambda case: not case.not_torchs, DIFFERENT)
def test_attributes_are_torchs(label, setup):
    """The public ones: the same types, and the same values."""
    actual, expected = start(label, setup), start(label, setup, TORCHS)
    for epoch in range(3):
        for key, due in vars(expected.scheduler).items():
            if not key.startswith("_") and key != "optimizer":
                at = f"{key} at {epoch}"
                found = getattr(actual.scheduler, key)
                assert_same_kind(found, due, tolerance(label, setup), at)
        actual.step()
        expected.step()


# How the values come about, not what they are; and torch never counts warm restarts.
INTERNAL = {"_schedule_phases"}
UNCOUNTED = {"_step_count"}


@runs(lambda case: not case.not_torchs, DIFFERENT)
def test_state_dicts_are_torchs(label, setup):
    """They have all of torch's keys, with the same types; and the same values."""
    actual, expected = (
        start(label, setup, library).steps(5).scheduler.state_dict()
        for library in (OURS, TORCHS)
    )
    restarts = "CosineAnnealingWarmRestarts" in CASES[label].node.names
    left_out = INTERNAL | (UNCOUNTED if restarts else set())
    # What a member keeps is its own affair: ours do not count another's epochs.
    members = expected.pop("_schedulers", [])
    for own, due in zip(actual.get("_schedulers", []), members, strict=True):
        for key in due.keys() - left_out:
            assert type(own[key]) is type(due[key]), key
    due = {key: value for key, value in expected.items() if key not in left_out}
    assert_same_kind(actual, due, tolerance(label, setup), "state")


def assert_same_kind(actual: Any, expected: Any, rel: float, where: str) -> None:
    """Types and values agree, down to the parts; functions are of the same class."""
    assert type(actual) is type(expected), f"{where} is {actual!r}, not {expected!r}"
    if isinstance(expected, dict):
        missing = expected.keys() - actual.keys()
        assert not missing, f"{where} lacks {missing}"
        for key in expected:
            assert_same_kind(actual[key], expected[key], rel, f"{where}[{key!r}]")
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected), where
        for index, pair in enumerate(zip(actual, expected, strict=True)):
            assert_same_kind(*pair, rel, f"{where}[{index}]")
    elif not callable(expected):
        assert_close(actual, expected, rel, where)


@runs(lambda case: not case.not_torchs, DIFFERENT)
def test_groups_are_torchs(label, setup):
    """torch's keys are in them (``initial_lr``, ``max_lr``, ...), with its types."""
    actual, expected = (
        start(label, setup, **kind).steps(4).optimizer
        for kind in ({}, {"library": TORCHS})
    )
    for group, due in zip(actual.param_groups, expected.param_groups, strict=True):
        kept = {key: part for key, part in due.items() if key != "params"}
        assert_same_kind(group, kept, tolerance(label, setup), "group")


@runs(lambda case: True, ["tensor"])
def test_a_tensor_rate_is_written_in_place(label, setup):
    """A captured step reads it there. What is handed out is a copy."""
    run = start(label, setup)
    held = run.optimizer.param_groups[0]["lr"]
    run.steps(2)
    assert run.optimizer.param_groups[0]["lr"] is held
    (last,) = run.scheduler.get_last_lr()
    assert type(last) is type(held)
    assert last is not held
    last.zero_()
    assert held != 0


@every_torchs_case
def test_the_first_value_is_set_at_construction(label):
    """Before any step: the optimizer's first step has the schedule's first rate."""
    actual, expected = start(label), start(label, library=TORCHS)
    assert_close(driven(actual.optimizer), driven(expected.optimizer), 1e-12)


@every_case
def test_get_last_lr_is_what_the_groups_hold(label):
    """After every step, as floats."""
    run = start(label)
    for _ in range(STEPS):
        assert [float(lr) for lr in run.scheduler.get_last_lr()] == lrs_of(
            run.optimizer
        )
        assert all(type(lr) is float for lr in run.scheduler.get_last_lr())
        run.step()
