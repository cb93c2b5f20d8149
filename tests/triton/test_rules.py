"""Every optimizer with a kernel steps in Triton as it does eagerly."""

import pytest
import torch

import polyak
from polyak.engine.triton.live import LiveBucket
from tests.contract.comparison import assert_same_training
from tests.contract.harness import (
    DENSE,
    NAMES,
    argument_sets,
    case_of,
    find_case,
    make,
    optimizers,
    ours,
    parameters,
    takes,
)
from tests.contract.harness import give_gradients as contract_gradients
from tests.engine.support import probe

from .support import in_kernels, made, pair, params_of, steps_alike

every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
# Rules with sums have tests of their own (test_sums.py), and those with leaves.
every_elementwise = optimizers(lambda case: case.kernel and not case.in_order)
KERNELS = [
    name
    for name in NAMES
    if (case := find_case(name) or case_of(name)).kernel and not case.in_order
]


@every_elementwise
@every_dtype
def test_awkward_sizes_in_two_groups(name, dtype):
    """The groups differ in their rate, which is changed on the way."""

    def build():
        params = made(dtype)
        groups = [dict(params=params[:3]), dict(params=params[3:], lr=0.02)]
        return ours(name)(groups)

    def between(optimizer, step):
        if step == 2:
            optimizer.param_groups[1]["lr"] *= 0.5

    steps_alike(build, ulps=case_of(name).ulps, between=between)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param(name, arguments, id=f"{name}-{label}")
        for name in KERNELS
        for label, arguments in argument_sets(name).items()
    ],
)
def test_every_set_of_arguments(name, arguments):
    """With parameters of every dense layout, each of them sometimes left out."""
    fused, eager = pair(lambda: make(ours(name), parameters(name, DENSE), arguments))
    scales = {}
    for step in range(3):
        for optimizer in (fused, eager):
            contract_gradients(name, params_of(optimizer), step)
            optimizer.step()
        assert_same_training(fused, eager, case_of(name).ulps * (step + 1), scales)
    assert not fused._plan.eager, fused._plan.eager[0].reason


@pytest.mark.parametrize(
    "name", [name for name in KERNELS if takes(name, "capturable")]
)
@every_dtype
def test_capturable(name, dtype):
    """The scalars are computed by a kernel, and all state is as on the host."""

    def build():
        params = made(dtype)
        groups = [dict(params=params[:3]), dict(params=params[3:], lr=0.02)]
        return ours(name)(groups, capturable=True)

    def between(optimizer, step):
        if step == 2:
            optimizer.param_groups[1]["lr"] *= 0.5

    steps_alike(
        build, steps=5, ulps=case_of(name).ulps, between=between, kind=LiveBucket
    )


def test_many_chunks():
    steps_alike(lambda: polyak.AdamW(made(sizes=(65_537, 7))), steps=2)


MATHEMATICS = {
    "pow": lambda x, lr: x.abs() ** 1.5,
    "pow_of_tensors": lambda x, lr: x.abs() ** x,
    "power_of_a_number": lambda x, lr: 2.5**x,
    "exp_log": lambda x, lr: torch.exp(x) + torch.log(x.abs() + 1),
    "waves": lambda x, lr: torch.sin(x) + torch.cos(x),
    "tanh": lambda x, lr: torch.tanh(x) * torch.floor(x),
    "copysign": lambda x, lr: torch.copysign(lr * x, -x),
    "masks": lambda x, lr: torch.where(
        ~(x > 0) | (x == 1) & (x <= 2), lr * x, -0.1 * x
    ),
    "clamp": lambda x, lr: torch.clamp(x, -0.1, lr),
    "extremes": lambda x, lr: torch.maximum(x, 0.3 * x) - torch.minimum(x, x * x),
    "constant": lambda x, lr: torch.where(x > 0.1, 0.1, x),
}


@pytest.mark.parametrize("word", MATHEMATICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_mathematics(word, dtype):
    """The functions that no optimizer of ours uses; constants keep their precision."""
    function = MATHEMATICS[word]

    def rule(param, grad, slot, *, lr):
        return param - function(grad, lr), function(param, lr)

    steps_alike(lambda: probe(rule)(made(dtype, (5, 40)), lr=0.1), steps=1)


def test_names_of_a_rule_that_the_kernel_uses_itself():
    def rule(param, grad, x0, keep, tl, *, step, s0, first, table, row):
        x0 = (1 - row) * x0 + row * grad
        keep = keep + first_of(table, step) * grad * grad
        return param - s0 * x0 / (keep.sqrt() + 1), x0, keep, tl + grad

    def first_of(table, step):
        return table / step

    def build(capturable):
        kind = probe(rule)
        return kind(made(), s0=0.1, table=0.3, row=0.2, capturable=capturable)

    steps_alike(lambda: build(False))
    steps_alike(lambda: build(True), kind=LiveBucket)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy tells of them
def test_nan_and_infinity():
    """They go where they go eagerly."""

    def build():
        params = made(torch.bfloat16, (6,)) + made(torch.float32, (6,))
        with torch.no_grad():
            for param in params:
                param[:3] = torch.tensor([float("nan"), float("inf"), 3.39e38])
        return polyak.AdamW(params, amsgrad=True)

    fused, eager = pair(build)
    for optimizer in (fused, eager):
        for param in params_of(optimizer):
            bad = [1.0, 1.0, -3e38, float("nan"), float("-inf"), 0.0]
            param.grad = torch.tensor(bad).to(param.dtype)
        optimizer.step()
    in_kernels(fused)
    assert_same_training(fused, eager, 4)
