"""What doctests find without importing it."""

from __future__ import annotations

import os

# Triton decides when it is imported, and by more than one test, who runs its kernels.
os.environ.setdefault("TRITON_INTERPRET", "1")

from typing import Any

import pytest
import torch

import polyak


@pytest.fixture(autouse=True)
def _names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(torch=torch, polyak=polyak)
