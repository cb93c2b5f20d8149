"""L-BFGS for parameters and gradients of every kind."""

import pytest
import torch

from polyak import LBFGS
from tests.optimizers.lbfgs.runs import (
    C128,
    F32,
    F64,
    SEARCHES,
    Run,
    assert_same,
    draw,
    quadratic,
    rosenbrock,
)


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
        loss = sliced.contiguous().abs().pow(4).sum()  # which rounds like the other
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
