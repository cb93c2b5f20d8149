"""Kill a run in the middle, resume it, and get what it would have got: bit for bit.

The schedule is a nested one: a warm-up, then a cosine with restarts, and all of it
chained with a drop. A process trains, writes a checkpoint every few steps, and is
killed. Its checkpoint is then loaded in each order there is: the optimizer first or the
scheduler first, and the scheduler built before the optimizer is loaded or after it.
"""

import os
import signal
import tempfile
from multiprocessing import get_context
from pathlib import Path

import torch

import polyak as optim
from polyak.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingWarmRestarts,
    LinearLR,
    MultiStepLR,
    SequentialLR,
)

STEPS, CHECKPOINT_EVERY, KILLED_AT = 100, 5, 63

# A scheduler must be built before it is loaded; the optimizer is loaded when you like.
ORDERS = [
    ("load optimizer", "build scheduler", "load scheduler"),
    ("build scheduler", "load optimizer", "load scheduler"),
    ("build scheduler", "load scheduler", "load optimizer"),
]


def build_scheduler(optimizer):
    warmup = LinearLR(optimizer, start_factor=0.1, total_iters=10)
    restarts = CosineAnnealingWarmRestarts(optimizer, T_0=15, T_mult=2)
    drop = MultiStepLR(optimizer, milestones=[50, 80], gamma=0.3)
    return ChainedScheduler(
        [SequentialLR(optimizer, [warmup, restarts], milestones=[10]), drop]
    )


def train(checkpoint=None, order=ORDERS[-1], killed_at=None):
    """Train from the checkpoint if there is one; return all losses, rates, weights."""
    weights = torch.zeros(10, requires_grad=True)
    optimizer = optim.AdamW([weights], lr=0.1)
    saved, losses, rates = None, [], []
    if checkpoint is not None and checkpoint.exists():
        saved = torch.load(checkpoint)
        losses, rates = saved["losses"], saved["rates"]
        with torch.no_grad():
            weights.copy_(saved["weights"])

    for action in order:
        if action == "build scheduler":
            scheduler = build_scheduler(optimizer)
        elif saved is not None and action == "load optimizer":
            optimizer.load_state_dict(saved["optimizer"])
        elif saved is not None and action == "load scheduler":
            scheduler.load_state_dict(saved["scheduler"])

    truth = torch.linspace(-1, 1, 10)
    for step in range(len(losses), STEPS):
        rates.append(scheduler.get_last_lr()[0])
        batch = torch.randn(16, 10, generator=torch.Generator().manual_seed(step))
        loss = (batch @ (weights - truth)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())

        if step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if checkpoint is not None and len(losses) % CHECKPOINT_EVERY == 0:
            state = {
                "weights": weights.detach(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "losses": losses,
                "rates": rates,
            }
            # Whenever the process dies, the checkpoint is the old one or the new one.
            temporary = checkpoint.with_suffix(".tmp")
            torch.save(state, temporary)
            os.replace(temporary, checkpoint)
    return losses, rates, weights.detach()


def main() -> dict[tuple[str, ...], list[bool]]:
    """Return, for each order, whether losses, rates and weights are the same."""
    losses, rates, weights = train()
    same = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.pt"
        arguments = (checkpoint, ORDERS[-1], KILLED_AT)
        process = get_context("spawn").Process(target=train, args=arguments)
        process.start()
        process.join()
        kept = checkpoint.read_bytes()
        done = len(torch.load(checkpoint)["losses"])
        print(
            f"exit code {process.exitcode} in step {KILLED_AT}; {done} steps are kept"
        )

        print(f"{'resumed by':51}  losses  rates  weights")
        for order in ORDERS:
            checkpoint.write_bytes(kept)
            again = train(checkpoint, order)
            same[order] = [
                again[0] == losses,
                again[1] == rates,
                torch.equal(again[2], weights),
            ]
            words = ["same" if equal else "differ" for equal in same[order]]
            print("{:51}  {:6}  {:5}  {}".format(", ".join(order), *words))
    return same


if __name__ == "__main__":
    main()
