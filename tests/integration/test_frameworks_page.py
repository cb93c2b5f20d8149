"""docs/frameworks.md says what works: its code runs as it stands."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
import torch

from tests.integration.harness import timms_schedulers

PAGE = Path(__file__).parents[2] / "docs" / "frameworks.md"
SECTIONS = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
CODE = {
    title: re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for title, text in SECTIONS
}
BLOCKS = [
    pytest.param(title, code, id=f"{title}-{index}")
    for title, blocks in CODE.items()
    for index, code in enumerate(blocks)
]


def packages(code):
    """What a block imports."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


@pytest.fixture(autouse=True)
def _own_process(monkeypatch):
    """Nothing of a block stays: no process group, no seed, no compiled code."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with torch.random.fork_rng():
        yield
    torch.compiler.reset()


@pytest.mark.parametrize(("title", "code"), BLOCKS)
@pytest.mark.filterwarnings(
    # Lightning, of what torch has renamed; dynamo, which looks at gradients.
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated",
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
)
def test_code_runs(title, code, monkeypatch):
    for package in set(packages(code)):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if "timm" in code:
        timms_schedulers(monkeypatch)
    exec(compile(code, f"docs/frameworks.md, {title}", "exec"), {"__name__": "page"})


def test_every_framework_is_shown():
    """All but DeepSpeed, which is not tested with, have code."""
    assert [title for title, blocks in CODE.items() if not blocks] == ["DeepSpeed"]
