"""What the tests of the GPU engine share: the same steps, in kernels and eagerly."""

import torch

from polyak.engine.triton.bucket import TritonBucket
from tests.contract.comparison import assert_same_training

# Nothing, less than a block, a block less one, several chunks and a rest.
SIZES = (0, 1, 3, 1023, 1024, 5000)


def made(dtype=torch.float32, sizes=SIZES, seed=0):
    """Parameters of these sizes."""
    rng = torch.Generator().manual_seed(seed)
    return [drawn(size, dtype, rng).requires_grad_() for size in sizes]


def drawn(shape, dtype, rng):
    """Random numbers, the same in every dtype but for rounding."""
    if dtype.is_complex:
        pairs = torch.randn(*torch.Size([*torch.empty(shape).shape, 2]), generator=rng)
        return torch.view_as_complex(pairs).to(dtype)
    return torch.randn(shape, dtype=torch.float64, generator=rng).to(dtype)


def give_gradients(params, step, dtype=None):
    """Give each parameter the gradient of a step."""
    rng = torch.Generator().manual_seed(1000 + step)
    for param in params:
        grad = drawn(param.shape, dtype or param.dtype, rng)
        like = torch.empty_like(param, dtype=grad.dtype, requires_grad=False)
        param.grad = like.copy_(grad)


def params_of(optimizer):
    return [param for group in optimizer.param_groups for param in group["params"]]


def in_kernels(optimizer, kind=TritonBucket):
    """All parameters of the last step were in buckets of this kind."""
    plan = optimizer._plan
    assert not plan.eager, plan.eager[0].reason
    assert plan.buckets
    assert all(type(bucket) is kind for bucket in plan.buckets)


def pair(make):
    """Two optimizers: the second is eager."""
    fused, eager = make(), make()
    for group in eager.param_groups:
        group["foreach"] = False
    return fused, eager


def steps_alike(make, *, steps=3, ulps=4, kind=TritonBucket, between=None, grads=None):
    """Step in kernels and eagerly, and compare all that there is after each step.

    Args:
        make: makes the optimizer.
        steps: how many.
        ulps: how many units in the last place a step may differ by.
        kind: of the buckets that are expected.
        between: what happens to each of the optimizers before a step.
        grads: the gradients' dtype.
    """
    fused, eager = pair(make)
    scales = {}
    for step in range(steps):
        for optimizer in (fused, eager):
            if between is not None:
                between(optimizer, step)
            give_gradients(params_of(optimizer), step, grads)
            optimizer.step()
        in_kernels(fused, kind)
        assert not eager._plan.buckets
        assert_same_training(fused, eager, ulps * (step + 1), scales)
    return fused
