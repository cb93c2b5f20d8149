"""skorch: an optimizer by its class, steps with closures, schedulers as callbacks."""

import numpy as np
import pytest
import torch

import polyak
from tests.integration.harness import (
    INPUTS,
    OPTIMIZERS,
    OUTPUTS,
    POLYAK,
    TORCH,
    Run,
    check,
    dataset,
    every_optimizer,
    needs,
    network,
    same,
)

pytestmark = needs("skorch")
EPOCHS = 4


def regressor(library, name, callbacks=(), seed=0, **arguments):
    """A regressor whose optimizer is given by class and arguments."""
    import importlib

    from skorch import NeuralNetRegressor

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = network(seed)

        def forward(self, inputs):
            return self.layers(inputs)

    arguments = {**OPTIMIZERS.get(name, {}), **arguments}
    lr = arguments.pop("lr")
    return NeuralNetRegressor(
        Network,
        optimizer=getattr(importlib.import_module(library), name),
        lr=lr,
        **{f"optimizer__{key}": value for key, value in arguments.items()},
        batch_size=8,
        train_split=None,
        verbose=0,
        callbacks=list(callbacks),
    )
