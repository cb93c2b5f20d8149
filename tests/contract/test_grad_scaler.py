"""torch's GradScaler drives every optimizer as it drives torch's."""

import pytest
import torch
from torch.amp import GradScaler

from tests.contract.comparison import (
    assert_nothing_changed,
    assert_same_training,
    everything,
)
from tests.contract.harness import (
    case_of,
    every_given_gradients,
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
        if case_of(name).sparse != "only":
            torch.nn.utils.clip_grad_norm_(params, 1.0)
    scaler.step(optimizer)
    scaler.update()


@every_given_gradients
@pytest.mark.parametrize("unscale", [False, True], ids=["plain", "unscaled"])
@pytest.mark.parametrize("fused", [False, True], ids=["default", "fused"])
def test_steps_are_those_of_torch(name, fused, unscale):
    """The step on an overflow is left out; the others, and the scales, are torch's."""
    case = case_of(name)
    arguments = dict(case.stateful)
    expected = make(reference(name), parameters(name), arguments)
    if fused and takes(name, "fused"):
        arguments["fused"] = True
    actual = make(ours(name), parameters(name), arguments)
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
