"""Every class has a case: every promise is tested over it."""

import inspect

from torch.optim import lr_scheduler as torchs

import polyak.lr_scheduler as ours
from tests.lr_scheduler.cases import CASES
from tests.lr_scheduler.harness import every_case
from tests.lr_scheduler.nodes import OURS, SETUPS, TORCHS
from tests.lr_scheduler.reference import FORMULAS


def test_every_class_has_a_case():
    """A class that no case builds is in no test."""
    built = {part.name for case in CASES.values() for part in case.node.walk()}
    assert built == set(OURS)


def test_every_class_of_torch_is_here():
    """And the other names of its module."""
    missing = TORCHS.keys() - OURS.keys()
    assert not missing
    for name in (*torchs.__all__, "_LRScheduler", "EPOCH_DEPRECATION_WARNING"):
        assert hasattr(ours, name)
    assert set(torchs.__all__) <= set(ours.__all__)
    words = "Please use `scheduler.step()` to step the scheduler."
    assert words in torchs.EPOCH_DEPRECATION_WARNING
    assert words in ours.EPOCH_DEPRECATION_WARNING


def test_every_formula_is_of_a_class():
    """The reference has no formula left over."""
    assert FORMULAS.keys() <= OURS.keys()


@every_case
def test_what_torch_is_no_reference_for_says_why(label):
    """And every case can drive something."""
    case = CASES[label]
    assert set(case.setups) <= set(SETUPS)
    if not case.node.names <= TORCHS.keys():
        assert case.not_torchs


def test_public_names_are_public():
    """What is in ``__all__`` is there, and documented."""
    for name in ours.__all__:
        thing = getattr(ours, name)
        if inspect.isclass(thing):
            assert thing.__doc__
            assert thing.__module__.startswith("polyak.")
