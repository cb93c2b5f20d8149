"""The default task: handwritten digits, 1797 images of 8 by 8, and a small CNN."""

from torch import nn

from .errors import RaceError
from .task import Task, classification


def task() -> Task:
    """Scikit-learn's digits, a fifth of them kept for the test."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise RaceError(
            "the digits come with scikit-learn, which is not installed: "
            "pip install polyak[race], or race on data of your own with --task"
        ) from error
    digits = load_digits()
    images = digits.images[:, None] / digits.images.max()
    return classification("digits", images, digits.target, model, target=0.97)


def model() -> nn.Module:
    """Two convolutions and a linear layer: 9,930 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )
