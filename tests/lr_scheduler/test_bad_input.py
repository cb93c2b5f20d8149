"""A call that fails says what was wrong and what to do, and changes nothing."""

import math

import pytest
import torch

import polyak.lr_scheduler as ours
from polyak import schedules
from tests.lr_scheduler.cases import CASES, DROPS, EXPONENTIAL, LINEAR, PLATEAU, STEP
from tests.lr_scheduler.harness import (
    Run,
    any_number_of_groups,
    assert_unchanged,
    cases,
    snapshot,
    start,
    start_node,
    until_it_fails,
)
from tests.lr_scheduler.nodes import (
    USERS,
    chain,
    harmonic,
    node,
    parameter,
    sequence,
    sgd,
)


def on(kind, *arguments, **keywords):
    """The construction of a scheduler."""
    return lambda optimizer: getattr(ours, kind)(optimizer, *arguments, **keywords)


def sequenced(milestones):
    """The construction of a sequence of three."""

    def build(optimizer):
        parts = [part.build(optimizer) for part in (LINEAR, EXPONENTIAL, STEP)]
        return ours.SequentialLR(optimizer, parts, milestones)

    return build


# What is built, and what the error must name: the class, the argument, its value, and
# a word of the bound or of the remedy.
REFUSED = {
    "step_size_zero": (on("StepLR", 0), ["StepLR", "step_size", "0", ">= 1"]),
    "step_size_negative": (on("StepLR", -3), ["StepLR", "step_size", "-3", ">= 1"]),
    "step_size_fraction": (on("StepLR", 2.5), ["StepLR", "step_size", "2.5", "whole"]),
    "gamma_negative": (on("StepLR", 2, -0.5), ["StepLR", "gamma", "-0.5", ">= 0"]),
    "gamma_nan": (on("ExponentialLR", math.nan), ["ExponentialLR", "gamma", "nan"]),
    "gamma_text": (on("ExponentialLR", "0.9"), ["ExponentialLR", "gamma", "0.9"]),
    "gamma_of_drops": (
        on("MultiStepLR", [1], -1.0),
        ["MultiStepLR", "gamma", "-1.0", ">= 0"],
    ),
    "milestone_negative": (
        on("MultiStepLR", [-2, 5]),
        ["MultiStepLR", "milestones", "-2", ">= 0"],
    ),
    "milestone_fraction": (
        on("MultiStepLR", [2, 5.5]),
        ["MultiStepLR", "milestones", "5.5", "whole"],
    ),
    "milestones_unsorted": (
        on("MultiStepLR", [5, 2]),
        ["MultiStepLR", "milestones", "5, 2", "increasing"],
    ),
    "milestones_a_number": (on("MultiStepLR", 5), ["MultiStepLR", "milestones", "5"]),
    "sequence_unsorted": (
        sequenced([5, 2]),
        ["SequentialLR", "milestones", "5, 2", "increasing"],
    ),
    "sequence_negative": (
        sequenced([-5, 2]),
        ["SequentialLR", "milestones", "-5", ">= 0"],
    ),
    "sequence_fraction": (
        sequenced([1, 2.5]),
        ["SequentialLR", "milestones", "2.5", "whole"],
    ),
    "sequence_too_many": (sequenced([1, 2, 3]), ["Sequential", "3", "milestone"]),
    "constant_above": (on("ConstantLR", 2.0), ["ConstantLR", "factor", "2.0"]),
    "constant_iters": (
        on("ConstantLR", total_iters=-1),
        ["ConstantLR", "total_iters", "-1", ">= 0"],
    ),
    "linear_start": (on("LinearLR", 0.0), ["LinearLR", "start_factor", "0.0"]),
    "linear_end": (on("LinearLR", 0.5, 1.5), ["LinearLR", "end_factor", "1.5"]),
    "linear_iters": (
        on("LinearLR", total_iters=-1),
        ["LinearLR", "total_iters", "-1", ">= 0"],
    ),
    "polynomial_iters": (
        on("PolynomialLR", total_iters=-5),
        ["PolynomialLR", "total_iters", "-5"],
    ),
    "cosine_zero": (
        on("CosineAnnealingLR", 0),
        ["CosineAnnealingLR", "T_max", "0", "> 0"],
    ),
    "restarts_zero": (
        on("CosineAnnealingWarmRestarts", 0),
        ["CosineAnnealingWarmRestarts", "T_0", "0", "positive integer"],
    ),
    "cyclic_up_zero": (
        on("CyclicLR", 0.01, 0.1, step_size_up=0),
        ["CyclicLR", "step_size_up", "0", "> 0"],
    ),
    "cyclic_down_negative": (
        on("CyclicLR", 0.01, 0.1, step_size_up=2, step_size_down=-1),
        ["CyclicLR", "step_size_down", "-1"],
    ),
    "cyclic_base_lrs": (
        on("CyclicLR", [0.1, 0.2, 0.3], 0.5),
        ["CyclicLR", "base_lr", "3", "2"],
    ),
    "pct_start_above": (
        on("OneCycleLR", 0.1, 10, pct_start=1.5),
        ["OneCycleLR", "pct_start", "1.5", "between 0 and 1"],
    ),
    "pct_start_below": (
        on("OneCycleLR", 0.1, 10, pct_start=-0.1),
        ["OneCycleLR", "pct_start", "-0.1", "between 0 and 1"],
    ),
    "pct_start_nan": (
        on("OneCycleLR", 0.1, 10, pct_start=math.nan),
        ["OneCycleLR", "pct_start", "nan"],
    ),
    "div_factor": (
        on("OneCycleLR", 0.1, 10, div_factor=0.0),
        ["OneCycleLR", "div_factor", "0.0", "> 0"],
    ),
    "max_lrs": (
        on("OneCycleLR", [0.1, 0.2, 0.3], 10),
        ["OneCycleLR", "max_lr", "3", "2"],
    ),
    "lambdas": (
        on("LambdaLR", [harmonic]),
        ["LambdaLR", "lr_lambdas", "1", "2", "one a group"],
    ),
    "multiplicative_lambdas": (
        on("MultiplicativeLR", [harmonic] * 3),
        ["MultiplicativeLR", "lr_lambdas", "3", "2"],
    ),
    "lambda_number": (on("LambdaLR", 0.5), ["LambdaLR", "lr_lambda", "float"]),
    "plateau_factor": (
        on("ReduceLROnPlateau", factor=1.5),
        ["ReduceLROnPlateau", "actor", "1.5", "< 1.0"],
    ),
    "plateau_min_lrs": (
        on("ReduceLROnPlateau", min_lr=[0.1]),
        ["ReduceLROnPlateau", "min_lrs", "1", "2"],
    ),
    "plateau_patience": (
        on("ReduceLROnPlateau", patience=-1),
        ["ReduceLROnPlateau", "patience", "-1", ">= 0"],
    ),
    "last_epoch": (on("StepLR", 2, last_epoch=-2), ["StepLR", "last_epoch", "-2"]),
    "last_epoch_fraction": (
        on("StepLR", 2, last_epoch=2.5),
        ["StepLR", "last_epoch", "2.5"],
    ),
    "past_end": (
        on("CosineAnnealingLR", 5, past_end="stop"),
        ["CosineAnnealingLR", "past_end", "stop", "clamp"],
    ),
    "function_that_raises": (on("LambdaLR", lambda epoch: 1 / epoch), ["division"]),
    "function_that_raises_later": (
        on("MultiplicativeLR", lambda epoch: 1 / (epoch - 2), last_epoch=3),
        ["division"],
    ),
    "scale_fn_that_raises": (
        on("CyclicLR", 0.01, 0.1, 2, scale_fn=lambda cycle: 1 / (cycle - 1)),
        ["division"],
    ),
    "unknown_hyperparameter": (
        lambda optimizer: ours.Scheduler(optimizer, momentun=schedules.constant(0.5)),
        ["Scheduler", "momentun", "momentum"],
    ),
}


@pytest.mark.parametrize("label", list(REFUSED))
def test_what_cannot_be_built_changes_nothing(label):
    """Neither the groups nor the optimizer's state; the same object can be used on."""
    build, words = REFUSED[label]
    optimizer = sgd(2)
    optimizer.step()
    run = Run(optimizer, None)
    if "sequence" in label:
        # The children are built before; what the sequence finds, it leaves.
        sequenced([1, 2])(optimizer)
    before = snapshot(run)
    with pytest.raises((ValueError, TypeError, ZeroDivisionError)) as caught:
        build(optimizer)
    message = str(caught.value)
    missing = [word for word in words if word not in message]
    assert not missing, f"{message!r} does not name {missing}"
    if "sequence" not in label:
        assert_unchanged(run, before)
        scheduler = ours.StepLR(optimizer, 1, 0.5)
        optimizer.step()
        scheduler.step()
        assert scheduler.get_last_lr() == [0.05, 0.01]


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_an_optimizer_without_momentum(name):
    """The remedy is an argument."""
    arguments = dict(
        OneCycleLR=dict(max_lr=0.1, total_steps=5),
        CyclicLR=dict(base_lr=0.01, max_lr=0.1),
    )[name]
    run = Run(torch.optim.Adagrad([parameter()], lr=0.3), None)
    before = snapshot(run)
    with pytest.raises(ValueError, match=f"momentum.*{name}.*cycle_momentum=False"):
        getattr(ours, name)(run.optimizer, **arguments)
    assert_unchanged(run, before)
    getattr(ours, name)(run.optimizer, **arguments, cycle_momentum=False)


@pytest.mark.parametrize("name", ["SequentialLR", "ChainedScheduler"])
def test_children_of_another_optimizer(name):
    """Neither the one nor the other is changed, and each child can go on alone."""
    runs = [start_node(STEP, sgd()), start_node(EXPONENTIAL, sgd())]
    before = [snapshot(run) for run in runs]
    schedulers = [run.scheduler for run in runs]
    build = {
        "SequentialLR": lambda: ours.SequentialLR(runs[0].optimizer, schedulers, [3]),
        "ChainedScheduler": lambda: ours.ChainedScheduler(schedulers),
    }[name]
    with pytest.raises(ValueError, match=f"{name}.*ExponentialLR at index 1"):
        build()
    for run, state, node_ in zip(runs, before, (STEP, EXPONENTIAL), strict=True):
        assert_unchanged(run, state)
        assert run.trace(5) == start_node(node_, sgd()).trace(5)


@pytest.mark.parametrize("kind", [ours.StepLR, ours.LambdaLR, ours.OneCycleLR])
@pytest.mark.parametrize("thing", [None, [0.1], torch.nn.Linear(2, 2), sgd])
def test_what_is_no_optimizer(kind, thing):
    """A model, the function that makes it, a list."""
    with pytest.raises(TypeError, match=f"{type(thing).__name__} is not an Optimizer"):
        kind(thing, 2)


# Steps that fail


def failing(at):
    """A function of the epoch that fails at one of them."""

    def function(epoch):
        if epoch == at and function.fails:
            raise RuntimeError(f"no rate at {epoch}")
        return 0.9**epoch

    function.fails = True
    return function


def composed(label, function):
    """A scheduler with this function somewhere inside."""
    lambda_ = node("LambdaLR", lr_lambda=function)
    product = node("MultiplicativeLR", lr_lambda=function)
    cyclic = node(
        "CyclicLR",
        base_lr=0.01,
        max_lr=0.1,
        step_size_up=3,
        scale_fn=function,
        scale_mode="iterations",
    )
    return {
        "lambda": lambda_,
        "one_of_two_groups": node("LambdaLR", lr_lambda=[harmonic, function]),
        "product": product,
        "cyclic": cyclic,
        "in_a_sequence": sequence([0], STEP, lambda_),
        "at_a_milestone": sequence([3], LINEAR, sequence([], lambda_)),
        "in_a_chain": chain(STEP, product, EXPONENTIAL),
        "beside_a_plateau": chain(PLATEAU, sequence([2], LINEAR, product)),
    }[label]


@pytest.mark.parametrize(
    "label",
    [
        "lambda",
        "one_of_two_groups",
        "product",
        "cyclic",
        "in_a_sequence",
        "at_a_milestone",
        "in_a_chain",
        "beside_a_plateau",
    ],
)
def test_a_step_that_fails_changes_nothing(label):
    """And can be done again."""
    at = 0 if label == "at_a_milestone" else 3
    function = failing(at)
    function.fails = False
    made = composed(label, function)
    run = start_node(made, sgd(2))
    due = start_node(composed(label, failing(-1)), sgd(2)).trace(6)
    function.fails = True
    before = until_it_fails(run)
    assert run.epoch >= 2
    assert_unchanged(run, before)
    with pytest.raises(RuntimeError, match=f"no rate at {at}"):
        run.step_scheduler()
    assert_unchanged(run, before)
    function.fails = False
    rest = due[run.epoch :]
    assert run.trace(len(rest) - 1) == rest


PLATEAUS = {
    "plain": PLATEAU,
    "sequence": sequence([2], LINEAR, PLATEAU),
    "chain": chain(STEP, PLATEAU),
    "nested": chain(sequence([], PLATEAU), EXPONENTIAL),
}
every_plateau = pytest.mark.parametrize("label", list(PLATEAUS))


@every_plateau
def test_a_missing_metric(label):
    """The error says how to give it."""
    run = start_node(PLATEAUS[label], sgd(2)).steps(4)
    before = snapshot(run)
    with pytest.raises(TypeError, match="metric") as caught:
        run.scheduler.step()
    if label != "plain":
        assert "step(" in str(caught.value)
        assert "ReduceLROnPlateau" in str(caught.value)
    assert_unchanged(run, before)


@every_plateau
@pytest.mark.parametrize(
    "metric",
    [math.nan, torch.tensor(math.nan), "0.5x", [0.5], torch.ones(2)],
    ids=["nan", "nan_tensor", "text", "list", "tensor_of_two"],
)
def test_a_metric_that_is_no_number(label, metric):
    """Not even one that compares with nothing."""
    run = start_node(PLATEAUS[label], sgd(2)).steps(4)
    before = snapshot(run)
    with pytest.raises((ValueError, TypeError, RuntimeError)) as caught:
        run.scheduler.step(metric)
    if isinstance(metric, float | torch.Tensor) and "nan" in str(metric):
        assert "nan" in str(caught.value)
        assert "ReduceLROnPlateau" in str(caught.value)
    assert_unchanged(run, before)


# State dicts that do not fit


@cases(lambda case: case.node.name not in USERS)
def test_the_state_of_another_class(label):
    """ValueError, and nothing has changed."""
    other = EXPONENTIAL if CASES[label].node.names != {"ExponentialLR"} else DROPS
    state = start_node(other, sgd()).steps(2).scheduler.state_dict()
    run = start(label).steps(3)
    before = snapshot(run)
    with pytest.raises(ValueError, match=type(run.scheduler).__name__):
        run.scheduler.load_state_dict(state)
    assert_unchanged(run, before)


@any_number_of_groups
def test_the_state_of_more_groups(label):
    """The message has both numbers."""
    state = start(label, "groups").steps(2).scheduler.state_dict()
    run = start(label, "sgd").steps(3)
    before = snapshot(run)
    with pytest.raises(ValueError, match=r"\b3\b.*\b1\b"):
        run.scheduler.load_state_dict(state)
    assert_unchanged(run, before)


def test_the_state_of_other_children():
    """A child that cannot load takes back what its elders have loaded."""
    state = start_node(sequence([4], LINEAR, EXPONENTIAL), sgd()).steps(2)
    run = start_node(sequence([4], LINEAR, STEP), sgd()).steps(5)
    before = snapshot(run)
    with pytest.raises(ValueError, match="StepLR"):
        run.scheduler.load_state_dict(state.scheduler.state_dict())
    assert_unchanged(run, before)


@pytest.mark.parametrize("count", [1, 3])
def test_the_state_of_another_number_of_children(count):
    """Fewer or more."""
    parts = [LINEAR, STEP, EXPONENTIAL][:count]
    state = start_node(chain(*parts), sgd()).steps(2).scheduler.state_dict()
    run = start_node(chain(LINEAR, STEP), sgd()).steps(3)
    before = snapshot(run)
    with pytest.raises(ValueError, match=f"{count}"):
        run.scheduler.load_state_dict(state)
    assert_unchanged(run, before)


@pytest.mark.parametrize("state", [{}, {"last_epoch": 3}, {"gamma": 0.5}])
def test_what_is_no_state_dict(state):
    """The error says what is missing."""
    run = start_node(STEP, sgd()).steps(3)
    before = snapshot(run)
    with pytest.raises(ValueError, match="lacks"):
        run.scheduler.load_state_dict(state)
    assert_unchanged(run, before)


class _Halving:
    """A function that is an object."""

    def __init__(self, every):
        self.every = every

    def __call__(self, k):
        return 0.5 ** (k // self.every)


def _two_groups(rates):
    params = [torch.nn.Parameter(torch.ones(1)) for _ in rates]
    groups = [{"params": [p], "lr": r} for p, r in zip(params, rates, strict=True)]
    return torch.optim.SGD(groups, momentum=0.9)


def test_a_load_that_fails_leaves_functions_as_they_were():
    saved = ours.LambdaLR(_two_groups([0.1, 0.2]), _Halving(2))
    state = saved.state_dict()
    state["_class"] = "StepLR"
    scheduler = ours.LambdaLR(_two_groups([0.1, 0.2]), _Halving(5))
    with pytest.raises(ValueError, match="StepLR"):
        scheduler.load_state_dict(state)
    assert scheduler.lr_lambdas[0].every == 5


def test_a_member_that_fails_leaves_the_functions_of_the_others():
    def sequence(function):
        optimizer = _two_groups([0.1, 0.2])
        members = [ours.LambdaLR(optimizer, function), ours.StepLR(optimizer, 3)]
        return ours.SequentialLR(optimizer, members, [2])

    state = sequence(_Halving(2)).state_dict()
    state["_schedulers"][1]["_class"] = "ConstantLR"
    scheduler = sequence(_Halving(5))
    with pytest.raises(ValueError, match="ConstantLR"):
        scheduler.load_state_dict(state)
    assert scheduler._schedulers[0].lr_lambdas[0].every == 5


def test_a_load_that_fails_leaves_the_levels_of_the_groups():
    """The state is of two groups that differ; a third says nothing."""
    one_cycle = ours.OneCycleLR
    saved = one_cycle(_two_groups([0.1, 0.2]), [1.0, 2.0], total_steps=9)
    scheduler = one_cycle(_two_groups([0.1, 0.2]), [3.0, 4.0], total_steps=9)
    new = torch.nn.Parameter(torch.ones(1))
    scheduler.optimizer.add_param_group({"params": [new], "lr": 0.1})
    with pytest.raises(ValueError, match="differ"):
        scheduler.load_state_dict(saved.state_dict())
    assert [g.get("max_lr") for g in scheduler.optimizer.param_groups] == [3, 4, None]
