"""timm's schedulers, which set what they schedule by groups and step numbers."""

import pytest

from tests.integration.harness import (
    Run,
    batches,
    build,
    check,
    every_optimizer,
    loss_of,
    needs,
    network,
    timms_schedulers,
)

pytestmark = needs("timm")
STEPS = 16


@pytest.fixture
def schedulers(monkeypatch):
    """The package, or the part of it that is under test."""
    return timms_schedulers(monkeypatch)


SCHEDULES = {
    "cosine": {"t_initial": STEPS, "warmup_t": 3, "warmup_lr_init": 1e-3},
    "poly": {"t_initial": STEPS, "noise_range_t": (4, 10)},
    "multistep": {"decay_t": [4, 9], "decay_rate": 0.5},
    "tanh": {"t_initial": STEPS},
}
KINDS = {
    "cosine": "CosineLRScheduler",
    "poly": "PolyLRScheduler",
    "multistep": "MultiStepLRScheduler",
    "tanh": "TanhLRScheduler",
}


def groups_of(model):
    """Two groups, as timm makes them for rates by the depth."""
    first, last = model[0].parameters(), model[2].parameters()
    return [{"params": first, "lr_scale": 0.5}, {"params": last, "lr_scale": 1.0}]


@every_optimizer
@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_run(name, kind, schedulers):
    """A rate of its own for each group, in each update."""

    def train(library):
        model, run = network(), Run()
        optimizer = build(library, name, groups_of(model))
        schedule = getattr(schedulers, KINDS[kind])
        scheduler = schedule(optimizer, t_in_epochs=False, **SCHEDULES[kind])
        for step, batch in enumerate(batches(STEPS)):
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            optimizer.step()
            scheduler.step_update(step + 1)
            run.note(loss, optimizer)
            first, last = (group["lr"] for group in optimizer.param_groups)
            assert first == 0.5 * last
        return run.finish(model, optimizer)

    assert len(set(check(train).rates)) >= 3
