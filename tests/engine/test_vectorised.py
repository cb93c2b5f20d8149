"""LLVM makes vector instructions of every optimizer's loop, on processors of x86."""

import platform
import re

import pytest
import torch

from polyak.engine import jit
from tests.contract.harness import (
    argument_sets,
    every_kernel_of_vectors,
    make,
    ours,
)
from tests.engine.support import parameter, probe

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not jit.host_has("avx2"),
    reason="the instructions are named as those of x86 with AVX",
)

NUMBERS = {torch.float32: "s", torch.bfloat16: "s", torch.float64: "d"}


def instructions(text, kind):
    """The instructions on one number ("ss", "sd") or several ("ps", "pd"), by name."""
    return set(re.findall(rf"\tv(add|sub|mul|div|sqrt|fn?m\w+?)\d*{kind}\b", text))


def of_kernel(text):
    """Without the function that evaluates scalars."""
    return re.sub(r"(?ms)^prepare:.*?^\.Lfunc_end", "", text)


@every_kernel_of_vectors
@pytest.mark.parametrize("dtype", NUMBERS)
def test_what_is_done_to_one_number_is_done_to_several_at_once(name, dtype):
    """The last numbers of a tensor are done one by one, and show what there is to do.

    A root or a quotient of these alone would be a loop that LLVM left as it was.
    """
    for label, arguments in argument_sets(name).items():
        param = torch.ones(64, dtype=dtype, requires_grad=True)
        param.grad = torch.ones_like(param)
        optimizer = make(ours(name), [param], arguments)
        optimizer.step()
        (bucket,) = optimizer._plan.buckets
        text, number = of_kernel(bucket.library.assembly()), NUMBERS[dtype]
        one, several = (instructions(text, kind + number) for kind in "sp")

        assert several >= one & {"div", "sqrt"}, label
        assert several, label
        assert "gather" not in text, label


def test_a_quotient_by_a_scalar_is_a_product():
    """Its reciprocal is taken once; the quotient of two tensors is one."""
    by_scalar = probe(lambda param, grad, *, lr: param - grad / lr)
    by_tensor = probe(lambda param, grad, *, lr: param - lr / grad)
    for kind, divides in ((by_scalar, False), (by_tensor, True)):
        optimizer = kind([parameter([1.0] * 64, [3.0] * 64)], lr=0.5)
        optimizer.step()
        (bucket,) = optimizer._plan.buckets
        text = of_kernel(bucket.library.assembly())
        assert ("div" in instructions(text, "ps")) == divides


@pytest.mark.parametrize("divisor", [3.0, -0.1, 1e-30, 1e30, 0.0, float("inf")])
def test_a_quotient_by_a_scalar_is_right_to_the_last_place_but_one(divisor):
    kind = probe(lambda param, grad, *, lr: grad / lr)
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    special = torch.tensor([0.0, -0.0, 1e-38, float("inf"), float("-inf")])
    grad = torch.cat([values, special])
    param = parameter(torch.zeros_like(grad), grad)
    kind([param], lr=divisor).step()
    exact = (grad.double() / divisor).float()
    torch.testing.assert_close(param.detach(), exact, rtol=3e-7, atol=0, equal_nan=True)
