"""What a race comes to: the standings, the table, the live display, the picture."""

import math
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from polyak.pictures import style
from polyak.race import (
    Evaluation,
    Lap,
    RaceError,
    Results,
    Score,
    classification,
    lineup,
    picture,
    podium,
    race,
    rank,
    report,
)


def points(**options):
    """Four points and two classes, easily told apart."""
    inputs, labels = torch.eye(2).repeat(2, 1), [0, 1, 0, 1]
    return classification(
        "points", inputs, labels, lambda: nn.Linear(2, 2), test_fraction=0.5, **options
    )


# Standings


def lap(name="sgd", lr=0.1, seed=0, accuracy=0.9, loss=0.5, **changes):
    (contender,) = lineup([name], [lr])
    seen = Lap(
        contender,
        seed,
        losses=(2.0, 1.0, loss),
        evaluations=(Evaluation(3, Score(loss, accuracy)),),
        step_seconds=0.002,
        optimizer_seconds=0.00003,
        state_bytes=1200,
    )
    return replace(seen, **changes)


def test_sorted_by_accuracy_then_loss_and_diverged_last():
    laps = [
        lap(lr=0.1, accuracy=0.9, loss=0.3),
        lap(lr=0.2, accuracy=0.9, loss=0.2),
        lap(lr=0.3, accuracy=0.8, loss=0.1),
        lap(lr=0.4, accuracy=1.0, losses=(2.0, math.nan)),
        lap("adam", lr=0.5, accuracy=0.85),
        lap("adamw", lr=0.6, evaluations=(), losses=(math.inf,)),
    ]
    table = rank(laps)
    assert [row.contender.lr for row in table] == [0.2, 0.1, 0.5, 0.3, 0.4, 0.6]
    assert [row.place for row in table] == [1, None, 2, None, None, None]
    assert [row.contender.lr for row in podium(table)] == [0.2, 0.5]


def test_seeds_are_averaged_and_steps_need_every_seed():
    (row,) = rank([lap(seed=0, accuracy=0.8), lap(seed=1, accuracy=0.9)])
    assert row.accuracy == pytest.approx(0.85)
    assert row.steps_to(0.8) == 3
    assert row.steps_to(0.9) is None


# The report


def shown(results, **options):
    console = Console(file=StringIO(), **options)
    report.show(console, results)
    return console.file.getvalue()


def rows(text):
    """The rows of the table: what is between its rule and the next empty line."""
    lines = [line.strip() for line in text.splitlines()]
    start = next(i for i, line in enumerate(lines) if "──" in line) + 1
    return lines[start : lines.index("", start)]


def results_of(*laps, seeds=(0,), planned=None):
    return Results(points(target=0.9, epochs=3), seeds, laps, planned or len(laps))


def test_the_table_tells_all_that_was_measured():
    text = shown(
        results_of(
            lap("adamw", lr=0.003, accuracy=0.9875, loss=0.04321),
            lap("sgd(momentum=0.9)", accuracy=0.5, optimizer_seconds=None),
            lap("adam", losses=(math.nan,), evaluations=(), step_seconds=2.5),
        )
    )
    assert [" ".join(line.split()) for line in rows(text)] == [
        "1 AdamW 0.003 98.75 % 0.0432 3 2.00 ms 30 µs 1.2 kB",
        "2 SGD(momentum=0.9) 0.1 50.00 % 0.5000 - 2.00 ms - 1.2 kB",
        "Adam 0.1 - diverged - 2.50 s 30 µs 1.2 kB",
    ]
    assert "AdamW at lr 0.003 wins on points, after 3 epochs with seed 0." in text
    assert "90 %" in text
    assert "\x1b" not in text


def test_a_stopped_race_shows_what_was_finished():
    text = shown(results_of(lap(lr=0.1), lap(lr=0.2), planned=5))
    assert "Stopped after 2 of 5 laps." in text
    assert len(rows(text)) == 2
    assert shown(results_of(planned=5)) == "Stopped after 0 of 5 laps.\n"


def test_several_seeds_have_a_spread():
    text = shown(
        results_of(lap(seed=0, accuracy=0.8), lap(seed=1, accuracy=0.9), seeds=(0, 1))
    )
    assert "85.00 ± 7.07 %" in text
    assert "with seeds 0 to 1." in text


def test_a_race_that_nobody_survived_has_no_winner():
    text = shown(results_of(lap(losses=(math.nan,))))
    assert "diverged" in text
    assert "wins" not in text


def test_on_a_terminal_the_race_is_shown_while_it_runs():
    console = Console(file=StringIO(), force_terminal=True, width=100)
    task = points(epochs=2)
    contenders = lineup(["sgd"], [0.1, 0.2])
    with report.watching(console, task, laps=2) as watch:
        race(task, contenders, watch=watch)
    text = console.file.getvalue()
    assert "lap 2 of 2: SGD at lr 0.2" in text
    assert "learning" in text


def test_elsewhere_nothing_is_shown_before_the_end():
    console = Console(file=StringIO())
    with report.watching(console, points(), laps=1) as watch:
        race(points(), lineup(["sgd"], [0.1]), watch=watch)
    assert console.file.getvalue() == ""


# The picture


def test_the_picture_is_written(tmp_path):
    image = pytest.importorskip("matplotlib.image")
    path = tmp_path / "race.png"
    results = race(points(), lineup(["sgd", "adam"], [0.1, 0.2]), seeds=[0, 1])
    picture.draw(results, path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    pixels = image.imread(path)
    assert pixels.shape[0] > 800
    assert pixels.shape[1] > 1500
    rgb = (255 * pixels[..., :3]).round()
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (rgb == colour).all(axis=-1).any()


def test_the_curve_is_an_unbiased_exponential_mean():
    row = rank([lap(losses=(4.0, 2.0, 1.0))])[0]
    (curve,) = picture._smooth(row, memory=2)
    assert curve.tolist() == pytest.approx([4, (2 + 4 / 2) / 1.5, (1 + 1 + 1) / 1.75])


def test_labels_keep_apart_and_move_as_little_as_may_be():
    gap = style.LABEL_GAP
    assert style.apart([0.2, 0.8]) == pytest.approx([0.2, 0.8])
    assert style.apart([0.5, 0.5]) == pytest.approx([0.5 - gap / 2, 0.5 + gap / 2])
    assert style.apart([0.5, -1.0, 0.0]) == pytest.approx([0.5, 0, gap])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("race.txt", r"as 'race\.txt': end its name in \.png"),
        ("race", "no picture can be written as 'race'"),
        ("nowhere/race.png", "no directory 'nowhere' for the picture"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused(path, message):
    with pytest.raises(RaceError, match=message):
        picture.check_path(Path(path))
