"""What native code knows of CPython is true of the one that runs."""

import sys

import pytest

from polyak.engine import python_abi


def test_references_are_counted():
    """Where one lock guards all objects."""
    has_lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    assert python_abi.counts_references() == has_lock


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="versions are going away")
def test_dictionaries_have_versions():
    """Until CPython 3.12 they have."""
    assert python_abi.version_offset() > 0


def test_functions_are_found():
    """They are in CPython's stable interface."""
    assert all(python_abi.addresses())
