"""The race: laps with known answers, who wins, and what is refused."""

import math
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

import polyak
from polyak.race import (
    Contender,
    RaceError,
    Score,
    Task,
    classification,
    digits,
    lineup,
    load_task,
    race,
)
from polyak.race.contender import DEFAULT_LINEUP, check


class Point(nn.Module):
    """One weight at zero, that wants to be one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def parabola(epochs=20, batches=lambda generator: [None]):
    """Minimise (w - 1)², one step an epoch; accuracy is one less the distance.

    Gradient descent at lr 0.25 halves the distance at every step, exactly.
    """
    return Task(
        name="parabola",
        model=Point,
        batches=batches,
        loss=lambda model, batch: (model.weight - 1).square().sum(),
        evaluate=lambda model: Score(
            (model.weight - 1).square().item(), 1 - abs(model.weight.item() - 1)
        ),
        target=0.9,
        epochs=epochs,
    )


def blobs(**options):
    """Two clouds of points."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat(60)
    inputs = torch.randn(120, 4, generator=generator) + 2 * labels[:, None]
    return classification("blobs", inputs, labels, lambda: nn.Linear(4, 2), **options)


@pytest.fixture
def evaluate_always(monkeypatch):
    monkeypatch.setattr("polyak.race.lap.EVALUATE_EVERY", 1)


# A lap


def test_losses_scores_and_steps_are_those_of_the_closed_form(evaluate_always):
    (lap,) = race(parabola(epochs=6), lineup(["sgd(lr=0.25)"])).laps
    assert lap.losses == tuple(0.25**step for step in range(6))
    assert [e.step for e in lap.evaluations] == [1, 2, 3, 4, 5, 6]
    assert [e.score.accuracy for e in lap.evaluations] == [
        1 - 0.5**step for step in range(1, 7)
    ]
    assert lap.best == Score(loss=0.25**6, accuracy=1 - 0.5**6)
    assert lap.steps_to(0.9) == 4
    assert lap.steps_to(1 - 0.5**4) == 4
    assert lap.steps_to(0.999) is None
    assert not lap.diverged


def test_evaluates_every_tenth_step_and_the_last():
    (lap,) = race(parabola(epochs=23), lineup(["sgd(lr=0.25)"])).laps
    assert [e.step for e in lap.evaluations] == [10, 20, 23]
    (lap,) = race(parabola(epochs=20), lineup(["sgd(lr=0.25)"])).laps
    assert [e.step for e in lap.evaluations] == [10, 20]


def test_divergence_ends_the_lap_where_the_loss_overflows():
    # At lr 1.5 the distance doubles: after 64 steps its square is 2^128, infinite.
    (lap,) = race(parabola(epochs=100), lineup(["sgd(lr=1.5)"])).laps
    assert lap.diverged
    assert len(lap.losses) == 65
    assert lap.losses[63:] == (2.0**126, math.inf)
    assert lap.best == Score(loss=2.0**20, accuracy=1 - 2.0**10)


def test_divergence_of_the_last_update_is_seen_by_the_last_evaluation():
    (lap,) = race(parabola(epochs=64), lineup(["sgd(lr=1.5)"])).laps
    assert math.isfinite(lap.losses[-1])
    assert lap.diverged


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [("sgd", 0), ("sgd(momentum=0.9)", 4), ("adam", 4 + 4 + 4)],
)
def test_state_is_counted_in_bytes(optimizer, expected):
    (lap,) = race(parabola(epochs=3), lineup([optimizer], [0.1])).laps
    assert lap.state_bytes == expected


def test_times_leave_out_the_first_step_and_the_closure(monkeypatch):
    clock = iter([0, 10, 15, 100, 200, 210, 214, 300, 400, 410, 416, 500])
    monkeypatch.setattr("polyak.race.lap.perf_counter", lambda: next(clock))
    (lap,) = race(parabola(epochs=3), lineup(["sgd(lr=0.1)"])).laps
    assert lap.step_seconds == 100
    assert lap.optimizer_seconds == 95


def test_the_clock_waits_for_an_accelerator(monkeypatch):
    seen = []
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.synchronize", lambda: seen.append("done"))
    monkeypatch.setattr(
        "polyak.race.lap.perf_counter", lambda: seen.append("read") or len(seen)
    )
    race(parabola(epochs=1), lineup(["sgd(lr=0.1)"]))
    assert seen == ["done", "read"] * 4


def test_one_step_has_no_time_to_tell():
    (lap,) = race(parabola(epochs=1), lineup(["sgd(lr=0.1)"])).laps
    assert lap.step_seconds is None
    assert lap.optimizer_seconds is None


def test_the_same_seed_gives_the_same_curves_and_another_seed_others():
    contenders = lineup(["sgd", "adam"], [0.1])
    first = race(blobs(epochs=3), contenders, seeds=[1]).laps
    again = race(blobs(epochs=3), contenders, seeds=[1]).laps
    other = race(blobs(epochs=3), contenders, seeds=[2]).laps
    assert [lap.losses for lap in first] == [lap.losses for lap in again]
    assert [lap.evaluations for lap in first] == [lap.evaluations for lap in again]
    assert first[0].losses != other[0].losses


def test_the_laps_of_seeds_come_seed_by_seed():
    results = race(parabola(epochs=1), lineup(["sgd"], [0.1, 0.2]), seeds=[5, 6])
    assert [(lap.seed, lap.contender.lr) for lap in results.laps] == [
        (5, 0.1),
        (5, 0.2),
        (6, 0.1),
        (6, 0.2),
    ]


def test_all_start_from_the_same_weights_and_batch():
    laps = race(blobs(epochs=1), lineup(["sgd", "adam"], [0.1])).laps
    assert laps[0].losses[0] == laps[1].losses[0]
    assert laps[0].losses[1:] != laps[1].losses[1:]


def test_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    race(blobs(epochs=1), lineup(["sgd"], [0.1]))
    assert torch.equal(torch.rand(1), expected)


def test_an_optimizer_that_evaluates_several_times_a_step(evaluate_always):
    # L-BFGS jumps to the minimum of a parabola once it has seen its curvature.
    contenders = lineup(["lbfgs(lr=1, max_iter=4)"])
    (lap,) = race(parabola(epochs=2), contenders).laps
    assert lap.losses[0] == 1
    assert lap.best == Score(loss=0, accuracy=1)
    assert lap.state_bytes > 0


def test_a_task_without_batches_is_refused():
    empty = parabola(batches=lambda generator: [])
    with pytest.raises(RaceError, match="'parabola' made no batches"):
        race(empty, lineup(["sgd"], [0.1]))


# Ctrl-C


def interrupted_in_lap(number, epochs=2):
    """A parabola during whose lap of this number Ctrl-C is pressed."""
    calls = 0

    def batches(generator):
        nonlocal calls
        calls += 1
        if calls > (number - 1) * epochs:
            raise KeyboardInterrupt
        return [None]

    return parabola(epochs, batches)


def test_ctrl_c_leaves_the_finished_laps():
    results = race(interrupted_in_lap(3), lineup(["sgd"], [0.1, 0.2, 0.3]))
    assert results.stopped
    assert (len(results.laps), results.planned) == (2, 3)
    assert [lap.contender.lr for lap in results.laps] == [0.1, 0.2]
    assert all(len(lap.losses) == 2 for lap in results.laps)


def test_a_race_to_the_end_was_not_stopped():
    assert not race(parabola(epochs=1), lineup(["sgd"], [0.1])).stopped


# Contenders


def test_a_contender_is_read_as_it_is_written():
    (contender,) = lineup(["SGD( momentum = 0.9, nesterov=True, lr=0.1)"], [5.0])
    assert contender.name == "SGD(momentum=0.9, nesterov=True)"
    assert contender.lr == 0.1
    group = contender.build(Point()).param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"]) == (0.1, 0.9, True)


def test_rates_are_given_or_go_up_a_decade_from_the_usual():
    assert [c.lr for c in lineup(["adam"])] == [0.001, 0.003, 0.01]
    assert [c.lr for c in lineup(["sgd"])] == [0.03, 0.1, 0.3]
    assert [c.lr for c in lineup(["adam"], [0.2, 0.1, 0.1])] == [0.1, 0.2]


def test_the_default_lineup_trains_the_digits_model():
    contenders = lineup(DEFAULT_LINEUP)
    assert len(contenders) == 3 * len(DEFAULT_LINEUP)
    check(contenders, digits.model())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("adamx", "no optimizer 'adamx'.*[Dd]id you mean.*Adam"),
        ("sgd(momentum", r"'sgd\(momentum' is not an optimizer and its options"),
        ("sgd(0.9)", r"write name or name\(option=value, \.\.\.\)"),
        ("sgd(momentum=m)", "is not an optimizer and its options"),
        ("sparseadam", "SparseAdam takes sparse gradients only.*race Adam instead"),
    ],
)
def test_an_unreadable_contender_is_refused(spec, message):
    with pytest.raises(RaceError, match=message):
        lineup([spec])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sgd(momentun=0.9)", r"SGD\(momentun=0\.9\) at lr 0\.1 refuses.*momentun"),
        ("sgd(nesterov=True)", "Nesterov momentum requires a momentum"),
        ("sgd(lr=-1)", "SGD at lr -1 refuses.*[Ii]nvalid learning rate"),
    ],
)
def test_what_the_optimizer_would_refuse_is_refused_before_the_start(spec, message):
    with pytest.raises(RaceError, match=message):
        check(lineup([spec], [0.1]), Point())


def test_an_optimizer_without_a_usual_rate_needs_one(monkeypatch):
    class Rateless(polyak.SGD):
        def __init__(self, params, lr):
            super().__init__(params, lr)

    monkeypatch.setattr("polyak.race.contender.by_name", lambda name: Rateless)
    with pytest.raises(RaceError, match=r"Rateless has no usual learning rate.*--lr"):
        lineup(["rateless"])
    assert lineup(["rateless"], [0.5]) == [Contender(Rateless, {}, 0.5)]


# Tasks


def test_the_split_keeps_the_proportions_and_has_a_seed_of_its_own():
    labels = torch.tensor([0] * 50 + [1] * 10)
    inputs = torch.arange(60.0)[:, None]

    def test_rows(**options):
        seen = []

        class Spy(nn.Module):
            def forward(self, x):
                seen.append(x.flatten().long())
                return torch.zeros(len(x), 2)

        task = classification("spied", inputs, labels, Spy, **options)
        task.evaluate(Spy())
        (batch,) = task.batches(torch.Generator())
        assert sorted([*batch[0].flatten().tolist(), *seen[0].tolist()]) == list(
            range(60)
        )
        return seen[0]

    kept = test_rows()
    assert labels[kept].bincount().tolist() == [10, 2]
    torch.manual_seed(99)
    assert torch.equal(kept, test_rows())
    assert not torch.equal(kept, test_rows(split_seed=1))


def test_a_score_is_the_cross_entropy_and_the_share_that_is_right():
    task = classification(
        "halves", [[1.0], [1.0]], [0, 1], nn.Identity, test_fraction=1.0
    )
    logits = torch.tensor([[math.log(3), 0.0]] * 2)
    score = task.evaluate(lambda x: logits)
    assert score.accuracy == 0.5
    assert score.loss == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


def test_evaluation_is_without_gradients_and_in_eval_mode():
    modes = []

    def evaluate(model):
        modes.append((model.training, torch.is_grad_enabled()))
        return Score(0.0, 1.0)

    def loss(model, batch):
        modes.append((model.training, torch.is_grad_enabled()))
        return model.weight.sum()

    race(replace(parabola(epochs=1), evaluate=evaluate, loss=loss), lineup(["sgd"]))
    assert modes == [(True, True), (False, False)] * 3


DIGITS_TO_TRAIN_ON = [142, 146, 142, 146, 145, 146, 145, 143, 139, 144]


def test_the_digits_are_1797_images_of_which_a_fifth_is_kept():
    pytest.importorskip("sklearn")
    task = digits.task()
    batches = list(task.batches(torch.Generator().manual_seed(0)))
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert images.shape == (1438, 1, 8, 8)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (0, 1)
    assert labels.bincount().tolist() == [
        142,
        146,
        142,
        146,
        145,
        146,
        145,
        143,
        139,
        144,
    ]
    assert sum(p.numel() for p in task.model().parameters()) == 9930


def test_without_scikit_learn_the_digits_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(RaceError, match=r"pip install polyak\[race\]"):
        digits.task()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


TASK_OF_THE_USER = """
import torch
from polyak.race import classification

not_a_function = 3

def points():
    labels = torch.arange(40) % 2
    inputs = torch.stack([labels, 1 - labels], 1).float()
    return classification("points", inputs, labels, lambda: torch.nn.Linear(2, 2))

def number():
    return 7
"""


def test_a_task_of_the_user_is_found_in_the_current_directory(here):
    (here / "my_tasks").mkdir()
    (here / "my_tasks" / "easy.py").write_text(TASK_OF_THE_USER)
    task = load_task("my_tasks.easy:points")
    assert task.name == "points"
    assert len(list(task.batches(torch.Generator()))) == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("points", "'points' does not name a task: write package.module:function"),
        ("mine:", "'mine:' does not name a task"),
        ("missing:points", "no module 'missing' in .*start the race in the directory"),
        ("mine.inner:points", r"no module 'mine\.inner' in "),
        ("mine:poinst", "module 'mine' has no 'poinst': define there `def poinst"),
        ("mine:not_a_function", "has a int, not a function, 'not_a_function'"),
        ("mine:number", "mine:number returned a int, not a polyak.race.Task: build"),
    ],
)
def test_what_is_wrong_with_a_task_of_the_user_is_said(here, path, message):
    (here / "mine.py").write_text(TASK_OF_THE_USER)
    with pytest.raises(RaceError, match=message):
        load_task(path)


def test_a_module_that_the_users_module_misses_is_not_blamed_on_the_path(here):
    (here / "broken.py").write_text("import a_module_that_nobody_has")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_nobody_has"):
        load_task("broken:task")
