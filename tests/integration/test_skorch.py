"""skorch: an optimizer by its class, steps with closures, schedulers as callbacks."""

import importlib

import pytest
import torch

import polyak
from tests.integration.harness import (
    OPTIMIZERS,
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


def regressor(library, name, policy=None, **arguments):
    """A regressor whose optimizer and scheduler are given by class and arguments."""
    from skorch import NeuralNetRegressor
    from skorch.callbacks import LRScheduler

    arguments = {**OPTIMIZERS.get(name, {}), **arguments}
    scheduled = [] if policy is None else [LRScheduler(**policy)]
    return NeuralNetRegressor(
        network(),
        optimizer=getattr(importlib.import_module(library), name),
        **{f"optimizer__{key}": value for key, value in arguments.items()},
        batch_size=8,
        train_split=None,
        verbose=0,
        callbacks=scheduled,
    )


def fit(net, epochs=EPOCHS):
    """Train on; the batches of these epochs."""
    inputs, targets = dataset().tensors
    net.partial_fit(inputs.numpy(), targets.numpy(), epochs=epochs)
    losses = net.history[-epochs:, "batches", :, "train_loss"]
    run = Run([loss for epoch in losses for loss in epoch])
    run.rates = [net.optimizer_.param_groups[0]["lr"]]
    return run.finish(net.module_, net.optimizer_)


POLICIES = [
    {"policy": "CosineAnnealingLR", "T_max": 40, "step_every": "batch"},
    {"policy": "StepLR", "step_size": 1, "gamma": 0.5},
    {"policy": "ReduceLROnPlateau", "patience": 0, "threshold": 0.5},
]


@every_optimizer
@pytest.mark.parametrize("schedulers", [torch.optim.lr_scheduler, polyak.lr_scheduler])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy["policy"])
def test_a_run(name, policy, schedulers):
    """Also a scheduler that is given the loss of an epoch."""
    kind = getattr(schedulers, policy["policy"])
    check(lambda library: fit(regressor(library, name, {**policy, "policy": kind})))


def test_lbfgs():
    """Its closure is skorch's."""
    check(lambda library: fit(regressor(library, "LBFGS", lr=0.1, max_iter=4)))


@every_optimizer
@pytest.mark.parametrize("saved_by", [POLYAK, TORCH])
@pytest.mark.parametrize("read_by", [POLYAK, TORCH])
def test_a_run_goes_on(name, saved_by, read_by, tmp_path):
    """By ``save_params`` and ``load_params``, whoever saved."""
    files = {f"f_{part}": tmp_path / part for part in ("params", "optimizer")}
    control = regressor(TORCH, name).initialize()
    fit(control)

    saved, read = (regressor(kind, name).initialize() for kind in (saved_by, read_by))
    fit(saved)
    saved.save_params(**files)
    read.load_params(**files)
    same(fit(read), fit(control))


def test_groups_by_the_names_of_parameters():
    """skorch's own way to say which parameters have which rates."""

    def run(library):
        groups = [("2.*", {"lr": 0.02})]
        net = regressor(library, "SGD", param_groups=groups).initialize()
        assert [group["lr"] for group in net.optimizer_.param_groups] == [0.02, 0.1]
        return fit(net)

    check(run)
