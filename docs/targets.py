"""What a name in a docstring leads to.

A docstring names things as its module sees them, and many have several names
(``polyak.Scheduler`` is ``polyak.lr_scheduler.Scheduler``). So the name is imported: if
it is documented, under whatever name, the reference leads there; if it is another
library's, it stays text. Otherwise it is an error, and the build fails.
"""

import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from docs.pages import homes


def find(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.Node | None:
    """Resolve a reference that Sphinx could not; None is a broken one."""
    if node.get("refdomain") != "py":
        return None
    named = node["reftarget"]
    for name in [named, *(f"{scope}.{named}" for scope in scopes(node))]:
        found = imported(name)
        if found is None:
            continue
        home = homes().get(id(found[0]))
        if home is None:
            return text
        target = ".".join([home, *found[1]])
        python = env.domains["py"]
        linked = python.resolve_xref(
            env, env.docname, app.builder, "obj", target, node, text
        )
        return linked or text
    return None


def scopes(node: pending_xref) -> Iterator[str]:
    """Where a docstring's words are looked up, its own class and module first."""
    module, kind = node.get("py:module"), node.get("py:class")
    if module and kind:
        yield f"{module}.{kind}"
    if module:
        yield module
    yield from ["polyak", "builtins"]
    if "." not in node["reftarget"]:  # an annotation, as its module sees it
        yield from [name for name in sys.modules if name.startswith("polyak.")]


def imported(name: str) -> tuple[Any, list[str]] | None:
    """The module's member that a dotted name begins with, and the rest of the name."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value: Any = import_module(".".join(parts[:count]))
        except (ImportError, ValueError):
            continue
        rest = parts[count:]
        if rest:
            value = getattr(value, rest.pop(0), None)
        return (value, rest) if value is not None and has(value, rest) else None
    return None


def has(value: Any, names: list[str]) -> bool:
    """Whether a value has these attributes, also such as each instance makes."""
    for name in names:
        annotated = getattr(value, "__annotations__", {})
        documented = f"\n        {name}: " in (getattr(value, "__doc__", "") or "")
        if not (hasattr(value, name) or name in annotated or documented):
            return False
        value = getattr(value, name, None)
    return True
