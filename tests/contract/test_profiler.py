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


@pytest.mark.parametrize("kind", [ours, reference], ids=["polyak", "torch"])
def test_a_profile_is_shown_the_state(kind, monkeypatch):
    """By the call that torch's profiler waits for, after each step."""
    optimizer = make(kind("AdamW"), parameters("AdamW"), {})
    shown = []
    monkeypatch.setattr(
        type(optimizer), "_optimizer_step_code", lambda self: shown.append(self)
    )
    with profile(activities=[ProfilerActivity.CPU]):
        for step in range(5):
            advance("AdamW", optimizer, params_of(optimizer), step)
    assert shown == [optimizer] * 5
