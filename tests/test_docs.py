"""The documentation: its code runs and prints what it says, its names exist."""

import linecache
import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [DOCS / "index.md", DOCS / "migration.md", *sorted(DOCS.glob("tutorials/*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def run(code, name, names):
    """Run a block, so that errors can quote it."""
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    exec(compile(code, name, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_runs_and_prints_what_the_page_says(page, capsys):
    """Block after block, as a reader would type them."""
    names = {"__name__": "page"}
    with torch.random.fork_rng():
        for language, text in BLOCK.findall(page.read_text()):
            if language == "python":
                run(text, f"{page.stem}.py", names)
                printed = capsys.readouterr().out
            elif language == "text":
                assert printed == text


def test_every_tutorial_is_in_the_navigation():
    index = (DOCS / "index.md").read_text()
    for page in DOCS.glob("tutorials/*.md"):
        assert f"\ntutorials/{page.stem}\n" in index


def test_every_scheduler_and_optimizer_that_a_table_names_exists():
    """The right column of migration's tables is code of polyak's."""
    import polyak

    named = re.findall(r"`?polyak\.([\w.]+)", (DOCS / "migration.md").read_text())
    for name in named:
        value = polyak
        for part in name.split("."):
            value = getattr(value, part)
