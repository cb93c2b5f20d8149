"""The site's diagrams are those of the pages."""

import re
from xml.etree import ElementTree

import pytest

from docs import diagrams

DIAGRAMS = [diagram for _, diagram in diagrams.diagrams()]


def words(text):
    return re.findall(r"\w+", text)


def test_every_diagram_has_its_picture_and_no_other_is_kept():
    wanted = {diagrams.picture(diagram) for diagram in DIAGRAMS}
    assert {*diagrams.PICTURES.glob("*.svg")} == wanted, "run python -m docs.diagrams"


@pytest.mark.parametrize("diagram", DIAGRAMS, ids=diagrams.title)
def test_a_picture_is_of_its_diagram_and_needs_no_network(diagram):
    text = diagrams.picture(diagram).read_text()
    drawn = words(" ".join(ElementTree.fromstring(text).itertext()))
    labels = re.findall(r'"([^"]+)"|\|(.+?)\||: (.+)$', diagram, re.MULTILINE)
    for label in labels:
        for line in "".join(label).split("<br/>"):
            assert {*words(line)} <= {*drawn}
    for loaded in ("foreignObject", "<image", "@import", "url(http", "href="):
        assert loaded not in text
    width = re.search(r'<svg[^>]* width="([\d.]+)"', text)
    assert width is not None, "it has no natural size"


def test_what_another_diagram_draws_is_another_file():
    across, down = (f"flowchart {way}\n    a --> b\n" for way in ("LR", "TB"))
    assert diagrams.picture(across) != diagrams.picture(down)


def test_a_page_shows_pictures_in_place_of_diagrams_only():
    fence = "```mermaid\nflowchart TB\n    accTitle: The way\n    a --> b\n```"
    address = diagrams.link("flowchart TB\n    accTitle: The way\n    a --> b\n")
    page = "One.\n\n{}\n\n```python\na\n```\n"

    assert diagrams.shown(page.format(fence)) == page.format(f"![The way]({address})")
    assert re.fullmatch(r"/diagrams/[0-9a-f]{12}\.svg", address)
    assert diagrams.title("flowchart TB\n    a --> b\n") == "diagram"
