"""Triton's interpreter runs the kernels of these tests, on the CPU's tensors."""

import importlib.util
import os

import pytest

from polyak.engine.triton import devices

pytest.register_assert_rewrite("tests.triton.support")


@pytest.fixture(autouse=True, scope="session")
def interpreter():
    """Triton decides when a function is decorated: the kernels are made below this."""
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    yield
    if before is None:
        del os.environ["TRITON_INTERPRET"]
    else:
        os.environ["TRITON_INTERPRET"] = before


@pytest.fixture(autouse=True)
def triton_serves_the_cpu(interpreter, monkeypatch):
    """Send CPU tensors to the Triton engine."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed: its interpreter cannot run the kernels")
    monkeypatch.setitem(devices.KERNELS, "cpu", "triton")
