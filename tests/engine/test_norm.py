"""The native sum of squares: exact to double precision, and the same for any team."""

import math

import numpy as np
import pytest
import torch

import polyak
from polyak.engine import team
from polyak.engine.formats import format_of
from polyak.engine.table import CHUNK

from .support import parameter

SIZES = (1, 15, 16, 17, CHUNK - 1, CHUNK, CHUNK + 1, 200_000)
DTYPES = (
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.complex64,
    torch.complex128,
)
every_dtype = pytest.mark.parametrize(
    "dtype", [dtype for dtype in DTYPES if format_of(dtype)]
)


def randn(size, dtype, seed=0):
    """Numbers of very different magnitudes."""
    generator = torch.Generator().manual_seed(seed)
    real = torch.complex128 if dtype.is_complex else torch.float64
    drawn = torch.randn(size, generator=generator, dtype=real)
    scale = torch.randn(size, generator=generator, dtype=torch.float64).exp()
    return (drawn * scale).to(dtype)


def bucket_of(grads):
    """The bucket of parameters with these gradients, held to them."""
    params = [torch.zeros_like(grad).requires_grad_() for grad in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    optimizer = polyak.SGD(params, lr=0.1)
    optimizer.step()
    (bucket,) = optimizer._plan.buckets
    assert not optimizer._plan.eager
    return bucket


def exact(grads):
    """The sum of the squares, rounded once."""
    parts = []
    for grad in grads:
        values = torch.view_as_real(grad) if grad.is_complex() else grad
        parts.append(np.square(values.double().numpy()).ravel())
    return math.fsum(np.concatenate(parts))


@every_dtype
@pytest.mark.parametrize("size", SIZES)
def test_it_is_exact_to_double_precision(dtype, size):
    """Each format, with whole vectors of it and remainders, chunks and remainders."""
    grads = [randn(size, dtype)]
    assert bucket_of(grads).squares() == pytest.approx(exact(grads), rel=1e-13)


@every_dtype
def test_all_tensors_of_a_bucket_count(dtype):
    """Each by its own length: empty ones, numbers, and those of several chunks."""
    shapes = [(0,), (), (3, 5), (CHUNK + 3,), (0, 4), (2, 3, 4), (1,)]
    grads = [randn(shape, dtype, seed) for seed, shape in enumerate(shapes)]
    assert bucket_of(grads).squares() == pytest.approx(exact(grads), rel=1e-13)


@every_dtype
def test_gradients_may_begin_anywhere(dtype):
    """Views of a buffer are not aligned to vectors."""
    buffer = randn(200, dtype)
    for start in range(1, 9):
        grads = [buffer[start : start + 100]]
        assert bucket_of(grads).squares() == pytest.approx(exact(grads), rel=1e-13)


def test_new_gradients_are_read():
    """The table has the addresses of now."""
    param = parameter(torch.zeros(100))
    optimizer = polyak.SGD([param], lr=0.1)
    for seed in range(4):
        param.grad = randn(100, torch.float32, seed)
        optimizer.step()
        (bucket,) = optimizer._plan.buckets
        assert bucket.squares() == pytest.approx(exact([param.grad]), rel=1e-13)


@every_dtype
def test_the_number_of_threads_changes_no_bit(dtype, threads):
    """Chunks are added in their order, whoever computed them."""
    count = team.SERIAL_BYTES // dtype.itemsize + 12_345
    bucket = bucket_of([randn(count, dtype), randn(77, dtype)])
    sums = []
    for teams in (1, 2, 3, 2, 1):
        threads(teams)
        assert team.threads_for(count * dtype.itemsize) == teams
        sums.append(bucket.squares())
    assert len(set(sums)) == 1


@every_dtype
@pytest.mark.parametrize("size", [1, 16, CHUNK + 1])
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_bad_numbers_show(dtype, size, bad):
    """Wherever they are."""
    for at in {0, size // 2, size - 1}:
        grad = randn(size, dtype)
        grad[at] = complex(0.0, bad) if dtype.is_complex else bad
        assert not math.isfinite(bucket_of([grad]).squares())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_squares_are_not_in_single_precision(dtype):
    """Neither overflow nor underflow of float32 is seen."""
    for size in (1e30, 1e-30):
        grads = [torch.full((100,), size, dtype=dtype)]
        assert bucket_of(grads).squares() == pytest.approx(exact(grads), rel=1e-13)
