"""The shapes of published networks' parameters, made without a download."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Shape", "gpt2_small", "resnet50"]

Shape = tuple[int, ...]


def resnet50() -> tuple[Shape, ...]:
    """The shapes of ResNet-50's parameters (He et al., 2015, as torchvision has it)."""
    shapes: list[Shape] = [*_convolution(3, 64, 7)]
    inputs = 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            shapes += _convolution(inputs, width, 1)
            shapes += _convolution(width, width, 3)
            shapes += _convolution(width, 4 * width, 1)
            if block == 0:
                shapes += _convolution(inputs, 4 * width, 1)
            inputs = 4 * width
    return (*shapes, (1000, inputs), (1000,))


def _convolution(inputs: int, outputs: int, size: int) -> Iterator[Shape]:
    """A convolution and the batch normalisation that follows it."""
    yield (outputs, inputs, size, size)
    yield (outputs,)
    yield (outputs,)


def gpt2_small() -> tuple[Shape, ...]:
    """The shapes of GPT-2 small's parameters (Radford et al., 2019, as published)."""
    vocabulary, context, width, layers = 50_257, 1024, 768, 12
    norm: list[Shape] = [(width,), (width,)]
    attention: list[Shape] = [(width, 3 * width), (3 * width,), (width, width)]
    perceptron: list[Shape] = [(width, 4 * width), (4 * width,), (4 * width, width)]
    block = [*norm, *attention, (width,), *norm, *perceptron, (width,)]
    return ((vocabulary, width), (context, width), *block * layers, *norm)
