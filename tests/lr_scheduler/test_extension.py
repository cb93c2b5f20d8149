"""Another length on resume: this run's arguments or the checkpoint's; past the end."""

import warnings

import pytest

import polyak.lr_scheduler as ours
from tests.lr_scheduler.harness import (
    assert_unchanged,
    snapshot,
    start_node,
)
from tests.lr_scheduler.nodes import chain, harmonic, node, sequence, sgd

BATCHES = 3

# The arguments of a run, those of the run that resumes it, and the one that is named.
CHANGES = {
    "OneCycleLR": (
        dict(max_lr=0.1, epochs=5, steps_per_epoch=BATCHES),
        dict(max_lr=0.1, epochs=10, steps_per_epoch=BATCHES),
        "total_steps",
    ),
    "CosineAnnealingLR": (dict(T_max=15), dict(T_max=30), "T_max"),
    "LinearLR": (
        dict(start_factor=0.1, total_iters=15),
        dict(start_factor=0.1, total_iters=30),
        "total_iters",
    ),
    "PolynomialLR": (dict(total_iters=15), dict(total_iters=30), "total_iters"),
    "ConstantLR": (dict(total_iters=10), dict(total_iters=20), "total_iters"),
    "StepLR": (dict(step_size=5, gamma=0.5), dict(step_size=8, gamma=0.5), "step_size"),
    "MultiStepLR": (
        dict(milestones=[5, 10], gamma=0.5),
        dict(milestones=[10, 20], gamma=0.5),
        "milestones",
    ),
    "ExponentialLR": (dict(gamma=0.9), dict(gamma=0.95), "gamma"),
    "CosineAnnealingWarmRestarts": (dict(T_0=5), dict(T_0=10), "T_0"),
    "CyclicLR": (
        dict(base_lr=0.01, max_lr=0.1, step_size_up=5, step_size_down=5),
        dict(base_lr=0.01, max_lr=0.1, step_size_up=10, step_size_down=5),
        "step_size_up",
    ),
    "ReduceLROnPlateau": (dict(patience=3), dict(patience=5), "patience"),
}
every_change = pytest.mark.parametrize("name", list(CHANGES))


def old_and_new(name, epoch=7):
    """A run that has come some way, and a new one with other arguments."""
    old_arguments, new_arguments, _ = CHANGES[name]
    old = start_node(node(name, **old_arguments), sgd(2)).steps(epoch)
    new = start_node(node(name, **new_arguments), sgd(2))
    return old, new


@every_change
def test_this_runs_arguments_can_be_kept(name):
    """The rates are those of the new arguments, from the checkpoint's epoch on."""
    old, new = old_and_new(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new.scheduler.load_state_dict(old.scheduler.state_dict(), hyperparams="current")
    assert new.scheduler.last_epoch == 7
    new.epoch = 7
    reference = start_node(node(name, **CHANGES[name][1]), sgd(2)).steps(7)
    if name == "ReduceLROnPlateau":
        assert new.scheduler.patience == 5
        return
    assert new.trace(5) == reference.trace(5)


@every_change
@pytest.mark.parametrize("choice", [{}, {"hyperparams": "checkpoint"}])
def test_a_changed_argument_warns(name, choice):
    """By default the checkpoint's arguments are restored; the warning says which."""
    old, new = old_and_new(name)
    with pytest.warns(UserWarning, match=CHANGES[name][2]) as caught:
        new.scheduler.load_state_dict(old.scheduler.state_dict(), **choice)
    assert any("hyperparams" in str(warning.message) for warning in caught)
    new.epoch = 7
    assert new.trace(5) == old.trace(5)


@every_change
def test_the_same_arguments_do_not_warn(name):
    """Not even where they are lists, tuples or have been through a file."""
    old, _ = old_and_new(name)
    new = start_node(node(name, **CHANGES[name][0]), sgd(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new.scheduler.load_state_dict(old.scheduler.state_dict())


def test_five_epochs_become_ten():
    """As users do it: the optimizer loaded, the scheduler built longer, then loaded."""
    short = node("OneCycleLR", max_lr=0.1, total_steps=5 * BATCHES)
    long = node("OneCycleLR", max_lr=0.1, total_steps=10 * BATCHES)
    old = start_node(short, sgd()).steps(5 * BATCHES - 1)
    optimizer = sgd()
    optimizer.load_state_dict(old.optimizer.state_dict())
    new = start_node(long, optimizer)
    new.scheduler.load_state_dict(old.scheduler.state_dict(), hyperparams="current")
    whole = start_node(long, sgd()).steps(5 * BATCHES - 1)
    assert new.trace(5 * BATCHES) == whole.trace(5 * BATCHES)
    assert new.scheduler.total_steps == 10 * BATCHES


@pytest.mark.parametrize("kind", [sequence, chain], ids=["sequence", "chain"])
def test_a_part_of_a_composition_is_made_longer(kind):
    """``"current"`` is meant for all that is in it."""

    def made(length):
        parts = (
            node("LinearLR", start_factor=0.1, total_iters=4),
            node("CosineAnnealingLR", T_max=length),
        )
        return sequence([4], *parts) if kind is sequence else chain(*parts)

    old = start_node(made(10), sgd(2)).steps(6)
    new, whole = start_node(made(20), sgd(2)), start_node(made(20), sgd(2)).steps(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new.scheduler.load_state_dict(old.scheduler.state_dict(), hyperparams="current")
    assert new.trace(8) == whole.trace(8)
    other = start_node(made(20), sgd(2))
    with pytest.warns(UserWarning, match="T_max"):
        other.scheduler.load_state_dict(old.scheduler.state_dict())
    assert other.trace(8) == old.trace(8)


def test_milestones_of_a_sequence_are_its_arguments():
    """They follow the same choice."""

    def made(milestone):
        return sequence(
            [milestone], node("ConstantLR"), node("ExponentialLR", gamma=0.9)
        )

    old = start_node(made(4), sgd()).steps(6)
    new, whole = start_node(made(9), sgd()), start_node(made(9), sgd()).steps(6)
    new.scheduler.load_state_dict(old.scheduler.state_dict(), hyperparams="current")
    assert new.trace(8) == whole.trace(8)
    other = start_node(made(9), sgd())
    with pytest.warns(UserWarning, match="milestones"):
        other.scheduler.load_state_dict(old.scheduler.state_dict())
    assert other.trace(8) == old.trace(8)


def test_an_unknown_choice_is_refused():
    """Naming those that there are."""
    run = start_node(node("LambdaLR", lr_lambda=harmonic), sgd())
    before = snapshot(run)
    with pytest.raises(ValueError, match=r"'checkpoint'.*'current'.*'mine'"):
        run.scheduler.load_state_dict(run.scheduler.state_dict(), hyperparams="mine")
    assert_unchanged(run, before)


# Past the end


def test_one_cycle_ends_in_torchs_words():
    """A loop of ``total_steps`` may end with a step; one more is refused."""
    run = start_node(node("OneCycleLR", max_lr=0.1, total_steps=6), sgd()).steps(6)
    before = snapshot(run)
    with pytest.raises(
        ValueError,
        match=r"Tried to step 7 times\. The specified number of total steps is 6",
    ) as caught:
        run.step_scheduler()
    assert "past_end" in str(caught.value)
    assert_unchanged(run, before)


def test_one_cycle_can_stand_at_its_end():
    """The lowest rate, and the momentum that belongs to it."""
    made = node("OneCycleLR", max_lr=0.1, total_steps=6, past_end="clamp")
    run = start_node(made, sgd()).steps(5)
    end = run.seen()["groups"]
    assert end[0]["lr"] == pytest.approx(0.1 / 25 / 1e4)
    assert end[0]["momentum"] == pytest.approx(0.95)
    for _ in range(4):
        run.step()
        assert run.seen()["groups"] == end


@pytest.mark.parametrize("eta_min", [0.0, 0.01])
def test_cosine_has_three_ways_past_its_end(eta_min):
    """torch's, which climbs back; standing still; an error."""
    arguments = dict(T_max=5, eta_min=eta_min)
    periodic = start_node(node("CosineAnnealingLR", **arguments), sgd()).steps(5)
    assert periodic.lrs == [eta_min]
    assert periodic.steps(5).lrs == pytest.approx([0.1])
    clamped = start_node(
        node("CosineAnnealingLR", **arguments, past_end="clamp"), sgd()
    )
    assert clamped.steps(10).lrs == [eta_min]
    strict = start_node(node("CosineAnnealingLR", **arguments, past_end="raise"), sgd())
    strict.steps(5)
    before = snapshot(strict)
    with pytest.raises(ValueError, match="T_max") as caught:
        strict.step_scheduler()
    assert "past_end" in str(caught.value)
    assert_unchanged(strict, before)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (ours.OneCycleLR, dict(max_lr=0.1, total_steps=5)),
        (ours.CosineAnnealingLR, dict(T_max=5)),
    ],
    ids=["OneCycleLR", "CosineAnnealingLR"],
)
def test_an_unknown_way_is_refused(kind, arguments):
    """Naming those that there are."""
    with pytest.raises(ValueError, match=r"past_end.*'stop'") as caught:
        kind(sgd(), **arguments, past_end="stop")
    assert "'clamp'" in str(caught.value)
