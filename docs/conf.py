"""Sphinx builds the site from this folder: ``make docs``."""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from sphinx.application import Sphinx  # noqa: E402

import polyak  # noqa: E402
from docs import diagrams, pages, targets  # noqa: E402

project = "polyak"
author = "The polyak authors"
version = release = polyak.__version__

extensions = [
    "docs.mathml",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = "polyak"
html_static_path = ["assets"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_copyright = False
html_copy_source = False
html_show_sphinx = False

# Parts of another page.
exclude_patterns = ["conformance/*"]

# Every reference must lead somewhere.
nitpicky = True

myst_heading_anchors = 4
myst_fence_as_directive = {"math"}

autodoc_typehints = "none"
autodoc_class_signature = "mixed"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Keys", "params_style")]


def setup(app: Sphinx) -> None:
    """Write the generated pages first; read formulas as GitHub does."""
    app.connect("builder-inited", lambda app: pages.main())
    app.connect("source-read", read_formulas)
    app.connect("source-read", show_diagrams)
    app.connect("env-get-outdated", lambda *_: ["index"])
    app.connect("autodoc-skip-member", skip_torchs)
    app.connect("missing-reference", targets.find)


def read_formulas(app: Sphinx, name: str, source: list[str]) -> None:
    """GitHub's formulas in a line, ``$`x`$``, in the words of MyST."""
    source[0] = re.sub(r"\$`([^`]+)`\$", r"{math}`\1`", source[0])


def show_diagrams(app: Sphinx, name: str, source: list[str]) -> None:
    """What GitHub draws by a script has a picture here."""
    source[0] = diagrams.shown(source[0])


def skip_torchs(
    app: Sphinx, kind: str, name: str, value: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out what a class has from torch or Python; None leaves it to autodoc."""
    if str(getattr(value, "__doc__", "")).startswith("Alias for field number"):
        return True
    function = value.fget if isinstance(value, property) else value
    if not callable(function):
        return None
    if inspect.isbuiltin(function):
        return True
    owner = getattr(value, "__objclass__", function)  # of a method written in C
    module = getattr(owner, "__module__", None) or "polyak"
    return None if module.partition(".")[0] == "polyak" else True
