"""torch's GradScaler drives every optimizer as it drives torch's."""

import pytest
import torch
from torch.amp import GradScaler

from tests.contract.harness import (
    assert_nothing_changed,
    assert_same_training,
    case_of,
    every_optimizer,
    everything,
    give_gradients,
    make,
    ours,
    parameters,
    params_of,
    reference,
    takes,
)

STEPS = 6
OVERFLOWS = (0, 3)


def scaled_step(name, optimizer, scaler, step, *, unscale):
    """A step on scaled gradients, of which some overflow."""
    params = params_of(optimizer)
    give_gradients(name, params, step)
    factor = scaler.scale(torch.tensor(1.0)).item()
    for param in params:
        if param.grad is not None:
            param.grad = param.grad * factor
    if step in OVERFLOWS:
        params[0].grad = params[0].grad * float("inf")
    if unscale:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
    scaler.step(optimizer)
    scaler.update()


@every_optimizer
@pytest.mark.parametrize("flag", ["default", "fused"])
@pytest.mark.parametrize(
    "unscale", [False, True], ids=["plain", "unscaled_and_clipped"]
)
def test_steps_are_those_of_torch(name, unscale, flag):
    """The step on an overflow is left out, the others are torch's; so are the scales."""
    case = case_of(name)
    if case.closure:
        pytest.skip("GradScaler takes no closures")
    if unscale and case.sparse == "only":
        pytest.skip("torch clips no sparse gradients")
    if flag == "fused" and not takes(name, "fused"):
        pytest.skip("takes no fused")
    arguments = dict(case.stateful) if flag == "default" else {"fused": True}
    plain = {"foreach": False} if takes(name, "foreach") else {}
    actual = make(ours(name), parameters(name), arguments)
    expected = make(reference(name), parameters(name), {**case.stateful, **plain})
    if flag == "fused":
        expected = make(reference(name), parameters(name), plain)
    scalers = [GradScaler("cpu", init_scale=2.0**10, growth_interval=2) for _ in "ab"]
    scales = {}
    for step in range(STEPS):
        before = everything(actual)
        for optimizer, scaler in zip((actual, expected), scalers, strict=True):
            scaled_step(name, optimizer, scaler, step, unscale=unscale)
        if step in OVERFLOWS:
            assert_nothing_changed(actual, before)
        assert scalers[0].get_scale() == scalers[1].get_scale()
        assert_same_training(actual, expected, case.ulps * (step + 1), scales)
