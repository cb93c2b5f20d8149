"""What pytest collects here: tests are in ``test_*.py``, and only there.

Doctests are collected from every module that pytest is given. The other files below
``tests/`` are helpers, cases and scripts: importing them is up to the tests.
"""

from pathlib import Path


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave every Python file alone that is not a test module."""
    if collection_path.suffix == ".py" and not collection_path.name.startswith("test_"):
        return True
    return None
