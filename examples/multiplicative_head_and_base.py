"""Give a network's head and its base different schedules.

The base has learned to tell the digits 0 to 4 apart. A new head on top learns all ten.
While it knows nothing it would spoil the base, which therefore begins slowly, gets
faster as the head gets better, and settles together with it. Each group of parameters
has a function of its own that says what its rate is multiplied by at each epoch.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import polyak as optim


def settle(epoch):
    return 0.75


def thaw_then_settle(epoch):
    return 2.0 if epoch <= 5 else 0.75


def train(network, optimizer, inputs, labels):
    """Minimise the cross-entropy over all the data once, in batches."""
    for rows in torch.randperm(len(inputs)).split(64):
        loss = nn.functional.cross_entropy(network(inputs[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main(epochs: int = 12, seed: int = 0) -> list[tuple[float, float, float]]:
    """Return the rates of the base and the head, and the accuracy, by epoch."""
    torch.manual_seed(seed)
    images, digits = load_digits(return_X_y=True)
    images = torch.tensor(images / 16, dtype=torch.float32)
    digits = torch.tensor(digits)
    test = torch.randperm(len(digits)) < 360
    train_images, train_digits = images[~test], digits[~test]

    base = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
    low_digits = nn.Sequential(base, nn.Linear(64, 5))
    optimizer = optim.AdamW(low_digits.parameters())
    low = train_digits < 5
    for _ in range(epochs):
        train(low_digits, optimizer, train_images[low], train_digits[low])

    head = nn.Linear(64, 10)
    network = nn.Sequential(base, head)
    optimizer = optim.AdamW(
        [
            {"params": base.parameters(), "lr": 1e-4},
            {"params": head.parameters(), "lr": 1e-2},
        ]
    )
    scheduler = optim.lr_scheduler.MultiplicativeLR(
        optimizer, [thaw_then_settle, settle]
    )

    history = []
    print("epoch  base     head     right")
    for epoch in range(epochs):
        base_rate, head_rate = scheduler.get_last_lr()
        train(network, optimizer, train_images, train_digits)
        scheduler.step()
        with torch.no_grad():
            correct = network(images[test]).argmax(dim=1) == digits[test]
        accuracy = correct.double().mean().item()
        print(f"{epoch:5}  {base_rate:.5f}  {head_rate:.5f}  {accuracy:.1%}")
        history.append((base_rate, head_rate, accuracy))
    return history


if __name__ == "__main__":
    main()
