"""Train, be killed at any time, and be started again: as if nothing had happened.

One file holds the whole run: model, optimizer, scheduler, average, and the random state
that draws the batches and the dropout. ``python examples/resumable.py`` saves it after
every epoch; press Ctrl-C and start it again: the losses are those of a run that was not
interrupted, bit for bit.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import polyak as optim
from polyak.schedules import cosine, warmup


def main(path: Path, epochs: int = 20) -> list[float]:
    """Return the mean loss of each epoch."""
    torch.manual_seed(0)
    inputs = torch.randn(1024, 8)
    targets = inputs.sin().sum(1, keepdim=True)
    model = nn.Sequential(
        nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 1)
    )
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    scheduler = optim.Scheduler(optimizer, lr=warmup(3) | cosine(epochs - 3))
    average = optim.swa_utils.WeightAverage(model, decay=0.99)
    run = dict(model=model, optimizer=optimizer, scheduler=scheduler, average=average)

    losses = optim.load(path, **run)["losses"] if path.exists() else []
    for epoch in range(len(losses), epochs):
        total = 0.0
        for rows in torch.randperm(len(inputs)).split(32):
            loss = (model(inputs[rows]) - targets[rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update()
            total += loss.item() * len(rows) / len(inputs)
        scheduler.step()
        losses.append(total)
        optim.save(path, **run, losses=losses)
        print(f"{epoch:2}  {total:.17f}", flush=True)
    return losses


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "resumable.pt"))
