"""What torch refuses or warns of is refused and warned of here, in torch's words."""

import re

import pytest
import torch
from torch.optim import lr_scheduler as torchs

import polyak.lr_scheduler as ours
from tests.lr_scheduler.harness import assert_unchanged, cases, snapshot, start
from tests.lr_scheduler.nodes import TORCHS, USERS, parameter, sgd

CONSTANT = "Constant multiplicative factor expected to be between 0 and 1."
LINEAR_START = (
    "Starting multiplicative factor expected to be greater than 0 and less or equal to"
)
LINEAR_END = "Ending multiplicative factor expected to be between 0 and 1."
NO_MOMENTUM = "optimizer must support momentum or beta1 with `cycle_momentum` option"


def adagrad():
    """An optimizer without momentum."""
    return torch.optim.Adagrad([parameter()])


def step(module):
    return module.StepLR(sgd(), 2)


def on(kind, optimizer=sgd, **arguments):
    """The construction of a scheduler, in either library."""
    return lambda module: getattr(module, kind)(optimizer(), **arguments)


def foreign(module):
    return module.SequentialLR(sgd(), [step(module), step(module)], [1])


def unowned(module):
    return module.SequentialLR(sgd(), [object()], [])


def too_many_milestones(module):
    scheduler = step(module)
    return module.SequentialLR(scheduler.optimizer, [scheduler], [1])


# What is done with either library, and torch's words for it.
REFUSED = {
    "constant_above": (
        on("ConstantLR", factor=1.5),
        CONSTANT,
    ),
    "constant_below": (
        on("ConstantLR", factor=-0.5),
        CONSTANT,
    ),
    "linear_start_zero": (
        on("LinearLR", start_factor=0.0),
        LINEAR_START,
    ),
    "linear_start_above": (
        on("LinearLR", start_factor=1.5),
        LINEAR_START,
    ),
    "linear_end_above": (
        on("LinearLR", end_factor=1.5),
        LINEAR_END,
    ),
    "linear_end_below": (
        on("LinearLR", end_factor=-0.5),
        LINEAR_END,
    ),
    "lambdas": (
        on("LambdaLR", lr_lambda=[abs, abs]),
        "Expected 1 lr_lambdas, but got 2",
    ),
    "multiplicative_lambdas": (
        on("MultiplicativeLR", lr_lambda=[abs, abs]),
        "Expected 1 lr_lambdas, but got 2",
    ),
    "multiplicative_number": (
        on("MultiplicativeLR", lr_lambda=0.5),
        "lr_lambda should be a function, but got float",
    ),
    "no_schedulers": (
        lambda module: module.SequentialLR(sgd(), [], []),
        "SequentialLR expects at least one scheduler, but got no scheduler",
    ),
    "no_chain": (
        lambda module: module.ChainedScheduler([]),
        "ChainedScheduler expects at least one scheduler to be chained, but got no "
        "scheduler",
    ),
    "other_optimizer": (
        foreign,
        "SequentialLR expects all schedulers to belong to the same optimizer, but got "
        "scheduler StepLR at index 0 has",
    ),
    "other_optimizer_in_a_chain": (
        lambda module: module.ChainedScheduler([step(module), step(module)]),
        "ChainedScheduler expects all schedulers to belong to the same optimizer, but "
        "got scheduler StepLR at index 1 has",
    ),
    "not_a_scheduler": (
        unowned,
        "SequentialLR at index 0 should have `optimizer` as its attribute",
    ),
    "not_a_scheduler_in_a_chain": (
        lambda module: module.ChainedScheduler([step(module), object()]),
        "ChainedScheduler at index 1 should have `optimizer` as its attribute",
    ),
    "plateau_factor": (
        on("ReduceLROnPlateau", factor=1.0),
        "Factor should be < 1.0.",
    ),
    "plateau_mode": (on("ReduceLROnPlateau", mode="mid"), "mode mid is unknown!"),
    "plateau_threshold_mode": (
        on("ReduceLROnPlateau", threshold_mode="mid"),
        "threshold mode mid is unknown!",
    ),
    "plateau_min_lrs": (
        on("ReduceLROnPlateau", min_lr=[0.1, 0.2]),
        "expected 1 min_lrs, got 2",
    ),
    "cyclic_mode": (
        on("CyclicLR", base_lr=0.1, max_lr=0.2, mode="square"),
        "mode is invalid and scale_fn is None",
    ),
    "cyclic_base_lrs": (
        on("CyclicLR", base_lr=[0.1, 0.1], max_lr=0.2),
        "base_lr must have the same length as optimizer.param_groups. base_lr has 2 "
        "values, param_groups has 1.",
    ),
    "cyclic_max_lrs": (
        on("CyclicLR", base_lr=0.1, max_lr=[0.2, 0.2]),
        "max_lr must have the same length as optimizer.param_groups. max_lr has 2 "
        "values, param_groups has 1.",
    ),
    "cyclic_momenta": (
        on("CyclicLR", base_lr=0.1, max_lr=0.2, base_momentum=[0.8, 0.8]),
        "base_momentum must have the same length as optimizer.param_groups.",
    ),
    "cyclic_without_momentum": (
        on("CyclicLR", adagrad, base_lr=0.1, max_lr=0.2),
        NO_MOMENTUM,
    ),
    "one_cycle_without_momentum": (
        on("OneCycleLR", adagrad, max_lr=0.1, total_steps=5),
        NO_MOMENTUM,
    ),
    "one_cycle_max_lrs": (
        on("OneCycleLR", max_lr=[0.1, 0.2], total_steps=5),
        "max_lr must have the same length as optimizer.param_groups. max_lr has 2 "
        "values, param_groups has 1.",
    ),
    "one_cycle_total_steps": (
        on("OneCycleLR", max_lr=0.1, total_steps=0),
        "Expected positive integer total_steps, but got 0",
    ),
    "one_cycle_fraction": (
        on("OneCycleLR", max_lr=0.1, total_steps=2.5),
        "Expected positive integer total_steps, but got 2.5",
    ),
    "one_cycle_epochs": (
        on("OneCycleLR", max_lr=0.1, epochs=-1, steps_per_epoch=5),
        "Expected positive integer epochs, but got -1",
    ),
    "one_cycle_steps_per_epoch": (
        on("OneCycleLR", max_lr=0.1, epochs=5, steps_per_epoch=1.5),
        "Expected positive integer steps_per_epoch, but got 1.5",
    ),
    "one_cycle_no_length": (
        on("OneCycleLR", max_lr=0.1, epochs=5),
        "You must define either total_steps OR (epochs AND steps_per_epoch)",
    ),
    "one_cycle_pct_start": (
        on("OneCycleLR", max_lr=0.1, total_steps=5, pct_start=1.5),
        "Expected float between 0 and 1 pct_start, but got 1.5",
    ),
    "one_cycle_negative_pct_start": (
        on("OneCycleLR", max_lr=0.1, total_steps=5, pct_start=-0.5),
        "Expected float between 0 and 1 pct_start, but got -0.5",
    ),
    "one_cycle_anneal_strategy": (
        on("OneCycleLR", max_lr=0.1, total_steps=5, anneal_strategy="step"),
        "anneal_strategy must be one of 'cos' or 'linear', instead got",
    ),
    "restarts_zero": (
        on("CosineAnnealingWarmRestarts", T_0=0),
        "Expected positive integer T_0, but got 0",
    ),
    "restarts_fraction": (
        on("CosineAnnealingWarmRestarts", T_0=2.5),
        "Expected positive integer T_0, but got 2.5",
    ),
    "restarts_mult": (
        on("CosineAnnealingWarmRestarts", T_0=2, T_mult=0),
        "Expected integer T_mult >= 1, but got 0",
    ),
    "restarts_eta_min": (
        on("CosineAnnealingWarmRestarts", T_0=2, eta_min="low"),
        "Expected float or int eta_min, but got low of type <class 'str'>",
    ),
    "milestones": (
        too_many_milestones,
        "expects number of schedulers provided to be one more than the number of "
        "milestone points, but got number of schedulers 1 and the number of milestones "
        "to be equal to 1",
    ),
    **{
        f"{name}_of_no_optimizer": (
            on(name, object, **arguments),
            "object is not an Optimizer",
        )
        for name, arguments in {
            "StepLR": dict(step_size=2),
            "ExponentialLR": dict(gamma=0.9),
            "CosineAnnealingLR": dict(T_max=2),
            "CosineAnnealingWarmRestarts": dict(T_0=2),
            "CyclicLR": dict(base_lr=0.1, max_lr=0.2),
            "OneCycleLR": dict(max_lr=0.1, total_steps=5),
            "ReduceLROnPlateau": {},
            "LinearLR": {},
        }.items()
    },
}


@pytest.mark.parametrize("label", list(REFUSED))
def test_what_torch_refuses(label):
    """The same type of exception, and a message that holds torch's."""
    build, words = REFUSED[label]
    with pytest.raises(Exception) as expected:  # noqa: PT011 - the table says which
        build(torchs)
    assert words in str(expected.value)
    with pytest.raises(type(expected.value), match=re.escape(words)):
        build(ours)


@cases(
    lambda case: (
        not case.node.children
        and case.node.name in TORCHS.keys() - {"ReduceLROnPlateau"}
        and case.node.name not in USERS
    )
)
def test_get_lr_outside_of_a_step_warns(label):
    """It is for subclasses; a user wants ``get_last_lr``."""
    run = start(label).steps(2)
    before = snapshot(run)
    with pytest.warns(UserWarning, match="please use `get_last_lr") as caught:
        run.scheduler.get_lr()
    assert caught[0].filename == __file__
    assert_unchanged(run, before)
