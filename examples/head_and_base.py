"""Give a network's head and its base different learning rates.

The base has learned to tell odd digits from even ones. A new head on top learns to
tell all ten apart; meanwhile the base, which knows something already, moves ten times
slower. Parameters that share their settings form a group.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import polyak as optim


def train(network, optimizer, inputs, labels, epochs):
    """Minimise the cross-entropy over all the data, in batches."""
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(64):
            loss = nn.functional.cross_entropy(network(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main(seed: int = 0) -> float:
    """Return the share of test digits that the network names correctly."""
    torch.manual_seed(seed)
    images, digits = load_digits(return_X_y=True)
    images, digits = (
        torch.tensor(images / 16, dtype=torch.float32),
        torch.tensor(digits),
    )
    test = torch.randperm(len(digits)) < 360
    train_images, train_digits = images[~test], digits[~test]

    base = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
    parity = nn.Sequential(base, nn.Linear(64, 2))
    optimizer = optim.AdamW(parity.parameters())
    train(parity, optimizer, train_images, train_digits % 2, epochs=10)

    head = nn.Linear(64, 10)
    optimizer = optim.AdamW(
        [
            {"params": base.parameters(), "lr": 1e-3},
            {"params": head.parameters()},
        ],
        lr=1e-2,
    )
    network = nn.Sequential(base, head)
    train(network, optimizer, train_images, train_digits, epochs=10)

    with torch.no_grad():
        correct = network(images[test]).argmax(dim=1) == digits[test]
    accuracy = correct.double().mean().item()
    print(f"{accuracy:.1%} of the test digits are right")
    return accuracy


if __name__ == "__main__":
    main()
