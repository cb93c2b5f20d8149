"""Every optimizer has a case in tests/cases/, so that every contract can run over it."""

from tests.contract.harness import case_of, every_optimizer, reference


@every_optimizer
def test_every_optimizer_has_a_case(name):
    """A missing case is a failure that says which file to write."""
    assert case_of(name).layouts


@every_optimizer
def test_every_optimizer_has_a_reference(name):
    """There is an independent implementation to compare with."""
    assert reference(name).__name__ == name
    assert reference(name).__module__.partition(".")[0] != "polyak"


@every_optimizer
def test_a_wider_tolerance_has_a_reason(name):
    """A case may ask for more room than the default only if it says why."""
    case = case_of(name)
    assert case.ulps == type(case)().ulps or case.why_ulps
