"""``docs/conformance.md``, from what was answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.fuzz.differences import DIFFERENCES

from . import PROMISES
from .libraries import LIBRARIES

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results.json", HERE.parent / "conformance.md"

FUZZED = HERE / "fuzzed.md"

Results = dict[str, Any]

INTRODUCTION = """\
# Conformance

<!-- Written by `python -m docs.conformance`: edit docs/conformance/, not this page. -->

What users of an optimizer rely on, asked of polyak, `torch.optim` and other libraries
by a program. A promise is one small function below; it says "no" with what happened
where the promise is not kept, and "error" where something was raised on the way. To see
an answer again, with the library installed:

```sh
python -m docs.conformance --library bitsandbytes --promise deepcopy
```

Each column begins with the library's AdamW, or what it has in its place; the numbers
are how many of its optimizers answer yes, of those to which the promise applies. All
are built with their default arguments, on CPU. Optimizers that could not be driven at
all in this way (they need a model, a gradient graph, a process group or a GPU) are not
counted, and [named below](#who-was-asked). Where a promise does not apply, since a
method is otherwise by design, the cell is –, and the optimizer is not in the count. It
is a table of promises, not of features: others have optimizers and formats that polyak
lacks.

"""


def load() -> Results:
    """What was answered last."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def store(results: Results) -> None:
    """Keep it."""
    ordered = {name: results[name] for name in LIBRARIES if name in results}
    RESULTS.write_text(json.dumps(ordered, indent=1) + "\n")


def page(results: Results) -> str:
    """The text of the page."""
    notes: dict[str, int] = {}  # what happened, once, and its number
    chapters = dict.fromkeys(entry.chapter for entry in PROMISES)
    parts = {
        **{chapter: "\n".join(_table(chapter, results, notes)) for chapter in chapters},
        "What happened": "\n".join(f"{n}. {what}" for what, n in notes.items()),
        "Who was asked": "\n".join(_asked(results)),
        "Fuzzing": FUZZED.read_text() + "\n".join(_differences()),
        "The promises": "\n\n".join(_sources()),
    }
    text = "\n\n".join(f"## {heading}\n\n{part}" for heading, part in parts.items())
    return INTRODUCTION + text + "\n"


def _table(chapter: str, results: Results, notes: dict[str, int]) -> Iterator[str]:
    yield (
        "| promise | "
        + " | ".join(f"{name}<br>{found['chosen']}" for name, found in results.items())
        + " |"
    )
    yield "| --- |" + " --- |" * len(results)
    for entry in PROMISES:
        if entry.chapter == chapter:
            cells = [_cell(found, entry.name, notes) for found in results.values()]
            yield f"| {entry.name} | " + " | ".join(cells) + " |"


def _cell(found: Results, name: str, notes: dict[str, int]) -> str:
    given = found["promises"].get(name)
    if given is None:
        return "?"
    asked = len(found["asked"]) - len(given["not_applicable"])
    count = f"<br>{len(given['yes'])}/{asked}" if len(found["asked"]) > 1 else ""
    answer = {"yes": "yes", "n/a": "–"}.get(given["answer"], f"**{given['answer']}**")
    if given["what"]:
        note = notes.setdefault(_plain(given["what"]), len(notes) + 1)
        answer += f" [{note}](#what-happened)"
    return answer + count


def _plain(text: str) -> str:
    """Markdown that says it; what stands between backticks is not read as such."""
    parts = text.split("`")
    for i in range(0, len(parts), 2):
        plain = parts[i].replace("<", "&lt;").replace("*", r"\*")
        parts[i] = plain.replace("_", r"\_")
    return "`".join(parts)


def _asked(results: Results) -> Iterator[str]:
    for name, found in results.items():
        yield (
            f"- **{name} {found['version']}**, on {found['date']}, torch "
            f"{found['torch']}, Python {found['python']}: {', '.join(found['asked'])}."
        )
        if found["not_asked"]:
            yield f"  Not asked: {', '.join(found['not_asked'])}."


def _differences() -> Iterator[str]:
    for name, difference in DIFFERENCES.items():
        yield f"- **{name}.** {difference.reason}"


def _sources() -> Iterator[str]:
    yield (
        "`subject` is the optimizer: `make(params)` builds it, and `train(optimizer, "
        "params, numbers)` does steps on gradients that their numbers decide. The rest "
        "is in `docs/conformance/subject.py`."
    )
    for entry in PROMISES:
        yield (
            f"### {entry.name}\n\nWithout it: {entry.without}\n\n"
            f"```python\n{entry.source}\n```"
        )
