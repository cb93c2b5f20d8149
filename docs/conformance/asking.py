"""Asks a library's optimizers for every promise."""

from __future__ import annotations

import contextlib
import datetime
import io
import platform
import signal
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from . import PROMISES
from .libraries import Library
from .registry import Entry
from .subject import NotApplicable, Subject, drivable

SECONDS = 30


@dataclass(frozen=True)
class Answer:
    """Whether a promise is kept: "yes", "no", "error" or "n/a", and what happened."""

    answer: str
    what: str = ""


def ask(entry: Entry, subject: Subject) -> Answer:
    """Ask one optimizer."""
    torch.manual_seed(0)
    try:
        with _quiet(), _in_time():
            entry.check(subject)
    except NotApplicable as reason:
        return Answer("n/a", str(reason))
    except AssertionError as what:
        return Answer("no", _line(what))
    except Exception as error:
        return Answer("error", f"{type(error).__name__}: {_line(error)}")
    return Answer("yes")


def ask_all(library: Library) -> dict[str, Any]:
    """Ask all optimizers of a library; what ``results.json`` has of it."""
    with _quiet():
        classes = library.classes()
        subjects = {n: drivable(k, library.keywords) for n, k in classes.items()}
    driven = {name: subject for name, subject in subjects.items() if subject}
    answers = {
        entry.name: {name: ask(entry, subject) for name, subject in driven.items()}
        for entry in PROMISES
    }
    return {
        "version": library.version,
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "chosen": library.chosen,
        "asked": list(driven),
        "not_asked": [name for name in subjects if name not in driven],
        "promises": {
            name: {
                **vars(given[library.chosen]),
                "yes": [n for n, answer in given.items() if answer.answer == "yes"],
                "not_applicable": {
                    n: answer.what
                    for n, answer in given.items()
                    if answer.answer == "n/a"
                },
            }
            for name, given in answers.items()
        },
    }


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 140 else text[:137] + "..."


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    """Raise where an answer takes too long."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"no answer in {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
