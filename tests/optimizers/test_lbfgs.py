"""L-BFGS: torch's trajectory and state, bit for bit; and what torch gets wrong."""

import math
import pickle
import re
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from polyak import LBFGS
from polyak.linalg import Point, strong_wolfe
from polyak.optimizers import lbfgs

F32, F64 = torch.float32, torch.float64
C64, C128 = torch.complex64, torch.complex128
SEARCHES = pytest.mark.parametrize("search", [None, "strong_wolfe"])


# Problems: the parameters to begin with, and the loss


def draw(seed, *shape, dtype=F64):
    """Normal numbers: the same for each dtype, but for rounding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=F64).to(dtype)


def rosenbrock(dtype):
    def loss(x):
        flat, curved = (1 - x[:-1]).abs().square(), (x[1:] - x[:-1] ** 2).abs().square()
        return (flat + 100 * curved).sum()

    start = torch.tensor([-1.5, 2.0, 0.3], dtype=dtype)
    return [start + 0.5j if dtype.is_complex else start], loss


def quadratic(dtype):
    factor = draw(0, 30, 30)
    matrix = (factor @ factor.T / 30 + 0.1 * torch.eye(30)).to(dtype)
    linear = draw(1, 30, dtype=dtype)

    def loss(a, b):
        x = torch.cat([a.reshape(-1), b])
        return 0.5 * x @ matrix @ x - linear @ x

    return [torch.zeros(10, 2, dtype=dtype), torch.zeros(10, dtype=dtype)], loss


def network(dtype):
    inputs = draw(2, 64, 5, dtype=dtype)
    targets = inputs.sum(1, keepdim=True).sin()

    def loss(w1, b1, w2, b2):
        hidden = (inputs @ w1 + b1).tanh()
        return (hidden @ w2 + b2 - targets).abs().square().mean()

    shapes = (5, 16), (16,), (16, 1), (1,)
    return [0.4 * draw(3 + i, *s, dtype=dtype) for i, s in enumerate(shapes)], loss


class Run:
    """An optimizer, its own parameters, and its closure.

    Args:
        kind: the class of the optimizer.
        problem: the starting point and the loss.
        options: the arguments of the optimizer.
    """

    def __init__(self, kind, problem, **options):
        starts, self.loss = problem
        self.params = [start.clone().requires_grad_() for start in starts]
        self.optimizer = kind(self.params, **deepcopy(options))
        self.calls = 0

    def closure(self):
        self.calls += 1
        self.optimizer.zero_grad()
        loss = self.loss(*self.params)
        loss.backward()
        return loss

    def step(self):
        return self.optimizer.step(self.closure)

    @property
    def values(self):
        return [param.detach().clone() for param in self.params]

    @property
    def state(self):
        return self.optimizer.state[self.params[0]]

    def assert_is_at(self, other):
        assert_same(self.values, other.values)
        assert_same(self.state, other.state)
        assert self.calls == other.calls


def assert_same(actual, expected):
    """The same structure, types, dtypes and bits."""
    assert type(actual) is type(expected)
    if isinstance(expected, Tensor):
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        assert torch.equal(actual, expected)
    elif isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    else:
        assert actual == expected


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
    for _ in range(8):
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


# The line search

LINES = {
    "parabola": lambda t: (t - 3) ** 2,
    "exponential": lambda t: torch.exp(t / 4) - t,
    "well": lambda t: -t / (t**2 + 2),
    "quartic": lambda t: (t + 0.004) ** 5 - 2 * (t + 0.004) ** 4,
    "waves": lambda t: (1 - t).abs() ** 1.5 + 0.1 * torch.sin(7 * t) - 0.5 * t,
    "wall": lambda t: -torch.log(2 - t) - 5 * t,
}


def along(function, dtype=F64):
    """A function of one number as a line: evaluate, direction and start."""

    def evaluate(t):
        x = torch.as_tensor(t, dtype=dtype).clone().requires_grad_()
        loss = function(x)
        (slope,) = torch.autograd.grad(loss, x)
        return loss.item(), slope.reshape(1)

    loss, grad = evaluate(0)
    direction = torch.ones(1, dtype=dtype)
    return evaluate, direction, Point(0, loss, grad, grad.dot(direction))


@pytest.mark.parametrize("first", [1e-3, 0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("line", LINES)
def test_the_step_found_satisfies_the_strong_wolfe_conditions(line, first):
    """More and Thuente's functions among others, from trials far off on either side."""
    evaluate, direction, start = along(LINES[line])
    assert start.slope < 0
    point, evaluations = strong_wolfe(evaluate, first, direction, start, c2=0.1)
    assert point.loss <= start.loss + 1e-4 * point.t * start.slope
    assert abs(point.slope) <= 0.1 * abs(start.slope)
    assert 1 <= evaluations <= 26
    assert evaluate(point.t) == (point.loss, point.grad)


def test_a_first_trial_that_is_good_is_taken():
    evaluate, direction, start = along(LINES["parabola"])
    point, evaluations = strong_wolfe(evaluate, 2.5, direction, start)
    assert (point.t, evaluations) == (2.5, 1)


@pytest.mark.parametrize("trials", [0, 1, 2])
def test_without_trials_left_the_lowest_end_is_taken(trials):
    evaluate, direction, start = along(lambda t: torch.exp(20 * t) - 21 * t)
    point, evaluations = strong_wolfe(
        evaluate, 50.0, direction, start, max_trials=trials, c2=1e-3, c1=1e-4
    )
    assert point is start
    assert evaluations == 1 + trials


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "grad"])
def test_what_is_not_finite_is_never_taken(bad, where):
    evaluate, direction, start = along(LINES["parabola"])

    def cliff(t):
        loss, grad = evaluate(t)
        if t > 1:
            return (bad, grad) if where == "loss" else (loss, grad * bad)
        return loss, grad

    point, _ = strong_wolfe(cliff, 1000.0, direction, start, c2=0.5)
    assert 0 < point.t <= 1
    assert point.loss < start.loss
    assert point.grad.isfinite().all()


def test_a_first_trial_of_zero_changes_nothing():
    evaluate, direction, start = along(LINES["parabola"])
    assert strong_wolfe(evaluate, 0.0, direction, start) == (start, 0)


def test_the_search_refuses_what_cannot_succeed():
    evaluate, direction, start = along(lambda t: t + 1)
    with pytest.raises(ValueError, match=r"slope 1\.0 at the start is not negative"):
        strong_wolfe(evaluate, 1.0, direction, start)
    with pytest.raises(ValueError, match="choose 0 < c1 < c2 < 1"):
        strong_wolfe(evaluate, 1.0, direction, start, c1=0.9, c2=0.1)


# What torch gets wrong: failures and unusual parameters


class Stop(Exception):
    """What a closure raises in these tests."""


def raising(run, call):
    """The run's closure, which raises at the given call."""

    def closure():
        loss = run.closure()
        if run.calls == call:
            raise Stop
        return loss

    return closure


@pytest.mark.parametrize("call", range(1, 13))
def test_a_line_search_that_is_broken_off_leaves_no_trace(call):
    """The parameters are back, and stepping goes on as if nothing had happened."""
    options = {"max_iter": 1, "line_search_fn": "strong_wolfe"}
    smooth = Run(LBFGS, rosenbrock(F64), **options)
    rough = Run(LBFGS, rosenbrock(F64), **options)
    closure = raising(rough, call)
    while rough.calls + 1 < call:
        before = rough.values
        try:
            rough.optimizer.step(closure)
        except Stop:
            assert_same(rough.values, before)
        else:
            smooth.step()
    for _ in range(5):
        assert_same(rough.values, smooth.values)
        rough.step()
        smooth.step()


def test_a_raise_between_fixed_steps_loses_no_complete_iteration():
    """The third of five iterations raises: two are kept, with their state."""
    whole = Run(LBFGS, quadratic(F64), lr=0.3, max_iter=2, max_eval=9)
    whole.step()
    broken = Run(LBFGS, quadratic(F64), lr=0.3, max_iter=5)

    with pytest.raises(Stop):
        broken.optimizer.step(raising(broken, 4))
    assert_same(broken.values, whole.values)
    for key in ("n_iter", "d", "t", "old_dirs", "old_stps", "prev_flat_grad"):
        assert_same(broken.state[key], whole.state[key])


def spoiled(run, spoil, calls):
    """The run's closure, whose result or gradients are not finite at some calls."""

    def closure():
        loss = run.closure()
        if run.calls in calls and spoil == "loss":
            return loss * math.nan
        if run.calls in calls:
            run.params[0].grad.mul_(math.inf)
        return loss

    return closure


@pytest.mark.parametrize("spoil", ["loss", "gradient"])
@pytest.mark.parametrize("call", range(2, 12))
def test_the_line_search_steps_around_what_is_not_finite(spoil, call):
    run = Run(LBFGS, rosenbrock(F64), line_search_fn="strong_wolfe", max_iter=100)
    run.optimizer.step(spoiled(run, spoil, {call}))
    torch.testing.assert_close(
        run.values[0], torch.ones(3, dtype=F64), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("spoil", ["loss", "gradient"])
@pytest.mark.parametrize("call", range(2, 8))
def test_a_fixed_step_into_what_is_not_finite_is_taken_back(spoil, call):
    options = {"lr": 0.3, "max_iter": max(call - 2, 1), "max_eval": 99}
    clean = Run(LBFGS, quadratic(F64), **options)
    if call > 2:
        clean.step()
    run = Run(LBFGS, quadratic(F64), lr=0.3, max_iter=10)
    with pytest.warns(RuntimeWarning, match="taken back: try a smaller lr") as record:
        run.optimizer.step(spoiled(run, spoil, {call}))
    assert record[0].filename == __file__
    assert run.calls == run.state["func_evals"] == call
    assert_same(run.values, clean.values)
    # The next step begins anew.
    run.step()
    fresh = Run(LBFGS, (clean.values, run.loss), lr=0.3, max_iter=10)
    fresh.step()
    assert_same(run.values, fresh.values)
    assert run.state["n_iter"] == 10


@SEARCHES
@pytest.mark.parametrize("spoil", ["loss", "gradient"])
def test_a_step_that_begins_with_nothing_finite_changes_nothing(spoil, search):
    run = Run(LBFGS, quadratic(F64), lr=0.3, max_iter=4, line_search_fn=search)
    run.step()
    values, state, calls = run.values, deepcopy(run.state), run.calls
    with pytest.warns(RuntimeWarning, match="nothing was changed") as record:
        returned = run.optimizer.step(spoiled(run, spoil, {calls + 1}))
    assert record[0].filename == __file__
    assert returned.isnan() == (spoil == "loss")
    assert_same(run.values, values)
    assert run.state.pop("func_evals") == state.pop("func_evals") + 1
    assert_same(run.state, state)


def test_a_direction_that_is_not_finite_is_not_taken():
    """y·s overflows though loss and gradient do not, and the next direction is NaN."""
    start = torch.tensor([1e20])
    run = Run(LBFGS, ([start], lambda x: 1e18 * x.abs().sum()), lr=2.25e20)
    with pytest.warns(RuntimeWarning, match="taken back"):
        run.step()
    torch.testing.assert_close(run.values[0], torch.tensor([-1.25e20]))
    assert run.state["n_iter"] == 0


@SEARCHES
@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0)], ids=["float", "tensor"])
def test_a_learning_rate_of_zero_moves_nothing(search, lr):
    run = Run(LBFGS, rosenbrock(F32), lr=lr, line_search_fn=search)
    before = run.values
    for _ in range(3):
        run.step()
    assert_same(run.values, before)


LAYOUTS = {
    "channels_last": draw(0, 2, 3, 2, 2).to(memory_format=torch.channels_last),
    "transposed": draw(0, 4, 6).t(),
}


@SEARCHES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_of_a_parameter_does_not_matter(layout, search):
    """torch refuses gradients that are not contiguous."""
    weight = LAYOUTS[layout]
    curve = 1 + torch.arange(24.0, dtype=F64).reshape(weight.shape)

    def run(start):
        def loss(weight):
            return (curve * weight.contiguous().cosh()).sum()

        run = Run(LBFGS, ([start], loss), lr=0.1, line_search_fn=search)
        for _ in range(3):
            run.step()
        (param,) = run.params
        assert param.is_contiguous() == param.grad.is_contiguous()
        return param.detach()

    assert not weight.is_contiguous()
    assert_same(run(weight).contiguous(), run(weight.contiguous()))


def test_gradients_with_gaps_and_lazy_conjugates():
    """A sliced parameter gets what a contiguous one gets; a conjugate is resolved."""
    base = draw(0, 6, 2, dtype=C128)
    expected = Run(
        LBFGS, ([base[:, 0].clone()], lambda w: w.abs().pow(4).sum()), lr=0.1
    )
    sliced = base[:, 0].detach().requires_grad_()
    optimizer = LBFGS([sliced], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = sliced.abs().pow(4).sum()
        loss.backward()
        sliced.grad = sliced.grad.conj_physical().conj()
        assert sliced.grad.is_conj()
        return loss

    for _ in range(3):
        expected.step()
        optimizer.step(closure)
    assert not sliced.is_contiguous()
    assert_same(sliced.detach().contiguous(), expected.values[0])


@SEARCHES
def test_odd_parameters_do_not_disturb(search):
    """Empty ones, ones without gradient and a scalar, mixed with the rest."""
    main, scalar = draw(0, 5), torch.tensor(2.0, dtype=F64)
    empty, unused = torch.zeros(0, 3, dtype=F64), draw(1, 3)

    def loss(main, scalar, *_):
        return (main * scalar - 1).square().sum() + scalar**2

    plain = Run(LBFGS, ([main, scalar], loss), lr=0.1, line_search_fn=search)
    mixed = Run(
        LBFGS, ([main, scalar, empty, unused], loss), lr=0.1, line_search_fn=search
    )
    for _ in range(4):
        plain.step()
        mixed.step()
    for actual, expected in zip(mixed.values[:2], plain.values, strict=True):
        torch.testing.assert_close(actual, expected)
    assert torch.equal(mixed.values[3], unused)
    assert_same(mixed.state["n_iter"], plain.state["n_iter"])


def test_nothing_to_optimize_is_no_error():
    for params in ([torch.zeros(0, requires_grad=True)], [{"params": []}]):
        optimizer = LBFGS(params)
        loss = torch.tensor(1.0)
        assert optimizer.step(lambda loss=loss: loss) is loss
        assert not optimizer.state


def test_sparse_gradients_are_made_dense():
    weight, rows = draw(0, 6, 3), torch.tensor([0, 2, 2, 5])

    def run(sparse):
        param = weight.clone().requires_grad_()
        optimizer = LBFGS([param], lr=0.1)

        def closure():
            optimizer.zero_grad()
            found = torch.nn.functional.embedding(rows, param, sparse=sparse)
            loss = found.cosh().sum()
            loss.backward()
            assert param.grad.is_sparse == sparse
            return loss

        for _ in range(3):
            optimizer.step(closure)
        return param.detach()

    assert_same(run(True), run(False))


@SEARCHES
def test_complex_numbers_are_pairs(search):
    starts, loss = rosenbrock(C128)
    options = {"lr": 0.1, "line_search_fn": search}
    as_complex = Run(LBFGS, (starts, loss), **options)
    pairs = [torch.view_as_real(start) for start in starts]
    as_real = Run(LBFGS, (pairs, lambda x: loss(torch.view_as_complex(x))), **options)
    for _ in range(4):
        as_complex.step()
        as_real.step()
        assert_same(torch.view_as_real(as_complex.values[0]), as_real.values[0])


def test_a_parameter_given_twice_is_moved_once():
    once = Run(LBFGS, quadratic(F64), lr=0.1)
    twice = Run(LBFGS, quadratic(F64), lr=0.1)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        twice.optimizer = LBFGS([*twice.params, twice.params[0]], lr=0.1)
    once.step()
    twice.step()
    assert_same(twice.values, once.values)


def test_a_replaced_parameter_is_seen():
    run = Run(LBFGS, ([torch.zeros(2)], lambda x: (x - 1).square().sum()), lr=0.1)
    run.step()
    new = torch.full((3,), 5.0, requires_grad=True)
    run.params[0] = run.optimizer.param_groups[0]["params"][0] = new
    run.step()
    assert (new < 5).all()


# Saving and copying


@SEARCHES
@pytest.mark.parametrize(("first", "then"), [(0, 1), (1, 0), (0, 0)])
@pytest.mark.parametrize("dtype", [F32, F64, C64], ids=str)
def test_a_state_dict_continues_in_either_library(first, then, dtype, search):
    kinds = LBFGS, torch.optim.LBFGS
    options = {"lr": 0.1, "max_iter": 5, "line_search_fn": search}
    straight = Run(kinds[first], rosenbrock(dtype), **options)
    for _ in range(3):
        straight.step()
    saved = deepcopy(straight.optimizer.state_dict())
    resumed = Run(kinds[then], (straight.values, straight.loss), lr=7)
    resumed.optimizer.load_state_dict(saved)
    for _ in range(4):
        straight.step()
        resumed.step()
        assert_same(resumed.values, straight.values)
        assert_same(resumed.state, straight.state)


def test_a_state_dict_taken_before_a_step_stays_as_it_was():
    run = Run(LBFGS, quadratic(F64), lr=0.1, max_iter=3)
    run.step()
    taken = run.optimizer.state_dict()
    copy = deepcopy(taken)
    run.step()
    assert_same(taken, copy)


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize(
    "copy",
    [deepcopy, lambda x: pickle.loads(pickle.dumps(x))],
    ids=["deepcopy", "pickle"],
)
@SEARCHES
def test_copies_continue_as_the_original(copy, steps, search):
    """torch's lose ``_params`` and cannot step."""
    run = Run(LBFGS, rosenbrock(F64), lr=0.1, max_iter=5, line_search_fn=search)
    for _ in range(steps):
        run.step()
    twin = Run(LBFGS, rosenbrock(F64))
    twin.optimizer = copy(run.optimizer)
    twin.params = twin.optimizer.param_groups[0]["params"]
    for _ in range(3):
        run.step()
        twin.step()
        assert_same(twin.values, run.values)
        assert_same(twin.state, run.state)


@pytest.mark.parametrize("key", ["d", "prev_flat_grad", "old_dirs", "old_stps"])
def test_the_state_of_another_model_is_refused(key):
    """One vector of another length, anywhere, and nothing is loaded."""
    run = Run(LBFGS, quadratic(F64), lr=0.1, max_iter=4)
    run.step()
    damaged = deepcopy(run.optimizer.state_dict())
    damaged["param_groups"][0]["lr"] = 7.0
    values = damaged["state"][0]
    if isinstance(values[key], list):
        values[key][-1] = torch.zeros(31)
    else:
        values[key] = torch.zeros(31)
    state = deepcopy(run.state)
    with pytest.raises(ValueError, match=rf"{key} of shape \(31,\) .* is \(30,\)"):
        run.optimizer.load_state_dict(damaged)
    assert_same(run.state, state)
    assert run.optimizer.param_groups[0]["lr"] == 0.1


def test_the_state_of_another_order_is_refused():
    """It is one vector of all parameters: names cannot tell its parts apart."""
    x, y = (torch.zeros(2, requires_grad=True) for _ in "xy")
    saved = LBFGS([("x", x), ("y", y)]).state_dict()
    with pytest.raises(ValueError, match=r"in the order \['x', 'y'\]"):
        LBFGS([("y", y), ("x", x)]).load_state_dict(saved)
    LBFGS([("x", x), ("y", y)]).load_state_dict(saved)


# The contract


def test_it_is_torchs_by_name_and_uses_nothing_of_it(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("torch's code ran")

    for kind in (torch.optim.LBFGS, torch.optim.Optimizer):
        for name, value in list(vars(kind).items()):
            if callable(value) and not isinstance(value, type):
                monkeypatch.setattr(kind, name, refuse)
    run = Run(LBFGS, rosenbrock(F64), line_search_fn="strong_wolfe")
    assert isinstance(run.optimizer, torch.optim.LBFGS)
    run.step()
    run.optimizer.load_state_dict(run.optimizer.state_dict())
    deepcopy(run.optimizer).zero_grad()
    assert "LBFGS" in repr(run.optimizer)
    run.step()


def test_step_hooks_run_once_a_step():
    run = Run(LBFGS, quadratic(F64), lr=0.1)
    seen = []
    run.optimizer.register_step_pre_hook(lambda *_: seen.append(("pre", run.calls)))
    run.optimizer.register_step_post_hook(lambda *_: seen.append(("post", run.calls)))
    run.step()
    assert seen == [("pre", 0), ("post", run.calls)]


def test_the_closure_may_compute_gradients_even_under_no_grad():
    run = Run(LBFGS, quadratic(F64), lr=0.1)
    with torch.no_grad():
        run.step()
    assert run.state["n_iter"] == 20


def test_a_step_needs_a_closure_that_returns_a_loss():
    run = Run(LBFGS, quadratic(F64))
    with pytest.raises(TypeError, match=r"closure that clears .* and returns it"):
        run.optimizer.step()
    assert not run.optimizer.state
    with pytest.raises(TypeError, match="end it with `return loss`"):
        run.optimizer.step(lambda: None)
    assert not run.optimizer.state


BAD = {
    "lr": (-1.0, ValueError, "Invalid learning rate: -1.0 (LBFGS needs lr >= 0)"),
    "max_iter": (0, ValueError, "max_iter >= 1"),
    "max_eval": (0, ValueError, "max_eval >= 1"),
    "tolerance_grad": (-1e-3, ValueError, "-0.001 (LBFGS needs tolerance_grad >= 0)"),
    "tolerance_change": (
        math.nan,
        ValueError,
        "nan (LBFGS needs tolerance_change >= 0)",
    ),
    "history_size": (0, ValueError, "0 (LBFGS needs history_size >= 1)"),
    "line_search_fn": ("armijo", RuntimeError, "only 'strong_wolfe' is supported"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_refused(name):
    """At construction, and before a step changes anything if they are set later."""
    value, error, message = BAD[name]
    starts, _ = quadratic(F64)
    with pytest.raises(error, match=re.escape(message)):
        LBFGS(starts, **{name: value})
    run = Run(LBFGS, quadratic(F64))
    run.optimizer.param_groups[0][name] = value
    with pytest.raises(error, match=re.escape(message)):
        run.step()
    assert run.calls == 0


def test_other_refusals():
    x, y = torch.zeros(1), torch.zeros(1)
    with pytest.raises(TypeError, match=r"whole number for history_size, got 2\.5"):
        LBFGS([x], history_size=2.5)
    with pytest.raises(ValueError, match="Tensor lr must be 1-element"):
        LBFGS([x], lr=torch.ones(2))
    with pytest.raises(ValueError, match=r"per-parameter options \(parameter groups\)"):
        LBFGS([{"params": [x]}, {"params": [y]}])
    optimizer = LBFGS([x])
    with pytest.raises(ValueError, match=r"per-parameter options \(parameter groups\)"):
        optimizer.add_param_group({"params": [y]})
    assert len(optimizer.param_groups) == 1


def torch_error_inputs():
    from torch.testing._internal.common_optimizers import optim_db

    (info,) = [info for info in optim_db if info.optim_cls is torch.optim.LBFGS]
    return info.optim_error_inputs_func("cpu", F32)


def test_torchs_own_error_inputs():
    inputs = torch_error_inputs()
    assert inputs
    for entry in inputs:
        given = entry.optimizer_error_input
        params = [torch.zeros(1)] if given.params is None else given.params
        if issubclass(entry.error_type, Warning):
            with pytest.warns(entry.error_type, match=entry.error_regex):
                LBFGS(params, **given.kwargs)
            continue
        with pytest.raises(entry.error_type, match=entry.error_regex):
            LBFGS(params, **given.kwargs)


def test_on_other_devices_a_multiple_is_added_too():
    """There the factor is not read, so that nothing waits for it."""

    class Elsewhere(Tensor):
        is_cpu = False

    total, vector, factor = draw(0, 1000), draw(1, 1000), draw(2, 1)[0]
    here, there = total.clone(), total.clone().as_subclass(Elsewhere)
    for tensor in (here, there):
        lbfgs._add_multiple(tensor, vector, factor, sign=-1)
    torch.testing.assert_close(there.as_subclass(Tensor), here)
