"""The conformance table: ``python -m docs.conformance`` runs it.

A promise is one small function that raises where an optimizer does not keep it. They
are asked of polyak, torch and whatever else is installed; ``results.json`` holds what
came out, with versions and date, and ``docs/conformance.md`` is written from it.
"""

from . import copies, groups, parameters, training  # noqa: F401  (they register)
from .registry import PROMISES

__all__ = ["PROMISES"]
