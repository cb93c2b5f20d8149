"""The site is built without a warning, leads nowhere wrong and needs no network."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

pytest.importorskip("sphinx")
pytest.importorskip("furo")

from docs import diagrams, pages, targets

ROOT = Path(__file__).parent.parent


class Page(HTMLParser):
    """A page's anchors, its links, and what a browser loads with it."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loads = set(), set(), set()
        self.formulas = self.raw = 0
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        if tag == "a" and attrs.get("href"):
            self.links.add(attrs["href"])
        if tag == "link" and attrs.get("rel") in {"stylesheet", "preload", "icon"}:
            self.loads.add(attrs["href"])
        if tag in {"script", "img", "source", "iframe"} and attrs.get("src"):
            self.loads.add(attrs["src"])
        self.formulas += tag == "math"


def test_the_site(tmp_path):
    """One build, all that can be said of it."""
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr

    found = {path: Page(path) for path in tmp_path.rglob("*.html")}
    assert broken(found) == []
    assert [url for page in found.values() for url in page.loads if "//" in url] == []
    assert found[tmp_path / "optimizers" / "Adam.html"].formulas > 1
    drawn = {Path(url).name for url in found[tmp_path / "engine.html"].loads}
    assert drawn >= {path.name for path in diagrams.PICTURES.glob("*.svg")}
    wrong = [str(path) for path in found if "<mi>\\" in path.read_text()]
    assert wrong == [], "a formula has a command that is unknown"
    anchors = set().union(*(page.anchors for page in found.values()))
    assert {*pages.homes().values()} - anchors <= {*pages.MODULES}


def broken(found):
    """Links and files, of the site itself, that are not there."""
    wrong = []
    for path, page in found.items():
        for url in page.links | page.loads:
            if urlsplit(url).scheme:
                continue
            address, anchor = urldefrag(unquote(url))
            address = address.partition("?")[0]
            target = (path.parent / address).resolve() if address else path
            there = target.exists()
            if anchor and there and target in found:
                there = anchor in found[target].anchors
            if not there:
                wrong.append(f"{path.name}: {url}")
    return wrong


def test_a_public_name_without_a_docstring_is_found(monkeypatch):
    assert pages.undocumented() == []
    import polyak

    def bare():
        pass

    monkeypatch.setattr(polyak, "bare", bare, raising=False)
    monkeypatch.setattr(polyak, "__all__", [*polyak.__all__, "bare"])
    assert pages.undocumented() == ["polyak.bare"]


def test_a_number_is_written_in_tex():
    assert pages.scientific(3.7e-8) == r"3.7 \cdot 10^{-8}"
    assert pages.scientific(0.25) == "0.25"


def test_names_of_docstrings():
    import polyak

    assert targets.imported("polyak.Scheduler.step") == (polyak.Scheduler, ["step"])
    assert targets.imported("polyak.Scheduler.stop") is None
    assert targets.imported("polyak.nothing") is None
