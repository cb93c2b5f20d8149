"""``SWALR`` in sequences: it begins at the rates at which the member before ends."""

import warnings
from copy import deepcopy

import pytest
import torch
from torch.optim import lr_scheduler as torchs_schedulers
from torch.optim import swa_utils as torchs

import polyak.lr_scheduler as our_schedulers
import polyak.swa_utils as ours
from polyak import schedules
from polyak.pictures.rehearsal import rehearse
from tests.lr_scheduler.harness import Run, assert_close, lrs_of, through_torch
from tests.lr_scheduler.nodes import sgd, tensor

TORCH, OURS = (torchs_schedulers, torchs), (our_schedulers, ours)
STEPS = 16
GOALS = [0.05, 0.3, 0.01]

every_strategy = pytest.mark.parametrize("strategy", ["cos", "linear"])
every_epoch = pytest.mark.parametrize("epoch", range(STEPS))


@pytest.fixture(autouse=True)
def _torch_warns_of_its_own_calls():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The epoch parameter")
        warnings.filterwarnings("ignore", message="Detected call of `lr_sch")
        yield


# What is built: two schedulers first, an SWALR, and in the last one another after it


def parts(library, optimizer, goals=GOALS, **arguments):
    schedulers, swa = library
    return (
        schedulers.CosineAnnealingLR(optimizer, 10),
        schedulers.ExponentialLR(optimizer, 0.8),
        swa.SWALR(optimizer, goals, **{"anneal_epochs": 5, **arguments}),
    )


def flat(library, optimizer, milestones=(3, 7), **arguments):
    members = list(parts(library, optimizer, **arguments))
    return library[0].SequentialLR(optimizer, members, list(milestones))


def twice(optimizer):
    last = ours.SWALR(optimizer, GOALS, anneal_epochs=4)
    return sequence(optimizer, [*parts(OURS, optimizer), last], [2, 5, 8])


def sequence(optimizer, members, milestones):
    return our_schedulers.SequentialLR(optimizer, members, milestones)


def inner_last(optimizer):
    cosine, exponential, swalr = parts(OURS, optimizer)
    inner = sequence(optimizer, [exponential, swalr], [4])
    return sequence(optimizer, [cosine, inner], [3])


def inner_first(optimizer):
    cosine, exponential, swalr = parts(OURS, optimizer)
    inner = sequence(optimizer, [cosine, exponential], [3])
    return sequence(optimizer, [inner, swalr], [7])


def inner_begins_with_it(optimizer):
    """Two deep; and the inner ones go on with what begins at its base rate."""
    cosine, exponential, swalr = parts(OURS, optimizer)
    step = our_schedulers.StepLR(optimizer, 2)
    inner = sequence(optimizer, [sequence(optimizer, [swalr], []), step], [6])
    return sequence(optimizer, [cosine, exponential, inner], [3, 7])


def in_a_chain(optimizer):
    drop = our_schedulers.MultiStepLR(optimizer, [9], 0.1)
    return our_schedulers.ChainedScheduler([flat(OURS, optimizer), drop])


BUILDS = {
    "flat": lambda optimizer: flat(OURS, optimizer),
    "twice": twice,
    "inner_last": inner_last,
    "inner_first": inner_first,
    "inner_begins_with_it": inner_begins_with_it,
    "in_a_chain": in_a_chain,
}
every_build = pytest.mark.parametrize("build", list(BUILDS))


def begun(build):
    optimizer = sgd(3)
    return Run(optimizer, BUILDS[build](optimizer))


def traced(run, steps=STEPS):
    return [seen["groups"] for seen in run.trace(steps)]


def rates(library, optimizer, **arguments):
    run = Run(optimizer, flat(library, optimizer, **arguments))
    return [[group["lr"] for group in seen] for seen in traced(run)]


# Parity


@every_strategy
@pytest.mark.parametrize("epochs", [0, 1, 5])
@pytest.mark.parametrize("milestones", [(3, 7), (1, 2), (0, 4)])
@pytest.mark.parametrize("goals", [GOALS, 0.0, 0.02])
def test_parity(strategy, epochs, milestones, goals):
    """Groups above their last rate and below; one whose last rate is its base rate."""
    arguments = dict(
        anneal_epochs=epochs,
        anneal_strategy=strategy,
        milestones=milestones,
        goals=goals,
    )
    actual, expected = (rates(lib, sgd(3), **arguments) for lib in (OURS, TORCH))
    assert_close(actual, expected, 1e-12)


def test_a_tensor():
    """As torch's, in float32."""
    actual, expected = (rates(lib, tensor(), goals=0.05) for lib in (OURS, TORCH))
    assert_close(actual, expected, 1e-6)


@pytest.mark.parametrize("epoch", [4, 8])
def test_rates_set_by_hand(epoch):
    """Before the milestone or after it: what is found is what is annealed."""
    traces = []
    for library in (OURS, TORCH):
        optimizer = sgd(3)
        run = Run(optimizer, flat(library, optimizer)).steps(epoch)
        optimizer.param_groups[1]["lr"] *= 3
        traces.append(traced(run))
    assert_close(*traces, 1e-12)


# A function of the step


@every_build
def test_what_is_predicted_happens(build):
    """Bit for bit, at every epoch, for every epoch; and nothing is changed by it."""
    run = begun(build)
    happens = [seen["last_lr"] for seen in run.trace(STEPS)]
    run = begun(build)
    for _ in range(STEPS):
        before = deepcopy(run.scheduler.state_dict())
        values = [run.scheduler.value_at(step) for step in range(STEPS + 1)]
        assert values == happens
        assert run.scheduler.state_dict() == before
        run.step()


@every_build
def test_a_rehearsal_is_what_happens(build):
    """Begun anywhere: what the pictures show."""
    run = begun(build).steps(5)
    shown = rehearse([run.scheduler], 10)["lr"].tolist()
    assert shown == [seen["last_lr"] for seen in run.trace(9)]


@pytest.mark.parametrize("build", ["inner_last", "inner_first"])
def test_a_nested_sequence_is_the_flat_one(build):
    """Bit for bit."""
    assert traced(begun(build)) == traced(begun("flat"))


def test_an_inner_sequence_hands_on_where_it_begins():
    """To its first member, at any depth; the next one starts from its base rate."""
    trace, plain = traced(begun("inner_begins_with_it")), traced(begun("flat"))
    assert trace[:13] == plain[:13]
    assert [group["lr"] for group in trace[13]] == lrs_of(sgd(3))


def test_a_chain_multiplies_it():
    """By what the other members do."""
    chained, alone = (begun(build) for build in ("in_a_chain", "flat"))
    expected = [
        [group["lr"] * (0.1 if epoch >= 9 else 1) for group in groups]
        for epoch, groups in enumerate(traced(alone))
    ]
    actual = [[group["lr"] for group in groups] for groups in traced(chained)]
    assert_close(actual, expected, 1e-12)


@pytest.mark.parametrize("build", [name for name in BUILDS if name != "in_a_chain"])
@every_epoch
def test_an_epoch_can_be_gone_to(build, epoch):
    """From behind it and from ahead of it, by the deprecated argument."""
    whole = traced(begun(build))
    for steps in (2, 14):
        run = begun(build).steps(steps)
        run.scheduler._take_step(epoch)
        assert lrs_of(run.optimizer) == [group["lr"] for group in whole[epoch]]


def test_nothing_is_left_of_what_is_gone_back_from():
    """Rates that were set by hand, from which an inner sequence of two began."""

    def fresh():
        optimizer = sgd(3)
        cosine, _, swalr = parts(OURS, optimizer)
        last = ours.SWALR(optimizer, 0.2, anneal_epochs=5)
        inner = sequence(optimizer, [swalr, last], [3])
        return Run(optimizer, sequence(optimizer, [cosine, inner], [4]))

    run = fresh().steps(3)
    run.optimizer.param_groups[0]["lr"] *= 2
    run.steps(7).scheduler._take_step(2)
    whole = [seen["last_lr"] for seen in fresh().trace(STEPS)]
    assert [run.scheduler.value_at(step) for step in range(STEPS + 1)] == whole
    assert [seen["last_lr"] for seen in run.trace(STEPS - 2)] == whole[2:]


def test_after_a_plateau():
    """From the rates to which it has brought them, which nobody can predict."""
    optimizer = sgd(2)
    plateau = our_schedulers.ReduceLROnPlateau(optimizer, patience=0)
    swalr = ours.SWALR(optimizer, 0.05, anneal_epochs=2, anneal_strategy="linear")
    scheduler = sequence(optimizer, [plateau, swalr], [4])
    with pytest.raises(TypeError, match="no function of the step"):
        scheduler.value_at(5)
    trace = [seen["last_lr"] for seen in Run(optimizer, scheduler, True).trace(6)]
    assert trace[3] != [0.1, 0.02]
    halfway = [(rate + 0.05) / 2 for rate in trace[3]]
    assert_close(trace[4:], [trace[3], halfway, [0.05, 0.05]], 1e-12)
    assert scheduler.value_at(5) == trace[5]


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_after_one_that_leaves_a_group_alone(kind):
    """The group begins where it was left."""
    optimizer = sgd(2)
    for group in optimizer.param_groups:
        group["lr"] = kind(group["lr"])
    first = our_schedulers.ExponentialLR(optimizer, 0.5)
    second = our_schedulers.Scheduler(optimizer, groups=[0], lr=schedules.constant(0.3))
    swalr = ours.SWALR(optimizer, 0.05, anneal_epochs=4, anneal_strategy="linear")
    scheduler = sequence(optimizer, [first, second, swalr], [3, 5])
    assert_close(float(scheduler.value_at(7)[0]), 0.04, 1e-6)
    trace = [seen["last_lr"] for seen in Run(optimizer, scheduler).trace(7)]
    assert_close(trace[4:6], [[0.03, 0.005]] * 2, 1e-6)
    assert_close(trace[6:], [[0.035, 0.01625], [0.04, 0.0275]], 1e-6)


# Resuming


@every_build
@every_epoch
@pytest.mark.parametrize("trained", [0, 12])
def test_resume(build, epoch, trained):
    """Bit for bit, into a new run or one that was elsewhere."""
    whole = begun(build).steps(epoch)
    state = through_torch(deepcopy(whole.scheduler.state_dict()))
    run = begun(build).steps(trained)
    run.scheduler.load_state_dict(state)
    run.epoch = epoch
    values = [whole.scheduler.value_at(step) for step in range(STEPS)]
    assert [run.scheduler.value_at(step) for step in range(STEPS)] == values
    assert traced(run) == traced(whole)


@every_epoch
def test_resume_after_rates_were_set_by_hand(epoch):
    """What it began at is in the state."""
    whole = begun("flat").steps(5)
    whole.optimizer.param_groups[0]["lr"] *= 2
    whole.steps(epoch)
    run = begun("flat")
    run.scheduler.load_state_dict(through_torch(deepcopy(whole.scheduler.state_dict())))
    assert traced(run) == traced(whole)


@every_strategy
@every_epoch
def test_a_state_of_torchs(strategy, epoch):
    """A run that torch's began; and where it leads is known."""
    torch_optimizer, optimizer = sgd(3), sgd(3)
    arguments = dict(anneal_strategy=strategy)
    whole = Run(torch_optimizer, flat(TORCH, torch_optimizer, **arguments)).steps(epoch)
    run = Run(optimizer, flat(OURS, optimizer, **arguments))
    run.scheduler.load_state_dict(deepcopy(whole.scheduler.state_dict()))
    values = [run.scheduler.value_at(step) for step in range(epoch, epoch + STEPS)]
    trace = [lrs_of(torch_optimizer)]
    for _ in range(STEPS - 1):
        whole.step()
        trace.append(lrs_of(torch_optimizer))
    assert_close(values, trace, 1e-12)
    assert_close([seen["last_lr"] for seen in run.trace(STEPS - 1)], trace, 1e-12)


@every_build
@every_epoch
def test_this_runs_arguments_are_kept(build, epoch):
    """With half the rates, it goes on as half the rates would have come there."""
    state = begun(build).steps(epoch).scheduler.state_dict()

    def halved():
        optimizer = sgd(3)
        for group in optimizer.param_groups:
            group["lr"] /= 2
        return Run(optimizer, BUILDS[build](optimizer))

    run = halved()
    run.scheduler.load_state_dict(state, hyperparams="current")
    assert traced(run) == traced(halved().steps(epoch))


def test_other_milestones():
    """Where this run's members lead to."""
    state = begun("flat").steps(9).scheduler.state_dict()

    def sooner():
        optimizer = sgd(3)
        return Run(optimizer, flat(OURS, optimizer, milestones=(3, 5)))

    run = sooner()
    run.scheduler.load_state_dict(state, hyperparams="current")
    assert traced(run) == traced(sooner().steps(9))


def test_a_group_that_is_added():
    """It begins where it is, and goes where the others go."""
    run = begun("flat").steps(9)
    added = {"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1.0, "swa_lr": 0.3}
    run.optimizer.add_param_group(added)
    trace = [seen["last_lr"] for seen in run.trace(4)]
    assert 0.3 < trace[1][3] < 1.0
    assert trace[-1] == [*GOALS, 0.3]
