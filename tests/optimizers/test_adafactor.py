"""Adafactor beside the contract: where torch divides by zero, and stacks."""

import pytest
import torch
from torch.nn import Parameter

import polyak
from polyak.engine import stacks


def trained(kind, shapes, steps=4, scale=1.0, dtype=torch.float32, **arguments):
    """Parameters after some steps, by the same gradients, and the optimizer."""
    rng = torch.Generator().manual_seed(0)

    def draw(shape):
        return torch.randn(shape, dtype=torch.float64, generator=rng).to(dtype)

    params = [Parameter(draw(shape)) for shape in shapes]
    optimizer = kind(params, **arguments)
    for _ in range(steps):
        for param in params:
            param.grad = scale * draw(param.shape)
        optimizer.step()
    return params, optimizer


SHAPES = [(3, 4), (3, 4), (5,), (5,), (), (2, 3, 4), (300, 500)]


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("eps", [(None, 1e-3), (1e-30, 1e-3), (0.5, 0.5)], ids=str)
def test_steps_are_torchs_at_any_scale(scale, eps):
    """Where epsilon decides and where it does not, in double precision."""
    how = {"scale": scale, "eps": eps, "lr": 0.1, "dtype": torch.float64}
    params, _ = trained(polyak.Adafactor, SHAPES, **how)
    expected, _ = trained(torch.optim.Adafactor, SHAPES, **how)
    torch.testing.assert_close(params, expected)


@pytest.mark.parametrize("shape", [(3, 4), (7,), (), (2, 3, 4)], ids=str)
def test_parameters_of_one_shape_go_together(shape, monkeypatch):
    """And each moves as it does alone: its norms are its own."""
    together, _ = trained(polyak.Adafactor, [shape] * 5, weight_decay=0.1)
    monkeypatch.setattr(stacks, "BYTES", 0)
    alone, _ = trained(polyak.Adafactor, [shape] * 5, weight_decay=0.1)
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 0)], ids=str)
def test_what_is_empty_passes(shape):
    """torch divides by its number of numbers."""
    params, optimizer = trained(polyak.Adafactor, [shape, (2, 2)])
    assert params[0].shape == shape
    assert all(value.isfinite().all() for value in optimizer.state[params[0]].values())


@pytest.mark.parametrize("shape", [(3, 4), (7,)], ids=str)
def test_gradients_of_zeros_move_nothing(shape):
    """0 over the root of 0 is 0 here, whatever epsilon is but zero."""
    param = Parameter(torch.ones(shape))
    param.grad = torch.zeros(shape)
    polyak.Adafactor([param]).step()
    assert torch.equal(param, torch.ones(shape))


def test_half_precision_has_float32s_epsilon():
    """torch's is 0.008, more than most gradients: small steps in place of full ones."""
    how = {"scale": 1e-4, "lr": 0.1, "steps": 1}
    start, _ = trained(polyak.Adafactor, [(30, 40)], **{**how, "steps": 0})
    exact, _ = trained(polyak.Adafactor, [(30, 40)], **how)
    narrow, _ = trained(polyak.Adafactor, [(30, 40)], dtype=torch.bfloat16, **how)
    assert (exact[0] - start[0]).abs().mean() > 0.05
    assert (narrow[0] - exact[0]).abs().mean() < 0.005


def test_state_is_sublinear():
    """A row and a column for a matrix; only vectors have a number for each number."""
    params, optimizer = trained(polyak.Adafactor, [(3, 4), (5,), (2, 3, 4)])
    shapes = [
        {key: tuple(value.shape) for key, value in optimizer.state[param].items()}
        for param in params
    ]
    assert shapes == [
        {"step": (), "row_var": (3, 1), "col_var": (1, 4)},
        {"step": (), "variance": (5,)},
        {"step": (), "row_var": (2, 3, 1), "col_var": (2, 1, 4)},
    ]


def test_a_checkpoint_of_other_rows_does_not_fit():
    """Nothing is loaded, and the error names the slot."""
    _, matrices = trained(polyak.Adafactor, [(3, 4)])
    _, other = trained(polyak.Adafactor, [(4, 3)])
    with pytest.raises(ValueError, match="loaded state dict has row_var"):
        matrices.load_state_dict(other.state_dict())


def test_kernels_serve_matrices_and_vectors():
    """Matrices whose columns come first run eagerly, and explain says so."""
    shapes = [(2, 3), (2,), (), (2, 3, 4)]
    params = [torch.zeros(shape, requires_grad=True) for shape in shapes]
    params.append(torch.zeros(3, 2).t().requires_grad_())
    *served, permuted = polyak.explain(polyak.Adafactor(params)).served
    assert {each.engine for each in served} == {"cpu"}
    assert permuted.engine == "eager"
    assert "the parameter is not contiguous" in permuted.why
