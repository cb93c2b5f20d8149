"""Networks to train, with what a training step computes the loss of."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["GPT", "NETWORKS", "digits", "gpt"]

# A network, and the loss of its next batch.
Made = tuple[nn.Module, Callable[[], Tensor]]


class GPT(nn.Module):
    """A decoder of two layers."""

    def __init__(
        self, vocabulary: int = 256, context: int = 64, width: int = 128
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(context, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(width)
        self.layers = nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary, bias=False)
        mask = nn.Transformer.generate_square_subsequent_mask(context)
        self.register_buffer("mask", mask)

    def forward(self, tokens: Tensor) -> Tensor:
        """The logits of what comes after each token."""
        seen = self.tokens(tokens) + self.places.weight
        return self.head(self.layers(seen, mask=self.mask, is_causal=True))


def gpt(batch: int = 8, context: int = 64, vocabulary: int = 256) -> Made:
    """The decoder on random tokens."""
    torch.manual_seed(0)
    network = GPT(vocabulary, context)
    batches = cycle(torch.randint(vocabulary, (4, batch, context + 1)))

    def loss() -> Tensor:
        tokens = next(batches)
        logits = network(tokens[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    return network, loss


def digits(batch: int = 64) -> Made:
    """The race's convolutional network on scikit-learn's digits.

    Raises:
        ModuleNotFoundError: there is no scikit-learn.
    """
    from sklearn.datasets import load_digits

    from polyak.race.digits import model

    torch.manual_seed(0)
    network, data = model(), load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target)
    pairs = zip(images.split(batch), labels.split(batch), strict=True)
    batches = cycle([pair for pair in pairs if len(pair[1]) == batch])

    def loss() -> Tensor:
        inputs, wanted = next(batches)
        return F.cross_entropy(network(inputs), wanted)

    return network, loss


NETWORKS: dict[str, Callable[[], Made]] = {
    "digits, convolutions": digits,
    "GPT of 2 layers": gpt,
}
