"""What doctests find without importing it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import polyak


@pytest.fixture(autouse=True)
def _names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace.update(torch=torch, polyak=polyak)
