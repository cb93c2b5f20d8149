"""Muon beside the contract: torch's own, the shapes it takes, what it refuses."""

import pytest
import torch
from torch.nn import Parameter

import polyak
from polyak.engine import around


def trained(kind, shapes, steps=4, dtype=torch.float32, **arguments):
    """Parameters and momentum after some steps, by the same gradients."""
    rng = torch.Generator().manual_seed(0)

    def draw(shape):
        return torch.randn(shape, dtype=torch.float64, generator=rng).to(dtype)

    params = [Parameter(draw(shape)) for shape in shapes]
    optimizer = kind(params, **arguments)
    for _ in range(steps):
        for param in params:
            param.grad = draw(param.shape)
        optimizer.step()
    return params, [optimizer.state[param]["momentum_buffer"] for param in params]


@pytest.mark.parametrize("shape", [(8, 8), (8, 20), (20, 8), (1, 5), (64, 64)], ids=str)
@pytest.mark.parametrize(
    "arguments",
    [{}, {"nesterov": False}, {"adjust_lr_fn": "match_rms_adamw"}, {"ns_steps": 3}],
    ids=str,
)
def test_it_is_torchs_within_bfloat16(shape, arguments):
    """torch iterates with two digits: a step of it is off by some hundredths."""
    arguments = {"lr": 0.02, **arguments}
    params, momenta = trained(polyak.Muon, [shape], **arguments)
    due, due_momenta = trained(torch.optim.Muon, [shape], **arguments)
    start, _ = trained(torch.optim.Muon, [shape], **{**arguments, "lr": 0.0})
    moved = (due[0] - start[0]).abs().max()
    assert (params[0] - due[0]).abs().max() < 0.08 * moved
    torch.testing.assert_close(momenta, due_momenta, rtol=1e-6, atol=1e-7)


def test_filters_are_matrices_with_a_row_for_each_output():
    """As if they were given flattened."""
    filters, _ = trained(polyak.Muon, [(6, 2, 3, 3), (5, 4, 3)])
    flat, _ = trained(polyak.Muon, [(6, 18), (5, 12)])
    for param, expected in zip(filters, flat, strict=True):
        torch.testing.assert_close(param.flatten(1), expected)


@pytest.mark.parametrize("shape", [(8, 8), (8, 20), (20, 8), (6, 2, 3)], ids=str)
def test_matrices_of_one_shape_go_together(shape, monkeypatch):
    """And each moves as it does alone."""
    together, _ = trained(polyak.Muon, [shape] * 5)
    monkeypatch.setattr(around, "BYTES", 0)
    alone, _ = trained(polyak.Muon, [shape] * 5)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)], ids=str)
def test_empty_matrices_pass(shape):
    """torch divides by their width."""
    params, _ = trained(polyak.Muon, [shape])
    assert params[0].shape == shape


@pytest.mark.parametrize("shape", [(), (3,)], ids=str)
def test_vectors_are_refused_with_the_remedy(shape):
    """At construction, by place and shape; also in a later group."""
    words = rf"parameter 1 of group 0 has the shape \({shape and '3,'}\): .*AdamW"
    with pytest.raises(ValueError, match=words):
        polyak.Muon([torch.zeros(2, 2), torch.zeros(shape)])
    optimizer = polyak.Muon([torch.zeros(2, 2)])
    with pytest.raises(ValueError, match="parameter 0 of group 1"):
        optimizer.add_param_group({"params": torch.zeros(shape)})
    assert len(optimizer.param_groups) == 1


def test_explain_names_the_leaf():
    """Kernels run before and after it."""
    optimizer = polyak.Muon([torch.zeros(2, 2, requires_grad=True)])
    told = str(polyak.explain(optimizer, kernel=True))
    assert "Muon: 1 of 1 parameters in 1 kernel" in told
    assert (
        "orthogonalized0 = orthogonalized(orthogonalized0_in0, (ns_coefficients[0], "
        "ns_coefficients[1], ns_coefficients[2]), ns_steps, eps, None)\n" in told
    )
