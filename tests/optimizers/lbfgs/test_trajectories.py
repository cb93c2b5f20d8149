"""L-BFGS: torch's trajectory and state, bit for bit, and what they mean."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from polyak import LBFGS
from polyak.optimizers import lbfgs
from tests.optimizers.lbfgs.runs import (
    C64,
    C128,
    F32,
    F64,
    SEARCHES,
    Run,
    assert_same,
    draw,
    network,
    quadratic,
    rosenbrock,
)

# The same as torch

PROBLEMS = [
    (rosenbrock, F32),
    (rosenbrock, F64),
    (rosenbrock, C64),
    (rosenbrock, C128),
    (quadratic, F32),
    (quadratic, F64),
    (quadratic, torch.bfloat16),
    (network, F32),
    (network, F64),
    (network, C64),
]
OPTIONS = {
    "default": {},
    "short": {"lr": 0.1},
    "tensor": {"lr": torch.tensor(0.1)},
    "tensor_of_one": {"lr": torch.tensor([0.3], dtype=F64)},
    "one_iteration": {"lr": 0.1, "max_iter": 1},
    "few_evaluations": {"lr": 0.5, "max_iter": 7, "max_eval": 9},
    "one_evaluation": {"lr": 0.1, "max_eval": 1},
    "little_history": {"lr": 0.3, "history_size": 3},
    "coarse_gradient": {"lr": 0.3, "tolerance_grad": 1e-2},
    "coarse_change": {"lr": 0.3, "tolerance_change": 1e-3},
    "far_too_long": {"lr": 50.0, "line_search_fn": "strong_wolfe"},
}


@SEARCHES
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(
    ("problem", "dtype"), PROBLEMS, ids=lambda x: getattr(x, "__name__", str(x)[6:])
)
def test_every_step_has_the_bits_of_torch(problem, dtype, options, search):
    options = {"line_search_fn": search, **options}
    ours = Run(LBFGS, problem(dtype), **options)
    theirs = Run(torch.optim.LBFGS, problem(dtype), **options)
    for _ in range(4):
        assert torch.equal(ours.step(), theirs.step())
        ours.assert_is_at(theirs)


def test_frozen_values_of_torch():
    """Recorded from torch 2.13.0, so that the reference itself cannot drift."""
    run = Run(LBFGS, rosenbrock(F64), max_iter=6, line_search_fn="strong_wolfe")
    losses = [run.step().item() for _ in range(4)]
    assert losses == pytest.approx(
        [1382.5, 3.751228088421485, 3.6016621291010016, 3.0931986690026165], rel=1e-9
    )
    assert run.values[0].tolist() == pytest.approx(
        [-0.298499670800227, 0.08808949704941055, 0.0034667580918377097], rel=1e-9
    )
    assert (run.state["n_iter"], run.state["func_evals"]) == (22, 29)


def test_a_wild_line_search_is_torchs():
    """Losses with many minima make the search zoom, swap ends and crowd them."""
    for seed in range(40):
        phases, start = 3 * draw(seed, 6), 4 * draw(100 + seed, 6)

        def loss(x, phases=phases):
            return (x.square() / 20 + (3 * x + phases).sin()).sum()

        options = {"lr": 3.0, "line_search_fn": "strong_wolfe"}
        ours = Run(LBFGS, ([start], loss), **options)
        theirs = Run(torch.optim.LBFGS, ([start], loss), **options)
        for _ in range(3):
            ours.step()
            theirs.step()
            ours.assert_is_at(theirs)


@SEARCHES
def test_a_new_loss_each_step_gives_torchs_steps(search):
    """Minibatches: the gradient at the same place changes between steps."""
    runs = [
        Run(kind, network(F32), lr=0.1, max_iter=4, line_search_fn=search)
        for kind in (LBFGS, torch.optim.LBFGS)
    ]
    for step in range(8):
        for run in runs:
            inputs = draw(step, 8, 5, dtype=F32)
            run.loss = lambda w1, b1, w2, b2, x=inputs: (
                ((x @ w1 + b1).relu() @ w2 + b2).square().mean()
            )
            run.step()
        runs[0].assert_is_at(runs[1])


# What it computes


def test_the_two_loops_apply_the_bfgs_matrix():
    """Against the dense matrix, updated as its definition says."""
    run = Run(LBFGS, quadratic(F64), lr=0.3, max_iter=6)
    run.step()
    state = run.state
    eye = torch.eye(30, dtype=F64)
    inverse = state["H_diag"] * eye
    for y, s in zip(state["old_dirs"], state["old_stps"], strict=True):
        rho = 1 / y.dot(s)
        left = eye - rho * torch.outer(s, y)
        inverse = left @ inverse @ left.T + rho * torch.outer(s, s)
    assert len(state["old_dirs"]) == 5
    torch.testing.assert_close(state["d"], -inverse @ state["prev_flat_grad"])
    # The secant equation: the newest change of the gradient came of the newest step.
    torch.testing.assert_close(inverse @ state["old_dirs"][-1], state["old_stps"][-1])


def test_the_history_holds_the_steps_that_were_made():
    run = Run(LBFGS, quadratic(F64), lr=0.2, max_iter=1)
    places, grads = [], []
    for _ in range(5):
        places.append(torch.cat([value.reshape(-1) for value in run.values]))
        run.step()
        grads.append(torch.cat([param.grad.reshape(-1) for param in run.params]))
    for pairs, seen in (("old_stps", places), ("old_dirs", grads)):
        expected = [later - earlier for earlier, later in pairwise(seen)]
        for actual, due in zip(run.state[pairs], expected, strict=True):
            torch.testing.assert_close(actual, due)


def test_a_tensor_learning_rate_may_change_in_place():
    """torch keeps the tensor itself as ``t``: the step it remembers changes too."""
    number = Run(LBFGS, quadratic(F64), lr=1.0, max_iter=3)
    tensor = Run(LBFGS, quadratic(F64), lr=torch.tensor(1.0, dtype=F64), max_iter=3)
    for lr in (0.5, 0.1, 0.4, 0.2):
        number.optimizer.param_groups[0]["lr"] = lr
        tensor.optimizer.param_groups[0]["lr"].fill_(lr)
        number.step()
        tensor.step()
        assert_same(tensor.values, number.values)


def test_history_size_may_change():
    run = Run(LBFGS, quadratic(F64), lr=0.3, max_iter=8)
    group = run.optimizer.param_groups[0]
    for size in (5, 2, 7):
        group["history_size"] = size
        run.step()
        assert len(run.state["old_dirs"]) == size
        assert len(run.state["al"]) == size


def test_step_returns_what_the_closure_first_returned():
    x = torch.tensor([3.0], requires_grad=True)
    optimizer = LBFGS([x], lr=0.1)
    returned = []

    def closure():
        optimizer.zero_grad()
        x.square().sum().backward()
        returned.append(x.square().sum().item())
        return returned[-1]

    assert optimizer.step(closure) is returned[0]
    assert len(returned) > 1


def test_on_other_devices_a_multiple_is_added_too():
    """There the factor is not read, so that nothing waits for it."""

    class Elsewhere(Tensor):
        is_cpu = False

    total, vector, factor = draw(0, 1000), draw(1, 1000), draw(2, 1)[0]
    here, there = total.clone(), total.clone().as_subclass(Elsewhere)
    for tensor in (here, there):
        lbfgs._add_multiple(tensor, vector, factor, sign=-1)
    torch.testing.assert_close(there.as_subclass(Tensor), here)
