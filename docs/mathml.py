"""Formulas as MathML, made when the site is built: no script, no fonts to fetch."""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.math import wrap_displaymath


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer (``html_math_renderer = "mathml"``)."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def inline(translator: Any, node: nodes.math) -> None:
    """A formula within a line."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(translator: Any, node: nodes.math_block) -> None:
    """A formula with lines of its own, which a narrow screen scrolls."""
    formula = wrap_displaymath(node.astext(), None, numbering=False)
    markup = convert(formula.strip().removeprefix("\\[").removesuffix("\\]"), "block")
    translator.body.append(f'<div class="formula" tabindex="0">{markup}</div>\n')
    raise nodes.SkipNode
