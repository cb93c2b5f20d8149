"""Warm up, then reduce the learning rate whenever the validation loss stops falling.

Stochastic gradients are noisy, and with a constant rate the loss ends up no lower than
the noise lets it: each reduction lets it fall further. One ``scheduler.step(loss)``
drives both parts; the warm-up does not look at the loss.
"""

import torch

import polyak as optim
from polyak.lr_scheduler import LinearLR, ReduceLROnPlateau, SequentialLR


def noisy_line(count, truth, generator):
    inputs = torch.randn(count, len(truth), generator=generator)
    return inputs, inputs @ truth + torch.randn(count, generator=generator)


def main(epochs: int = 30) -> list[tuple[float, float]]:
    """Return the learning rate and the validation loss of each epoch."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(20, generator=generator)
    inputs, targets = noisy_line(512, truth, generator)
    validation_inputs, validation_targets = noisy_line(4096, truth, generator)

    weights = torch.zeros(20, requires_grad=True)
    optimizer = optim.SGD([weights], lr=0.1)
    scheduler = SequentialLR(
        optimizer,
        [
            LinearLR(optimizer, start_factor=0.1, total_iters=5),
            ReduceLROnPlateau(optimizer, factor=0.3, patience=2),
        ],
        milestones=[5],
    )

    history = []
    print("epoch  rate      validation loss")
    for epoch in range(epochs):
        (rate,) = scheduler.get_last_lr()
        for rows in torch.randperm(len(inputs), generator=generator).split(8):
            loss = (inputs[rows] @ weights - targets[rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            errors = validation_inputs @ weights - validation_targets
        validation_loss = errors.square().mean().item()
        scheduler.step(validation_loss)
        print(f"{epoch:5}  {rate:.6f}  {validation_loss:.4f}")
        history.append((rate, validation_loss))
    return history


if __name__ == "__main__":
    main()
