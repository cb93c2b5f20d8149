"""The README says what the code does."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README.read_text(), re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]


@pytest.mark.parametrize("index", range(len(PYTHON)))
def test_code_runs(index: int) -> None:
    """Every block of Python runs as it stands."""
    exec(compile(PYTHON[index], f"README, block {index}", "exec"), {})


PRINTED = [
    (before[1], text)
    for before, (language, text) in pairwise(BLOCKS)
    if language == "text"
]


@pytest.mark.parametrize(("code", "text"), PRINTED)
def test_printed_text(code: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What the README says is printed is what the block before it prints."""
    exec(code, {"__name__": "readme"})
    assert capsys.readouterr().out == text
