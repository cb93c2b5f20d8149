"""Several groups are one vector: only the rates of their steps may differ."""

import re

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from polyak import LBFGS
from tests.optimizers.lbfgs.runs import (
    C64,
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


def grouped(problem, rates, **options):
    """A run with each parameter in a group of its own."""
    run = Run(LBFGS, problem)
    groups = [
        {"params": [param], "lr": lr}
        for param, lr in zip(run.params, rates, strict=True)
    ]
    run.optimizer = LBFGS(groups, **options)
    return run


def valley():
    """Rosenbrock's function of two parameters."""

    def loss(x, y):
        return (1 - x).square().sum() + 100 * (y - x**2).square().sum()

    return [torch.tensor([-1.5], dtype=F64), torch.tensor([2.0], dtype=F64)], loss


def flat(tensors):
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@SEARCHES
@pytest.mark.parametrize("lr", [0.3, torch.tensor(0.3)], ids=["float", "tensor"])
@pytest.mark.parametrize("dtype", [F32, F64, C64], ids=str)
def test_groups_that_agree_have_the_bits_of_torchs_one(dtype, lr, search):
    ours = grouped(network(dtype), [lr] * 4, line_search_fn=search)
    options = {"lr": lr, "line_search_fn": search}
    theirs = Run(torch.optim.LBFGS, network(dtype), **options)
    for _ in range(5):
        assert torch.equal(ours.step(), theirs.step())
        ours.assert_is_at(theirs)
    assert [*ours.optimizer.state] == [ours.params[0]]


class Dense:
    """L-BFGS as it is defined: the matrix is formed, and begins with the ratios."""

    def __init__(self, problem):
        starts, self.loss = problem
        self.shapes = [start.shape for start in starts]
        self.x = flat(starts)
        self.seen = []

    def gradient(self):
        x = self.x.clone().requires_grad_()
        sizes = [shape.numel() for shape in self.shapes]
        parts = zip(x.split(sizes), self.shapes, strict=True)
        loss = self.loss(*(part.reshape(shape) for part, shape in parts))
        return torch.autograd.grad(loss, x)[0]

    def matrix(self, ratios):
        eye = torch.eye(len(self.x), dtype=F64)
        pairs = [
            (after - before, later - earlier)
            for (before, earlier), (after, later) in zip(
                self.seen, self.seen[1:], strict=False
            )
        ]
        if not pairs:
            return ratios.diag()
        s, y = pairs[-1]
        inverse = s.dot(y) / y.dot(ratios * y) * ratios.diag()
        for s, y in pairs:
            rho = 1 / s.dot(y)
            left = eye - rho * torch.outer(s, y)
            inverse = left @ inverse @ left.T + rho * torch.outer(s, s)
        return inverse

    def iterate(self, rates):
        grad = self.gradient()
        self.seen.append((self.x, grad))
        largest = max(rates)
        ratios = torch.cat(
            [
                torch.full((shape.numel(),), rate / largest, dtype=F64)
                for rate, shape in zip(rates, self.shapes, strict=True)
            ]
        )
        moving = (ratios > 0).double()
        direction = -moving * (self.matrix(ratios) @ (moving * grad))
        steep = (ratios.sqrt() * grad).abs().sum()
        shrink = min(1, 1 / steep) if len(self.seen) == 1 else 1
        self.x = self.x + shrink * largest * direction


def interrupted(step):
    return 0.0 if step == 2 else 0.7**step


@pytest.mark.parametrize("rates", [(0.4, 0.1), (0.1, 0.4), (0.3, 0.0)], ids=str)
def test_the_matrix_begins_with_the_ratios_of_the_rates(rates):
    """Those of now: a scheduler changes each rate after every step, once to zero."""
    run = grouped(quadratic(F64), rates, max_iter=3, max_eval=9)
    schedule = LambdaLR(run.optimizer, [lambda k: 0.9**k, interrupted])
    dense = Dense(quadratic(F64))
    for step in range(4):
        run.step()
        schedule.step()
        for _ in range(3):
            dense.iterate([rates[0] * 0.9**step, rates[1] * interrupted(step)])
        torch.testing.assert_close(flat(run.values), dense.x, rtol=1e-8, atol=1e-10)
    assert len(run.state["old_stps"]) == 11


@SEARCHES
@pytest.mark.parametrize("rates", [(0.4, 0.1), (0.05, 0.5)], ids=str)
def test_rates_are_units_of_the_parameters(rates, search):
    """torch's steps for the parameters measured in these units."""
    starts, loss = quadratic(F64)
    starts = [start + 1 for start in starts]
    units = [(rate / max(rates)) ** 0.5 for rate in rates]

    def measured(*values):
        return loss(*(unit * z for unit, z in zip(units, values, strict=True)))

    options = {"max_iter": 6, "line_search_fn": search}
    inner = [start / unit for start, unit in zip(starts, units, strict=True)]
    theirs = Run(torch.optim.LBFGS, (inner, measured), lr=max(rates), **options)
    ours = grouped((starts, loss), rates, **options)
    for _ in range(3):
        torch.testing.assert_close(ours.step(), theirs.step())
    expected = [unit * z for unit, z in zip(units, theirs.values, strict=True)]
    torch.testing.assert_close(ours.values, expected, rtol=1e-7, atol=1e-9)
    assert ours.calls == theirs.calls


def test_the_first_step_of_a_group_has_its_rate():
    problem = [draw(0, 2), draw(1, 3)], lambda a, b: 0.1 * (a.sum() + b.sum())
    run = grouped(problem, (0.5, 0.2), max_iter=1)
    before = run.values
    run.step()
    for old, new, lr in zip(before, run.values, (0.5, 0.2), strict=True):
        torch.testing.assert_close(new, old - lr * 0.1)


@SEARCHES
def test_a_group_with_rate_zero_stands_still(search):
    """To the bit, also with a history from when it moved."""
    run = grouped(valley(), (0.2, 0.2), max_iter=5, line_search_fn=search)
    run.step()
    run.optimizer.param_groups[0]["lr"] = 0.0
    before = run.values
    run.step()
    assert_same(run.values[0], before[0])
    assert not torch.equal(run.values[1], before[1])


@SEARCHES
def test_groups_may_take_turns(search):
    """The steps of one say nothing of the curvature of the other."""
    starts = [torch.full((2,), 3.0), torch.full((3,), 2.0)]
    problem = starts, lambda a, b: a.square().sum() + b.square().sum()
    options = {"max_iter": 1, "line_search_fn": search}
    run = grouped(problem, (0.2, 0.0), **options)
    for step in range(4):
        before = run.values
        run.step()
        for index, (old, new) in enumerate(zip(before, run.values, strict=True)):
            assert torch.equal(old, new) == (index != step % 2)
            assert new.square().sum() <= old.square().sum()
        for group, lr in zip(
            run.optimizer.param_groups, (0.0, 0.2)[:: (-1) ** step], strict=True
        ):
            group["lr"] = lr


@pytest.mark.parametrize("rates", [(1.0, 0.1), (0.1, 1.0), (5.0, 0.5)], ids=str)
def test_the_line_search_descends_whatever_the_rates(rates):
    run = grouped(valley(), rates, line_search_fn="strong_wolfe")
    losses = [run.step().item() for _ in range(40)]
    assert losses == sorted(losses, reverse=True)
    torch.testing.assert_close(
        flat(run.values), torch.ones(2, dtype=F64), atol=1e-4, rtol=0
    )


@SEARCHES
def test_the_order_of_the_groups_does_not_matter(search):
    starts, loss = quadratic(F64)
    options = {"max_iter": 5, "line_search_fn": search}
    one = grouped((starts, loss), (0.4, 0.1), **options)
    other = grouped((starts[::-1], lambda b, a: loss(a, b)), (0.1, 0.4), **options)
    for _ in range(2):
        one.step()
        other.step()
    for actual, expected in zip(other.values[::-1], one.values, strict=True):
        torch.testing.assert_close(actual, expected)


OTHER = {
    "max_iter": 7,
    "max_eval": 9,
    "tolerance_grad": 1e-3,
    "tolerance_change": 1e-2,
    "history_size": 4,
    "line_search_fn": "strong_wolfe",
}


@pytest.mark.parametrize("name", OTHER)
def test_what_belongs_to_the_whole_method_may_not_differ(name):
    """Refused with the key and both values, and nothing changes."""
    x, y = (torch.zeros(1, requires_grad=True) for _ in "xy")
    optimizer = LBFGS([x])
    default, other = optimizer.defaults[name], OTHER[name]
    words = f"{name} is {default!r} in group 0 and {other!r} in group 1"
    group = {"params": [y], name: other}
    with pytest.raises(ValueError, match=re.escape(words)):
        LBFGS([{"params": [x]}, group])
    with pytest.raises(ValueError, match=re.escape(words)):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [y]})
    optimizer.param_groups[1][name] = other
    calls = []
    with pytest.raises(ValueError, match=re.escape(words)):
        optimizer.step(lambda: calls.append("called"))
    assert not calls


def test_a_refused_group_leaves_the_history():
    run = Run(LBFGS, rosenbrock(F64), max_iter=3)
    run.step()
    keys = [*run.state]
    with pytest.raises(ValueError, match="differ in lr alone"):
        run.optimizer.add_param_group({"params": [torch.zeros(1)], "max_iter": 9})
    assert [*run.state] == keys


def test_with_a_group_that_is_added_the_method_begins_anew():
    starts, loss = quadratic(F64)
    run = Run(LBFGS, ([starts[0]], lambda a: loss(a, starts[1])), lr=0.1, max_iter=4)
    run.step()
    late = draw(5, 10).requires_grad_()
    run.optimizer.add_param_group({"params": [late]})
    assert not run.optimizer.state
    run.params.append(late)
    run.loss = loss
    fresh = grouped((run.values, loss), (0.1, 0.1), lr=0.1, max_iter=4)
    for _ in range(3):
        run.step()
        fresh.step()
        assert_same(run.values, fresh.values)
        assert_same(run.state, fresh.state)


@pytest.mark.parametrize("index", [0, 1])
def test_without_a_group_that_is_taken_out_the_method_begins_anew(index):
    run = grouped(quadratic(F64), (0.1, 0.1), lr=0.1, max_iter=4)
    run.step()
    values = run.values
    del run.optimizer.param_groups[index]
    fresh = grouped((values, run.loss), (0.1, 0.1), lr=0.1, max_iter=4)
    del fresh.optimizer.param_groups[index]
    for _ in range(3):
        run.step()
        fresh.step()
    assert_same(run.values, fresh.values)
    assert torch.equal(run.values[index], values[index])


def test_an_empty_first_group_is_passed_over():
    starts, loss = quadratic(F64)
    run, plain = (Run(LBFGS, (starts, loss), lr=0.1) for _ in range(2))
    run.optimizer = LBFGS([{"params": []}, {"params": run.params}], lr=0.1)
    run.step()
    plain.step()
    run.assert_is_at(plain)
