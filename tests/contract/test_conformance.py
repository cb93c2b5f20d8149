"""The conformance table tells the truth: polyak's column and torch's are asked anew."""

import pytest
import torch

from docs.conformance import PROMISES
from docs.conformance.asking import Answer, ask, ask_all
from docs.conformance.libraries import LIBRARIES
from docs.conformance.page import PAGE, load, page
from docs.conformance.subject import Subject


@pytest.fixture(scope="module")
def asked():
    """What polyak and torch answer now."""
    return {name: ask_all(LIBRARIES[name]) for name in ("polyak", "torch")}


def test_polyak_keeps_every_promise(asked):
    """And so does each of its optimizers, but for arguments that torch lacks, too."""
    for name, given in asked["polyak"]["promises"].items():
        assert given["answer"] == "yes", f"{name}: {given['what']}"
        kept = {*given["yes"], *given["not_applicable"]}
        if not name.endswith("=True`"):
            assert kept == set(asked["polyak"]["asked"]), name


@pytest.mark.parametrize("library", ["polyak", "torch"])
def test_the_columns_are_as_written(asked, library):
    """Each answer, what happened, and the optimizers that the counts are of."""
    written = load()[library]
    for key in ("chosen", "asked", "not_asked", "promises"):
        assert asked[library][key] == written[key]


def test_the_page_is_written_from_the_answers():
    """``python -m docs.conformance`` was run after what it says was changed."""
    assert PAGE.read_text() == page(load())


def test_every_library_was_asked_every_promise():
    """Of the peers, which are not installed here, what is written is complete."""
    results = load()
    assert list(results) == list(LIBRARIES)
    for name, given in results.items():
        assert list(given["promises"]) == [entry.name for entry in PROMISES], name


class Breaking(torch.optim.SGD):
    """It keeps no promise about gradients: it negates them in place, and moves all."""

    def step(self, closure=None):
        for param in self.param_groups[0]["params"]:
            if param.grad is not None:
                param.grad.neg_()
            param.data.add_(1)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("gradients are left as they are", "their numbers have changed"),
        ("without gradient nothing moves", "a parameter without gradient moved"),
        (
            "autograd is told of the step",
            "the parameters' version counters stand still",
        ),
        ("a changed rate counts", "a rate of 1e-06 times moves by 1"),
    ],
)
def test_a_broken_promise_is_seen(name, what):
    """A check can say no."""
    entry = next(entry for entry in PROMISES if entry.name == name)
    assert ask(entry, Subject(Breaking, {"lr": 0.1})) == Answer("no", what)


def test_an_error_is_told_from_a_no():
    """And what does not apply from both."""
    entry = next(entry for entry in PROMISES if entry.name == "0-d parameters")
    assert (
        ask(entry, Subject(torch.optim.Muon, shapes=((4, 3), (5,)))).answer == "error"
    )
    matrices = Subject(torch.optim.Muon, shapes=((4, 3), (6, 2)))
    assert ask(entry, matrices).answer == "n/a"


def test_what_happened_is_said_once_and_read_as_it_is():
    notes = PAGE.read_text().partition("## What happened\n\n")[2].partition("\n\n")[0]
    lines = notes.splitlines()
    said = [line.partition(". ")[2] for line in lines]

    assert [int(line.partition(".")[0]) for line in lines] == [*range(1, len(said) + 1)]
    assert len({*said}) == len(said)
    assert not any("\\" in code for line in said for code in line.split("`")[1::2])
