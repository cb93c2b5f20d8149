"""Average the weights of a run: SWA and EMA, beside the last weights of the same run.

Three in ten of the training labels are wrong, and the rate stays high: the last weights
have just been pulled to whatever labels the last batches had. Averages are not. Each
seed is trained once for the last weights and both averages, and once more with a rate
that decays, as one would without averages. Given a path, the accuracies are drawn.
"""

import sys
from collections.abc import Iterable

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn

import polyak as optim
from polyak.lr_scheduler import CosineAnnealingLR
from polyak.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

WRONG, TRAINED_ON, BATCH, RATE = 0.3, 1024, 32, 0.1


def noisy_digits():
    """The digits in a random order, some of those to train on with a wrong label."""
    images, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(digits))
    images = torch.tensor(images / 16, dtype=torch.float32)[order]
    digits = torch.tensor(digits)[order]
    wrong = torch.rand(TRAINED_ON) < WRONG
    labels = (digits[:TRAINED_ON] + wrong * torch.randint(1, 10, (TRAINED_ON,))) % 10
    return images[:TRAINED_ON], labels, images[TRAINED_ON:], digits[TRAINED_ON:]


def network_and_optimizer():
    network = nn.Sequential(
        *[nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()],
        *[nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()],
        nn.Linear(64, 10),
    )
    optimizer = optim.SGD(
        network.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4
    )
    return network, optimizer


def train_epoch(network, optimizer, images, labels, ema=None):
    network.train()
    for rows in torch.randperm(len(images)).split(BATCH):
        loss = nn.functional.cross_entropy(network(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if ema is not None:
            ema.update_parameters(network)


def accuracy(network, images, digits):
    network.eval()
    with torch.no_grad():
        return (network(images).argmax(dim=1) == digits).double().mean().item()


def averaged_run(epochs, images, labels, test):
    """Train once; the accuracies of the last weights and of their averages."""
    network, optimizer = network_and_optimizer()
    swa = AveragedModel(network)
    ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.995))
    swa_start = epochs // 2

    for epoch in range(epochs):
        if epoch == swa_start:
            scheduler = SWALR(optimizer, swa_lr=RATE / 2, anneal_epochs=5)
        train_epoch(network, optimizer, images, labels, ema)
        if epoch >= swa_start:
            swa.update_parameters(network)
            scheduler.step()

    found = {"plain": accuracy(network, *test)}
    found["SWA without update_bn"] = accuracy(swa, *test)
    for name, average in (("SWA", swa), ("EMA", ema)):
        update_bn(images.split(256), average)
        found[name] = accuracy(average, *test)
    return found


def decayed_run(epochs, images, labels, test):
    """Train with a rate that decays to 0; the accuracy of the last weights."""
    network, optimizer = network_and_optimizer()
    scheduler = CosineAnnealingLR(optimizer, T_max=epochs)
    for _ in range(epochs):
        train_epoch(network, optimizer, images, labels)
        scheduler.step()
    return {"plain, rate decayed": accuracy(network, *test)}


def draw(accuracies, path):
    """Draw the accuracies: a column for each way, a line for each seed, the means."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    columns = torch.tensor(list(accuracies.values())) * 100
    axes.plot(columns, color="0.8", linewidth=0.8, zorder=1)
    for x, column in enumerate(columns):
        axes.scatter([x] * len(column), column, s=18, color="C0", zorder=2)
        axes.plot([x - 0.2, x + 0.2], [column.mean()] * 2, color="C3", linewidth=2)
    names = [name.replace(" without", "\nwithout") for name in accuracies]
    axes.set_xticks(range(len(names)), [name.replace(", ", ",\n") for name in names])
    axes.set_ylabel("test accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)
    print(f"wrote {path}")


def main(
    path: str | None = None, seeds: Iterable[int] = range(10), epochs: int = 40
) -> dict[str, list[float]]:
    """Return the test accuracies, one a seed, of each way."""
    accuracies: dict[str, list[float]] = {}
    for seed in seeds:
        torch.manual_seed(seed)
        images, labels, *test = noisy_digits()
        found = averaged_run(epochs, images, labels, test)
        found |= decayed_run(epochs, images, labels, test)
        for name, right in found.items():
            accuracies.setdefault(name, []).append(right)

    print(f"{'test accuracy':22} mean    deviation  better than plain")
    plain = accuracies["plain"]
    for name, column in accuracies.items():
        deviation, mean = torch.std_mean(
            torch.tensor(column), correction=min(1, len(column) - 1)
        )
        better = sum(a > b for a, b in zip(column, plain, strict=True))
        print(f"{name:22} {mean:6.2%}  {deviation:6.2%}     {better} of {len(plain)}")
    if path is not None:
        draw(accuracies, path)
    return accuracies


if __name__ == "__main__":
    main(*sys.argv[1:2])
