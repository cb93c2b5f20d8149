"""The command line of the benchmarks runs every part: no time is asserted here."""

from functools import partial

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import (
    averages,
    encounters,
    fresh,
    markdown,
    matrices,
    neighbour,
    one_pass,
    overhead,
    peers,
    pictures,
    schedules,
    sweep,
    training,
)
from benchmarks.cases import Case
from benchmarks.contenders import Contender

PLAIN_CASE = Case("plain", "Three tensors", 0.0, "µs", ((4,), (2, 3), (5,)))
GROUPS = Case("groups", "Three groups", 0.0, "µs", ((4,),) * 3, groups=True)
NETWORK = Case("network", "Two layers", 0.0, "µs", layers=2)
LONG = Case("long", "One tensor", 0.0, "ms", ((1000,),), bandwidth=True)


def run(*arguments):
    return CliRunner().invoke(command.app, [*map(str, arguments)])


def make_parts_tiny(monkeypatch):
    """The parts that have a file of tests of their own."""
    cases, sgd = [PLAIN_CASE], [Contender("SGD")]

    def small(module, name, **arguments):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, partial(function, **arguments))

    small(sweep, "swept", lengths=(8,), contenders=sgd)
    monkeypatch.setattr(sweep, "MOST_TENSORS", 2)
    small(overhead, "hosts", counts=(1, 2), optimizers=("SGD",))
    small(overhead, "scheduled", cases=((2, 1),), optimizers=("SGD",))
    small(one_pass, "measured", cases=cases, contenders=sgd)
    square = Case("", "2 x 3", 0.0, "ms", ((2, 3),), plain=True)
    monkeypatch.setattr(matrices, "MATRICES", {"Adafactor": [square]})
    small(training, "trained", networks={"two weights": two_weights}, contenders=sgd)
    small(neighbour, "disturbed", cases=cases, contenders=sgd)
    twin = peers.Peer(
        "twin", "torch", lambda: {"SGD": lambda p: torch.optim.SGD(p).step}
    )
    small(peers, "loaded", peers=(twin,))
    monkeypatch.setattr(encounters, "ENCOUNTERS", cases)
    small(encounters, "encounters", contenders=sgd)


def two_weights():
    network = torch.nn.Linear(1, 1)
    return network, lambda: network(torch.ones(1)).square().sum()


@pytest.fixture
def tiny(monkeypatch):
    """All of the benchmarks, made small."""
    cases = {case.name: case for case in (PLAIN_CASE, GROUPS, NETWORK, LONG)}
    monkeypatch.setattr(command, "CASES", cases)
    monkeypatch.setattr(command, "contenders", lambda names=(): [Contender("SGD")])
    stepped, curves = schedules.stepped, schedules.curves
    scheduler = "StepLR(optimizer, 2)"
    monkeypatch.setattr(schedules, "stepped", partial(stepped, (3,), [scheduler]))
    monkeypatch.setattr(schedules, "curves", partial(curves, ["cosine(9)"], 9))
    averaged, case = averages.averaged, averages.Case("Three of 5", 3, 5)
    monkeypatch.setattr(averages, "averaged", partial(averaged, cases=[case]))
    in_step = averages.in_step
    monkeypatch.setattr(averages, "in_step", partial(in_step, cases=[case]))
    make_parts_tiny(monkeypatch)
    memory = fresh.Memory("SGD", "polyak", 4, 0, 8)
    monkeypatch.setattr(fresh, "memory", lambda names: [memory])
    first = fresh.First("polyak", 0.001, 0.1, 0.0001)
    monkeypatch.setattr(fresh, "first_steps", lambda: [first])
    monkeypatch.setattr(fresh, "imports", lambda: {"torch": 1.5, "polyak": 0.02})


@pytest.mark.usefixtures("tiny")
def test_everything_goes_into_the_report(tmp_path):
    out = tmp_path / "results.md"
    out.write_text(f"Read me.\n{markdown.BEGIN}\n{markdown.END}\n")
    done = run("--threads", 1, "--scale", 0, "--out", out)
    text = out.read_text()

    assert done.exit_code == 0, done.output
    assert text.startswith("Read me.\n")
    assert f"- torch: {torch.__version__}" in text
    for case in (PLAIN_CASE, GROUPS, NETWORK, LONG):
        assert f"### {case.title}\n\n| optimizer | threads |" in text
    assert "| SGD | polyak | 0 | 7.63e-06 | 2.00 |" in text
    assert "| polyak | 1.00 | 100 | 0.100 |" in text
    assert "| polyak, after torch | 20.0 |" in text
    assert "Measured with two threads or more only." in text
    assert "### `scheduler.step()`, 3 groups" in text
    assert "| Three of 5 | 1 |" in text
    assert "### `schedule.value_at`, 9 steps" in text
    for name in (pictures.BY_SIZE, pictures.BY_NUMBER):
        assert f"](pictures/{name})" in text
        assert (tmp_path / "pictures" / name).read_text().startswith("<?xml")


@pytest.mark.usefixtures("tiny")
def test_what_is_measured_is_written_though_the_rest_fails(tmp_path, monkeypatch):
    def fail(*arguments):
        raise KeyboardInterrupt

    out = tmp_path / "results.md"
    out.write_text(f"Read me.\n{markdown.BEGIN}\nold\n{markdown.END}\n")
    monkeypatch.setattr(command, "_startup", fail)
    done = run("--threads", 1, "--scale", 0, "--out", out)

    assert done.exit_code != 0
    assert "| SGD | polyak | 0 | 7.63e-06 | 2.00 |" in out.read_text()
    assert "old" not in out.read_text()


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("step", "--case", "plain", "--threads", 1), "### Three tensors"),
        (("bandwidth", "--threads", 1), "| One tensor | SGD | 1 | 12.0 |"),
        (("sweep", "--threads", 1), "| 2 x 8 |"),
        (("overhead",), "| SGD | 2 |"),
        (("whole", "--threads", 1), "| Three tensors | SGD |"),
        (("matrices", "--threads", 1), "### Adafactor"),
        (("training", "--threads", 1), "| two weights | SGD |"),
        (("neighbour", "--threads", 1), "| Three tensors | SGD |"),
        (("peers", "--threads", 1), "| Three tensors | SGD | 1 | twin |"),
        (("memory",), "| SGD | polyak |"),
        (("startup",), "| polyak, after torch |"),
        (("schedules",), "| `StepLR(optimizer, 2)` |"),
        (("averages", "--threads", 1), "| Three of 5 | 1 |"),
    ],
)
def test_parts_are_printed(arguments, shown, monkeypatch):
    monkeypatch.setitem(command.CASES, "large", LONG)
    scale = ("--scale", 0) if "--threads" in arguments else ()
    done = run(*arguments, *scale)

    assert done.exit_code == 0, done.output
    assert shown in done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("step", "--case", "teeny"), "there is no 'teeny' among small, tiny"),
        (("step", "-o", "adma"), "there is no 'adma' among Adadelta"),
        (("--out", "nowhere/results.md"), "nowhere/results.md"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(arguments, complaint):
    done = run(*arguments)

    assert done.exit_code == 2
    assert complaint in " ".join(done.output.replace("│", " ").split())


def test_a_case_that_does_not_fit_into_memory_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(command, "free_memory", lambda: 16.0 * PLAIN_CASE.nbytes)
    monkeypatch.setattr(command, "CASES", {"plain": PLAIN_CASE})

    assert [*command._steps(["plain"], ["SGD"], (1,), 0.0)] == []
    assert "Three tensors: left out" in capsys.readouterr().err


def test_the_shipped_report_can_be_rewritten():
    markdown.check(command.RESULTS)
