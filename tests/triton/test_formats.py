"""Tensors of all kinds: dtypes that differ, complex ones, memory anywhere."""

import pytest
import torch

import polyak
from polyak.engine.triton.live import LiveBucket

from .support import drawn, made, steps_alike

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
COMPLEX = (torch.complex64, torch.complex128)
SIZES = (3, 1025)


@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX], ids=str)
@pytest.mark.parametrize("maximize", [False, True])
def test_dtypes(dtype, maximize):
    steps_alike(lambda: polyak.AdamW(made(dtype, SIZES), maximize=maximize))


def test_dtypes_of_one_optimizer():
    """Each dtype has a bucket of its own, and no parameter waits for another's."""
    fused = steps_alike(
        lambda: polyak.Adam([p for d in FLOATS + COMPLEX for p in made(d, SIZES)])
    )
    assert len(fused._plan.buckets) == len(FLOATS + COMPLEX)


@pytest.mark.parametrize("slots", FLOATS[1:], ids=str)
@pytest.mark.parametrize("params", [torch.bfloat16, torch.float32], ids=str)
def test_state_of_another_dtype(params, slots):
    """As where a checkpoint has the state in another precision."""

    def between(optimizer, step):
        if step == 1:
            for state in optimizer.state.values():
                state["exp_avg"] = state["exp_avg"].to(slots)

    steps_alike(lambda: polyak.Adam(made(params, SIZES)), between=between)


def test_average_of_half_precision():
    steps_alike(lambda: polyak.SGD(made(torch.bfloat16, SIZES), ema_decay=0.9))


def test_memory_that_is_not_aligned():
    """Views into one vector, which begin anywhere, and dense ones of any strides."""

    def build():
        rng = torch.Generator().manual_seed(1)
        flat = drawn((9000,), torch.bfloat16, rng)
        views = [flat[1:2], flat[3:4100], flat[4200:8200].view(40, 100).t()]
        return polyak.AdamW([view.requires_grad_() for view in views])

    steps_alike(build)


@pytest.mark.parametrize("capturable", [False, True])
def test_step_counters_in_float64(capturable):
    def build():
        torch.set_default_dtype(torch.float64)
        try:
            optimizer = polyak.Adam(made(sizes=SIZES), capturable=capturable)
            optimizer.init_state()
        finally:
            torch.set_default_dtype(torch.float32)
        return optimizer

    kinds = {"kind": LiveBucket} if capturable else {}
    fused = steps_alike(build, **kinds)
    for state in fused.state.values():
        assert state["step"].dtype is torch.float64
