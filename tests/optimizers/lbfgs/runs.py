"""What the tests of L-BFGS share: problems, and an optimizer that works on one."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor

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
