"""What native code knows of CPython is true of the one that runs."""

import sys

from polyak.engine import python_abi


def test_references_are_counted():
    """Where one lock guards all objects."""
    has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    assert python_abi.counts_references() == has_lock


def test_versions_of_dictionaries_are_used_where_they_are_promised():
    """By PEP 509, which PEP 699 took back in CPython 3.12."""
    is_promised = sys.version_info < (3, 12)
    assert (python_abi.version_offset() > 0) == is_promised


def test_functions_are_found():
    """They are in CPython's stable interface."""
    assert all(python_abi.addresses())
