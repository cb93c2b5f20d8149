"""The command line, called as a user would call it."""

import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import polyak
from polyak.cli import INTERRUPTED, _summary, app

MINE = """
from dataclasses import replace

import torch
from polyak.race import classification


def task():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat(40)
    inputs = torch.randn(80, 3, generator=generator) + 3 * labels[:, None]
    return classification("blobs", inputs, labels, lambda: torch.nn.Linear(3, 2))


def interrupted():
    made = task()
    models = iter(range(3))  # one for a check before the start, two for laps

    def model():
        if next(models, None) is None:
            raise KeyboardInterrupt
        return made.model()

    return replace(made, model=model)


def wrong():
    raise ValueError("a mistake in the task")
"""


@pytest.fixture
def polyak_(tmp_path, monkeypatch):
    """The command line, in a directory that holds the module ``mine``."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    threads = torch.get_num_threads()
    yield lambda *arguments: CliRunner().invoke(app, arguments)
    torch.set_num_threads(threads)
    sys.modules.pop("mine", None)


def table(text):
    """The numbered rows of a race's table, in words."""
    words = [line.split() for line in text.splitlines()]
    return [row for row in words if row and row[0].isdigit()]


def test_race(polyak_, tmp_path):
    result = polyak_(
        *("race", "--task", "mine:task", "-o", "adam", "-o", "sgd(momentum=0.9)"),
        *("--lr", "0.1", "--lr", "0.01", "--epochs", "12", "--target", "0.75"),
    )
    assert result.exit_code == 0
    assert {row[1] for row in table(result.output)} == {"Adam", "SGD(momentum=0.9)"}
    assert {row[2] for row in table(result.output)} <= {"0.1", "0.01"}
    assert "75 %" in result.output
    assert "on blobs, after 12 epochs with seed 0." in result.output
    assert "Loss curves: race.png" in result.output
    assert (tmp_path / "race.png").read_bytes().startswith(b"\x89PNG")


def test_race_writes_the_picture_elsewhere_or_not_at_all(polyak_, tmp_path):
    short = ("race", "--task", "mine:task", "-o", "sgd", "--lr", "0.1", "--epochs", "1")
    assert polyak_(*short, "--out", "curves.svg").exit_code == 0
    assert "<svg" in (tmp_path / "curves.svg").read_text()
    result = polyak_(*short, "--no-plot")
    assert result.exit_code == 0
    assert "Loss curves" not in result.output
    assert not (tmp_path / "race.png").exists()


def test_race_is_repeatable_and_averages_over_seeds(polyak_):
    call = ("race", "--task", "mine:task", "-o", "sgd", "--lr", "0.01", "--no-plot")
    first, again, other = (
        table(polyak_(*call, "--seed", seed).output)[0][:6] for seed in "778"
    )
    assert first == again != other
    result = polyak_(*call, "--seed", "7", "--seeds", "2")
    assert "with seeds 7 to 8." in result.output
    assert "±" in table(result.output)[0]


def test_ctrl_c_leaves_the_table_and_the_picture_of_what_was_finished(
    polyak_, tmp_path
):
    result = polyak_("race", "--task", "mine:interrupted", "-o", "sgd")
    assert result.exit_code == INTERRUPTED
    assert "Stopped after 2 of 3 laps." in result.output
    assert len(table(result.output)) == 1
    assert (tmp_path / "race.png").exists()


def test_a_race_that_all_lose_has_no_picture(polyak_, tmp_path):
    result = polyak_("race", "--task", "mine:task", "-o", "sgd(lr=1e38)")
    assert result.exit_code == 0
    assert "diverged" in result.output
    assert not (tmp_path / "race.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "mine"), "'mine' does not name a task"),
        (("--task", "mine:nothing"), "module 'mine' has no 'nothing'"),
        (("-o", "adamm"), "no optimizer 'adamm'"),
        (("-o", "sgd(speed=1)"), "SGD(speed=1) at lr 0.03 refuses"),
        (("--out", "race.doc"), "no picture can be written as 'race.doc'"),
    ],
)
def test_a_mistake_is_one_line_on_the_error_stream(polyak_, arguments, message):
    result = polyak_("race", "--task", "mine:task", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_mistake_in_the_users_task_keeps_its_traceback(polyak_):
    result = polyak_("race", "--task", "mine:wrong")
    assert isinstance(result.exception, ValueError)
    assert str(result.exception) == "a mistake in the task"


def test_list_has_every_optimizer_in_a_sentence(polyak_):
    result = polyak_("list")
    assert result.exit_code == 0
    for name, optimizer in polyak.optimizers.all_optimizers().items():
        assert name in result.output
        assert _summary(optimizer)
    assert "https:" not in result.output
    assert "`" not in result.output


def test_a_summary_is_the_first_sentence_without_markup():
    class Documented:
        """The heavy ball of `Polyak et al. <https://example.org>`_ for ``f``, as
        :class:`Other` does.
        It has a second sentence.

        And a second paragraph.
        """

    summary = "The heavy ball of Polyak et al. for f, as Other does."
    assert _summary(Documented) == summary


def test_explain_prints_the_rule_and_the_kernel(polyak_):
    result = polyak_("explain", "adamw")
    assert result.exit_code == 0
    assert result.output.startswith("@staticmethod\ndef rule(")
    assert "beta1, beta2 = betas" in result.output
    parameter = torch.zeros(4, 4, requires_grad=True)
    parameter.grad = torch.ones(4, 4)
    kernel = str(polyak.explain(polyak.AdamW([parameter]), kernel=True))
    assert kernel.strip() in result.output


@pytest.mark.parametrize("name", polyak.optimizers.all_optimizers())
def test_explain_knows_every_optimizer(polyak_, name):
    result = polyak_("explain", name.upper())
    assert result.exit_code == 0
    assert result.output.startswith(("@", "def "))


def test_explain_suggests_a_name(polyak_):
    result = polyak_("explain", "admw")
    assert result.exit_code == 2
    assert "no optimizer 'admw'" in result.stderr
    assert "adamw" in result.stderr.lower()


def test_schedule_draws_and_prints_values(polyak_):
    result = polyak_("schedule", "warmup(500) | cosine(10_000)", "--lr", "3e-4")
    assert result.exit_code == 0
    assert result.output.startswith("warmup(500) | cosine(10000)\n")
    assert "3e-4 │" in result.output
    words = [line.split() for line in result.output.splitlines()]
    assert words[words.index(["step", "lr"]) :][:7] == [
        ["step", "lr"],
        ["0", "6e-07"],
        ["499", "0.0003"],
        ["2625", "0.0002678"],
        ["5250", "0.0001618"],
        ["7875", "4.818e-05"],
        ["10500", "0"],
    ]


def test_schedule_writes_the_picture_too(polyak_, tmp_path):
    result = polyak_("schedule", "step(30)", "--steps", "90", "--out", "step.svg")
    assert result.exit_code == 0
    assert "Picture: step.svg" in result.output
    assert "<svg" in (tmp_path / "step.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cosin(100)",), "'cosin'. Did you mean 'cosine'?"),
        (("cosine(-1)",), "Invalid steps: -1 (cosine needs steps > 0)"),
        (("step(30)",), "step(30) does not say when it ends: give the number of steps"),
        (("cosine(9)", "--out", "a.doc"), "no picture can be written as 'a.doc'"),
        (("absolute(cosine(9))", "--lr", "1"), "gives the values themselves"),
    ],
)
def test_schedule_tells_a_mistake_without_a_traceback(polyak_, arguments, message):
    result = polyak_("schedule", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


def test_python_m_polyak_is_the_command_line():
    command = [sys.executable, "-m", "polyak", "--help"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(name in output for name in ("race", "list", "explain", "schedule"))


def test_the_library_imports_nothing_of_the_command_line():
    code = "import sys, polyak, polyak.race; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert not {"typer", "rich", "matplotlib", "sklearn"} & set(output.split())
