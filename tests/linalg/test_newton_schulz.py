"""polyak.linalg.newton_schulz against singular values and a float64 reference."""

import pytest
import torch

from polyak.linalg import QUINTIC, newton_schulz

CONVERGING = (1.875, -1.25, 0.375)
SHAPES = [(5, 5), (5, 7), (7, 5), (4, 40), (40, 4), (1, 9), (9, 1), (1, 1)]
# Rounding, which the form on Gram matrices enlarges.
ERROR = {torch.float32: 2e-4, torch.float64: 1e-12}


def randn(*shape, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    if dtype.is_complex:
        parts = torch.randn(*shape, 2, dtype=torch.float64, generator=rng)
        return torch.view_as_complex(parts).to(dtype)
    return torch.randn(*shape, dtype=torch.float64, generator=rng).to(dtype)


def by_singular_values(matrix, coefficients, steps):
    """The iteration as it acts on each singular value, in double precision."""
    a, b, c = coefficients
    wide = torch.complex128 if matrix.is_complex() else torch.float64
    u, s, vh = torch.linalg.svd(matrix.to(wide), full_matrices=False)
    s = s / torch.linalg.vector_norm(s)
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return (u * s) @ vh


@pytest.mark.parametrize("dtype", list(ERROR), ids=str)
@pytest.mark.parametrize("steps", [0, 1, 5, 7, 12])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_singular_values_go_through_the_polynomial(shape, steps, dtype):
    """And the singular vectors stay; by either form of the iteration."""
    matrix = randn(*shape, dtype=dtype)
    expected = by_singular_values(matrix, CONVERGING, steps)
    found = newton_schulz(matrix, CONVERGING, steps=steps)
    assert found.dtype == dtype
    assert (found.double() - expected).abs().max() < ERROR[dtype]


# On both sides of where a square is completed, and where one of them is zero.
COEFFICIENTS = [
    *(QUINTIC, CONVERGING, (1.5, -0.5, 0.0), (1.5, -0.79, 0.1), (1.5, -0.81, 0.1)),
    *((1.5, 0.0, -0.5), (1.5, -0.5, 1e-8), (0.5, 0.5, 0.0), (1.0, 0.0, 0.0)),
]
ROUNDING = {
    torch.float64: 1e-13,
    torch.complex128: 1e-13,
    torch.float32: 3e-5,
    torch.complex64: 3e-5,
    torch.bfloat16: 0.1,
}


@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.parametrize("coefficients", COEFFICIENTS, ids=str)
def test_any_coefficients_are_the_polynomials(coefficients, dtype):
    """However it is computed; square, tall and wide; to the dtype's precision."""
    for shape in [(32, 32), (48, 32), (16, 128), (128, 16)]:
        matrix = randn(*shape, dtype=dtype)
        expected = by_singular_values(matrix, coefficients, 5)
        found = newton_schulz(matrix, coefficients)
        assert (found - expected).abs().max() < ROUNDING[dtype]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_default_is_muons(shape):
    """Five steps of the quintic."""
    matrix = randn(*shape)
    expected = by_singular_values(matrix, QUINTIC, 5)
    assert (newton_schulz(matrix) - expected).abs().max() < 1e-10


def test_the_default_brings_values_near_one():
    """The bounds that the documentation gives, from 0.002 to 1."""
    values = torch.logspace(-2.699, 0, 2000, dtype=torch.float64)
    # A column for each, beside one that makes its norm 1.
    rest = (1 - values**2).clamp(min=0).sqrt()
    matrices = torch.diag_embed(torch.stack([values, rest], -1))
    found = newton_schulz(matrices)[:, 0, 0]
    assert 0.68 < found.min() < 0.69
    assert 1.20 < found.max() < 1.21


@pytest.mark.parametrize("shape", [(4, 4), (3, 9), (9, 3)], ids=str)
def test_complex_matrices_have_a_unitary_factor(shape):
    """The conjugate transpose is used throughout."""
    matrix = randn(*shape, dtype=torch.complex128)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = newton_schulz(matrix, CONVERGING, steps=30)
    assert (found - u @ vh).abs().max() < 1e-9


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (2, 9), (9, 2)], ids=str)
def test_leading_dimensions_are_many_matrices(shape):
    """Each of them is treated alone."""
    stack = randn(2, 3, *shape)
    stack[1, 2] *= 1e6
    found = newton_schulz(stack)
    for index in [(0, 0), (0, 1), (1, 2)]:
        alone = newton_schulz(stack[index])
        torch.testing.assert_close(found[index], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_vmap_is_a_loop_over_matrices(dim):
    """Whichever dimension it maps."""
    stack = randn(4, 3, 5)
    expected = torch.stack([newton_schulz(matrix) for matrix in stack])
    with torch.no_grad():
        found = torch.vmap(newton_schulz, in_dims=dim)(stack.movedim(0, dim))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_vmap_may_be_nested():
    """Each level is one more leading dimension."""
    stack = randn(2, 4, 3, 5)
    with torch.no_grad():
        found = torch.vmap(torch.vmap(newton_schulz))(stack)
    torch.testing.assert_close(found, newton_schulz(stack), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize(
    "coefficients", [QUINTIC, (1.5, -0.5, 0.0), (1.5, -0.81, 0.1)], ids=str
)
@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (5, 2)], ids=str)
def test_gradients_are_those_of_finite_differences(shape, coefficients, dtype):
    """It is made of differentiable operations, under vmap too."""
    matrix = randn(2, *shape, dtype=dtype).requires_grad_()

    def iterated(m):
        return newton_schulz(m, coefficients, steps=2)

    assert torch.autograd.gradcheck(iterated, matrix)
    mapped = torch.vmap(iterated)
    assert torch.autograd.gradcheck(mapped, matrix)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 4), (0, 2, 2)], ids=str)
def test_what_is_empty_stays_empty(shape):
    """The shape is kept."""
    assert newton_schulz(torch.zeros(shape)).shape == shape


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-10])
def test_small_matrices_stay_small(scale):
    """Below eps nothing is blown up by more than the steps themselves do."""
    found = newton_schulz(scale * randn(3, 8, dtype=torch.float32), eps=1e-3)
    assert found.abs().max() <= 3.5**5 * 1e4 * scale
    assert found.isfinite().all()


def test_half_precision_is_near():
    """The Gram matrix is not iterated on, which would be useless in bfloat16."""
    matrix = randn(16, 64)
    expected = by_singular_values(matrix, QUINTIC, 5)
    found = newton_schulz(matrix.bfloat16())
    assert found.dtype is torch.bfloat16
    assert (found.double() - expected).abs().max() < 0.05


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"matrix": torch.ones(3)}, r"a tensor of shape \(3,\)"),
        ({"coefficients": (1.5, -0.5)}, "exactly 3 values: newton_schulz got 2"),
        ({"steps": 100}, "less than 100.* got 100"),
        ({"steps": -1}, "not negative: newton_schulz got -1"),
    ],
)
def test_what_it_refuses(arguments, words):
    """With the reason and the value."""
    with pytest.raises(ValueError, match=words):
        newton_schulz(**{"matrix": torch.ones(2, 2), **arguments})
