"""Averages in half precision move, however small their steps."""

import pytest
import torch

import polyak
import polyak.swa_utils as ours
from tests.swa_utils.harness import linear, shake, through_torch

STEPS = 300
half = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def build(dtype, decay):
    model = shake(linear(dtype), 0)
    function = None if decay is None else ours.get_ema_multi_avg_fn(decay)
    return model, ours.AveragedModel(model, multi_avg_fn=function)


@half
@pytest.mark.parametrize("decay", [0.9999, 0.999, None])
@pytest.mark.parametrize("saved_at", [(), (1,), (2, 3, 100)])
def test_a_float64_reference(dtype, decay, saved_at):
    """To 1 % of the way that it has gone, and after a state dict round trip too."""
    model, average = build(dtype, decay)
    due = None
    for step in range(STEPS):
        if step in saved_at:
            state = through_torch(average.state_dict())
            _, average = build(dtype, decay)
            average.load_state_dict(state)
        # First at one place, then at another, which is far away.
        shake(model, 1 if step == 0 else 2)
        average.update_parameters(model)
        now = model.weight.detach().double()
        if due is None:
            due = start = now
        else:
            kept = step / (step + 1) if decay is None else decay
            due = kept * due + (1 - kept) * now
    kept = average.state_dict()["accumulator.0"]
    assert kept.dtype == torch.float32
    way = (due - start).abs().max()
    assert (kept.double() - due).abs().max() < 0.01 * way
    assert torch.equal(average.module.weight, kept.to(dtype))


@half
def test_many_small_steps_are_seen(dtype):
    """A hundred steps of a ten-thousandth, which rounding would have eaten."""
    model, average = build(dtype, 0.999)
    with torch.no_grad():
        for step in range(101):
            model.weight.fill_(1.0 if step == 0 else 2.0)
            average.update_parameters(model)
    due = 2 - 0.999**100
    assert average.module.weight[0, 0].item() == pytest.approx(due, rel=0.01)


@half
def test_a_kernel_serves_them(dtype):
    """Half precision as well."""
    model, average = build(dtype, 0.9)
    for seed in range(3):
        average.update_parameters(shake(model, seed))
    served = polyak.explain(average._blend._optimizer).served
    assert len(served) == 2
    assert all(part.kernel is not None for part in served)


def test_buffers_too():
    """Where they are averaged."""
    model = torch.nn.BatchNorm1d(3, dtype=torch.bfloat16)
    function = ours.get_ema_multi_avg_fn(0.999)
    average = ours.AveragedModel(model, multi_avg_fn=function, use_buffers=True)
    for step in range(101):
        model.running_mean.fill_(1.0 if step == 0 else 2.0)
        average.update_parameters(model)
    mean = average.module.running_mean
    assert mean.dtype == torch.bfloat16
    assert mean[0].item() == pytest.approx(2 - 0.999**100, rel=0.01)
