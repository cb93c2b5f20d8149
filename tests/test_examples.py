"""The examples run, and find what is known to be there."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import polyak
from examples import closure, own_optimizer, polynomial_sine

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
