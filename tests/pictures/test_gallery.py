"""The gallery is whole, and says what its script says."""

import inspect
import re

import pytest

from docs import gallery
from polyak import lr_scheduler, schedules

TEXT = gallery.PAGE.read_text()
LINKS = re.findall(r"\]\(pictures/(.*?)\)$", TEXT, re.MULTILINE)

# What cannot be drawn: bases, and the name of one until torch 2.0.
ABSTRACT = {"LRScheduler", "Schedule", "_LRScheduler"}


def public(module):
    return [n for n in module.__all__ if inspect.isclass(getattr(module, n))]


@pytest.mark.parametrize("name", [*public(schedules), *public(lr_scheduler)])
def test_every_schedule_and_scheduler_is_on_the_page(name):
    assert name in ABSTRACT or f"### `{name}`\n" in TEXT


def test_the_page_is_what_the_script_writes():
    assert gallery.page() == TEXT, "run python -m docs.gallery"


def test_the_pictures_are_those_of_the_page():
    assert [f"{name}.svg" for name, _ in gallery.pictures()] == LINKS
    assert {path.name for path in gallery.PICTURES.glob("*.svg")} == set(LINKS)


def test_the_page_is_markdown():
    for markup in (":math:", ":class:", ".. ", ">>>", "`_", "``\n"):
        assert markup not in re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
    assert TEXT.count("```") % 2 == 0


def test_of_restructured_text_markdown():
    assert gallery.markdown("Of `A et al.,\n2017 <https://a.b>`_ and ``c``") == (
        "Of [A et al., 2017](https://a.b) and `c`"
    )
    assert gallery.markdown(":math:`a_1`, :class:`~b.c.D`") == "$`a_1`$, `D`"
    assert gallery.markdown(".. math::\n    a\n      b") == "```math\na\n  b\n```"


def test_a_picture_is_small_and_the_same_every_time(tmp_path):
    name, seen = next(gallery.pictures())
    for copy in ("a", "b"):
        (tmp_path / copy).mkdir()
        gallery.save(seen, tmp_path / copy / f"{name}.svg")
    first, second = (tmp_path / copy / f"{name}.svg" for copy in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 20_000
