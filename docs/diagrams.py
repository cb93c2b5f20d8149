"""Diagrams: ``python -m docs.diagrams`` draws the mermaid in the pages, for the site.

GitHub draws a page's mermaid by itself. The site, which loads no script, shows a
picture in its place, kept in ``docs/diagrams`` under a name made of what it draws.
Drawing takes Node, and Chrome or Chromium; the site and the tests take the pictures.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
PICTURES = HERE / "diagrams"
FENCE = re.compile(r"^```mermaid\n(.*?)^```$", re.DOTALL | re.MULTILINE)

# mermaid's own command line, and how it is to draw: text as text, in natural size.
RENDERER = "@mermaid-js/mermaid-cli@12.2.0"
FONT = {"fontFamily": "DejaVu Sans, Verdana, sans-serif", "fontSize": "14px"}
STYLE = {
    "layout": "dagre",
    "look": "classic",
    "theme": "base",
    "htmlLabels": False,
    "fontFamily": FONT["fontFamily"],
    "fontSize": 14,
    "flowchart": {
        "useMaxWidth": False,
        "nodeSpacing": 30,
        "rankSpacing": 36,
        "padding": 8,
        "curve": "basis",
        "wrappingWidth": 400,
    },
    "sequence": {
        "useMaxWidth": False,
        "mirrorActors": False,
        "width": 100,
        "height": 36,
        "actorMargin": 40,
        "diagramMarginX": 10,
    },
    "themeVariables": FONT
    | {
        "primaryColor": "#eef4fa",
        "primaryBorderColor": "#0072b2",
        "primaryTextColor": "#222222",
        "lineColor": "#767676",
        "clusterBkg": "#ffffff",
        "clusterBorder": "#767676",
        "edgeLabelBackground": "#ffffff",
        "noteBkgColor": "#fdf3e0",
        "noteBorderColor": "#dd9a00",
    },
}


def main() -> None:
    """Draw what has no picture, and remove pictures of what is no more."""
    PICTURES.mkdir(exist_ok=True)
    wanted = {picture(diagram): diagram for _, diagram in diagrams()}
    for old in {*PICTURES.glob("*.svg")} - {*wanted}:
        old.unlink()
    for path, diagram in wanted.items():
        if not path.exists():
            draw(diagram, path)


def diagrams() -> Iterator[tuple[Path, str]]:
    """Every page's diagrams, as their text."""
    for page in sorted(HERE.rglob("*.md")):
        for diagram in FENCE.findall(page.read_text()):
            yield page, diagram


def picture(diagram: str) -> Path:
    """Where a diagram's picture is kept: the name changes with what is drawn."""
    drawn = "\n".join([RENDERER, json.dumps(STYLE), diagram])
    return PICTURES / f"{sha256(drawn.encode()).hexdigest()[:12]}.svg"


def shown(page: str) -> str:
    """A page's Markdown with pictures in place of its diagrams."""
    return FENCE.sub(lambda fence: f"![{title(fence[1])}]({link(fence[1])})", page)


def link(diagram: str) -> str:
    """The picture's address on the site."""
    return f"/{picture(diagram).relative_to(HERE).as_posix()}"


def title(diagram: str) -> str:
    """What a diagram says that it shows, for those who cannot see it."""
    found = re.search(r"^\s*accTitle: (.+)$", diagram, re.MULTILINE)
    return found[1] if found else "diagram"


def draw(diagram: str, path: Path) -> None:
    """Have mermaid draw it, in a browser without a window."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser or not shutil.which("npx"):
        sys.exit("npx draws diagrams, in chromium or google-chrome: install both")
    environment = os.environ | {
        "PUPPETEER_SKIP_DOWNLOAD": "1",
        "PUPPETEER_EXECUTABLE_PATH": browser,
    }
    with TemporaryDirectory() as folder:
        source, style, start = (Path(folder, name) for name in ("d.mmd", "s", "b"))
        source.write_text(diagram)
        style.write_text(json.dumps(STYLE))
        # A browser in a container has no sandbox; it sees this diagram alone.
        start.write_text(json.dumps({"args": ["--no-sandbox", "--disable-gpu"]}))
        command = ["npx", "--yes", RENDERER, "-q", "-i", source, "-o", path]
        command += ["-c", style, "-p", start]
        subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
