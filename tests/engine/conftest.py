"""Fixtures of the engine tests."""

import os

import pytest
import torch
from hypothesis import settings

# A first example may compile a kernel.
settings.register_profile("engine", deadline=None)
settings.load_profile("engine")


@pytest.fixture(autouse=True, scope="session")
def cache_of_this_session(tmp_path_factory):
    """Kernels of tests stay out of the user's cache, and theirs out of the tests."""
    before = os.environ.get("POLYAK_CACHE_DIR")
    os.environ["POLYAK_CACHE_DIR"] = str(tmp_path_factory.mktemp("kernels"))
    yield
    if before is None:
        del os.environ["POLYAK_CACHE_DIR"]
    else:
        os.environ["POLYAK_CACHE_DIR"] = before


@pytest.fixture
def threads():
    """torch.set_num_threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
