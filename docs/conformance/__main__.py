"""``python -m docs.conformance``: ask what is installed, and write the page.

``--library bitsandbytes`` asks that one; ``--promise PART``, with what the promise's
name contains, prints the answers of all its optimizers and writes nothing. Each library
is asked in a process of its own.
"""

import argparse
import importlib.util
import subprocess
import sys

from . import PROMISES
from .asking import ask, ask_all
from .libraries import LIBRARIES
from .page import PAGE, load, page, store
from .subject import drivable


def main() -> int:
    """Ask and write."""
    parser = argparse.ArgumentParser(prog="python -m docs.conformance")
    parser.add_argument("--library", choices=LIBRARIES)
    parser.add_argument("--promise")
    chosen = parser.parse_args()
    if chosen.promise:
        return show(chosen.library or "polyak", chosen.promise)
    if chosen.library:
        store(load() | {chosen.library: ask_all(LIBRARIES[chosen.library])})
    else:
        for name, library in LIBRARIES.items():
            if importlib.util.find_spec(library.module.split(".")[0]):
                print(name, flush=True)
                command = [sys.executable, "-m", "docs.conformance", "--library", name]
                subprocess.run(command, check=False)
    PAGE.write_text(page(load()))
    return 0


def show(name: str, part: str) -> int:
    """Print what each optimizer of a library answers."""
    library = LIBRARIES[name]
    for kind_name, kind in library.classes().items():
        subject = drivable(kind, library.keywords)
        for entry in PROMISES if subject else ():
            if part.lower() in entry.name.lower():
                given = ask(entry, subject)
                print(f"{kind_name}: {entry.name}: {given.answer} {given.what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
