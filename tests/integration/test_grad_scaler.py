"""torch.amp: a GradScaler and autocast, with an overflow on the way."""

import pytest
import torch
from torch.amp import GradScaler
from torch.nn.utils import clip_grad_norm_

from tests.integration.harness import (
    Run,
    batches,
    build,
    check,
    every_optimizer,
    loss_of,
    network,
)

OVERFLOW = 5


def train(library, name, clip, schedulers=torch.optim.lr_scheduler):
    """A scaled run; one batch overflows."""
    model, run = network(), Run()
    optimizer = build(library, name, model.parameters())
    scheduler = schedulers.CosineAnnealingLR(optimizer, 20)
    scaler = GradScaler("cpu", init_scale=2.0**8, growth_interval=4)
    for step, batch in enumerate(batches(20)):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, batch)
        factor = float("inf") if step == OVERFLOW else 1.0
        scaler.scale(loss * factor).backward()
        if clip:
            scaler.unscale_(optimizer)
            clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        run.note(loss, optimizer)
    assert scaler.get_scale() == 2.0**11
    return run.finish(model, optimizer)


@every_optimizer
@pytest.mark.parametrize("clip", [False, True], ids=["plain", "clipped"])
def test_a_scaled_run(name, clip):
    check(train, name, clip)
