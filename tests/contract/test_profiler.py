"""A profile shows steps and ``zero_grad`` under torch's names."""

import pytest
from torch.profiler import ProfilerActivity, profile

from tests.contract.harness import (
    advance,
    every_optimizer,
    make,
    ours,
    parameters,
    params_of,
    reference,
)


@every_optimizer
@pytest.mark.parametrize("kind", [ours, reference], ids=["polyak", "torch"])
def test_profiles_name_the_optimizer(name, kind):
    """Once for each call, and nothing outlives the profile."""
    optimizer = make(kind(name), parameters(name), {})
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        advance(name, optimizer, params_of(optimizer), 0)
        optimizer.zero_grad()
    counts = {event.key: event.count for event in profiled.key_averages()}
    assert counts[f"Optimizer.step#{name}.step"] == 1
    assert counts[f"Optimizer.zero_grad#{name}.zero_grad"] >= 1
    advance(name, optimizer, params_of(optimizer), 1)
