"""Every optimizer has a case in tests/cases/: every contract can run over it."""

from pathlib import Path

import tests.cases
from tests.contract.harness import NAMES, case_file, case_of, every_optimizer, reference


@every_optimizer
def test_every_optimizer_has_a_case(name):
    """A missing case is a failure that says which file to write."""
    assert case_of(name).layouts


@every_optimizer
def test_every_optimizer_has_a_reference(name):
    """There is an independent implementation to compare with."""
    assert reference(name).__name__ == name
    assert reference(name).__module__.partition(".")[0] != "polyak"


def test_every_case_is_an_optimizers():
    """A case that no optimizer asks for is misnamed, or left over."""
    files = {
        path.stem
        for folder in tests.cases.__path__
        for path in Path(folder).glob("*.py")
    }
    assert files == {case_file(name).rpartition(".")[2] for name in NAMES}


@every_optimizer
def test_a_wider_tolerance_has_a_reason(name):
    """A case may ask for more room than the default only if it says why."""
    case = case_of(name)
    assert case.ulps == type(case)().ulps or case.why_ulps
