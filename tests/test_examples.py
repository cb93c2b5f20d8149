"""The examples run, and find what is known to be there."""

import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import polyak
from examples import (
    closure,
    killed_and_resumed,
    own_optimizer,
    polynomial_sine,
    resumable,
    schedule_gallery,
    warmup_then_plateau,
)

FOLDER = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def _one_thread_and_own_numbers():
    """Small networks are fastest on one thread; the random numbers stay in the test."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)


def test_the_readme_lists_every_example():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for script in FOLDER.glob("*.py"):
        assert f"({script.name})" in readme


def test_the_polynomial_is_the_least_squares_one(capsys):
    x = np.linspace(-math.pi, math.pi, 200)
    expected = np.polynomial.polynomial.polyfit(x, np.sin(x), 3)

    assert polynomial_sine.main() == pytest.approx(expected, abs=5e-4)
    assert " +0.8546 x " in capsys.readouterr().out


def test_head_and_base_learn_and_repeat():
    pytest.importorskip("sklearn")
    from examples import head_and_base

    accuracy = head_and_base.main(seed=1)

    assert accuracy > 0.93
    assert head_and_base.main(seed=1) == accuracy


def test_lbfgs_and_sgd_find_the_least_squares_line():
    generator = torch.Generator().manual_seed(0)
    x = np.linspace(-1, 1, 50)
    y = 3 * x - 1 + 0.1 * torch.randn(50, generator=generator).numpy()
    slope_and_intercept = np.polyfit(x, y, 1)

    found = closure.main()

    assert found["LBFGS"] == pytest.approx(slope_and_intercept, abs=1e-5)
    assert found["SGD"] == pytest.approx(slope_and_intercept, abs=1e-3)


def test_own_optimizer_reaches_the_minimum_in_a_kernel(capsys):
    point = own_optimizer.main()

    assert point.tolist() == pytest.approx([0, -1], abs=0.02)
    assert "Agree: 1 of 1 parameters in 1 kernel" in capsys.readouterr().out


def test_own_optimizer_does_the_steps_that_one_does_by_hand():
    point = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    optimizer = own_optimizer.Agree([point], lr=0.1, beta=0.9)

    point.grad = torch.tensor([3.0, -0.01, 0.0])
    optimizer.step()
    # Averages 0.1, -0.1 and 0, over 1 - 0.9.
    assert point.tolist() == pytest.approx([0.9, -1.9, 0.5], rel=1e-6)

    point.grad = torch.tensor([5.0, 0.01, -1.0])
    optimizer.step()
    # Averages 0.19, 0.01 and -0.1, over 1 - 0.81.
    by_hand = [0.9 - 0.1, -1.9 - 0.1 / 19, 0.5 + 1 / 19]
    assert point.tolist() == pytest.approx(by_hand, rel=1e-6)
    assert optimizer.state[point]["sign_avg"].tolist() == pytest.approx(
        [0.19, 0.01, -0.1], rel=1e-5
    )
    assert [served.engine for served in polyak.explain(optimizer).served] == ["cpu"]


def test_the_gallery_shows_every_schedule(tmp_path):
    path = tmp_path / "gallery.png"
    figure = schedule_gallery.main(path)
    curves = {axes.get_title(): axes.lines[0].get_ydata() for axes in figure.axes}
    not_drawn = [
        name
        for name in polyak.schedules.__all__
        if not any(re.search(rf"\b{name}\(", title) for title in curves)
    ]

    assert not_drawn == ["Schedule", "absolute", "parse"]
    assert curves["step(30, 0.5)"][[0, 29, 30, 119]].tolist() == [1, 1, 0.5, 0.125]
    assert len(curves) == 21
    assert path.read_bytes().startswith(b"\x89PNG")


def test_head_and_base_follow_schedules_of_their_own():
    pytest.importorskip("sklearn")
    from examples import multiplicative_head_and_base

    history = multiplicative_head_and_base.main(epochs=12, seed=1)
    base_rates, head_rates, accuracies = zip(*history, strict=True)

    thawed = [1e-4 * 2**epoch for epoch in range(6)]
    settled = [thawed[-1] * 0.75**epoch for epoch in range(1, 7)]
    assert base_rates == pytest.approx(thawed + settled)
    assert head_rates == pytest.approx([1e-2 * 0.75**epoch for epoch in range(12)])
    assert accuracies[-1] > 0.92 > accuracies[0]
    assert multiplicative_head_and_base.main(epochs=12, seed=1) == history


def test_the_plateau_begins_where_the_warmup_ends():
    rates, losses = zip(*warmup_then_plateau.main(), strict=True)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    alone = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.3, patience=2
    )
    expected = [0.1]
    # The loss of epoch 4 ends the warm-up: the plateau sees the next one first.
    for loss in losses[5:-1]:
        alone.step(loss)
        expected += alone.get_last_lr()

    assert rates[:6] == pytest.approx([0.01, 0.028, 0.046, 0.064, 0.082, 0.1])
    assert rates[5:] == pytest.approx(expected)
    assert len(set(rates[5:])) >= 4
    assert min(losses) < 1.02 < 1.2 < losses[5]


def test_a_killed_run_is_resumed_bit_for_bit_in_every_order(capsys):
    same = killed_and_resumed.main()

    assert same == dict.fromkeys(killed_and_resumed.ORDERS, [True] * 3)
    assert "exit code -9 in step 63; 60 steps are kept" in capsys.readouterr().out


def test_the_rates_of_the_killed_run_are_warmup_restarts_and_drop():
    _, rates, weights = killed_and_resumed.train()

    def rate(k):
        if k < 10:
            factor = 0.1 + 0.9 * k / 10
        else:
            since, period = (k - 10, 15) if k < 25 else (k - 25, 30)
            since, period = (k - 55, 60) if k >= 55 else (since, period)
            factor = (1 + math.cos(math.pi * since / period)) / 2
        return 0.1 * factor * 0.3 ** ((k >= 50) + (k >= 80))

    assert rates == pytest.approx([rate(k) for k in range(100)])
    assert weights.tolist() == pytest.approx(
        torch.linspace(-1, 1, 10).tolist(), abs=0.1
    )


KILLED_IN_THE_SEVENTH_SAVE = """
import os, signal, sys
from pathlib import Path
from examples import resumable

path, saves, replace = Path(sys.argv[1]), [], os.replace

def kill_or_replace(source, target):
    if Path(target).name == path.name:  # and no compiled kernel
        saves.append(target)
    os.kill(os.getpid(), signal.SIGKILL) if len(saves) == 7 else replace(source, target)

os.replace = kill_or_replace
resumable.main(path)
"""


def test_a_run_that_is_killed_and_started_again_goes_on_bit_for_bit(tmp_path):
    expected = resumable.main(tmp_path / "at_once.pt")

    path = tmp_path / "run.pt"
    command = [sys.executable, "-c", KILLED_IN_THE_SEVENTH_SAVE, path]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    killed = subprocess.run(command, env={**environment, "OMP_NUM_THREADS": "1"})
    kept = polyak.load(path)["losses"]
    files = sorted(file.suffix for file in tmp_path.iterdir())

    assert killed.returncode == -signal.SIGKILL
    assert kept == expected[:6]
    assert files == [".pt", ".pt", ".saving"]
    assert resumable.main(path) == expected
    assert len(list(tmp_path.iterdir())) == 2


def test_averages_of_weights_are_better_than_the_last_ones(tmp_path, capsys):
    pytest.importorskip("sklearn")
    from examples import averaging

    path = tmp_path / "averaging.png"
    accuracies = averaging.main(path, seeds=[0, 1], epochs=12)
    plain = accuracies["plain"]

    for average in ("SWA", "EMA"):
        gains = [a - b for a, b in zip(accuracies[average], plain, strict=True)]
        assert min(gains) > 0.02
        assert min(accuracies[average]) > 0.85
    assert sum(accuracies["SWA"]) > sum(accuracies["SWA without update_bn"])
    assert re.search(r"EMA .* 2 of 2\n", capsys.readouterr().out)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert averaging.main(seeds=[1], epochs=12) == {
        name: column[1:] for name, column in accuracies.items()
    }


def test_three_in_ten_of_the_labels_to_average_over_are_wrong():
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits

    from examples import averaging

    torch.manual_seed(0)
    images, labels, test_images, test_labels = averaging.noisy_digits()
    all_images, all_labels = load_digits(return_X_y=True)
    right = {
        tuple(image): label for image, label in zip(all_images, all_labels, strict=True)
    }

    def wrong(images, labels):
        pixels = (images * 16).tolist()
        pairs = zip(pixels, labels.tolist(), strict=True)
        return np.mean([right[tuple(image)] != label for image, label in pairs])

    assert wrong(images, labels) == pytest.approx(0.3, abs=0.04)
    assert wrong(test_images, test_labels) == 0
    assert len(images) + len(test_images) == len(all_images)
