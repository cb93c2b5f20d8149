"""The future of hyperparameters: right, and read without changing anything."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler as torch_lr

import polyak
from polyak import lr_scheduler as polyak_lr
from polyak.pictures import future
from polyak.schedules import cosine, custom, linear, step, warmup


def optimizer_of(kind=polyak.AdamW, groups=3, **options):
    """An optimizer whose groups have different rates."""
    parameters = [torch.nn.Parameter(torch.randn(4)) for _ in range(groups)]
    return kind(
        [{"params": [p], "lr": 0.1 / (i + 1)} for i, p in enumerate(parameters)],
        lr=0.1,
        **options,
    )


def driven(scheduler, steps):
    """What a scheduler does, by doing it."""
    optimizer = scheduler.optimizer
    rows = []
    for _ in range(steps):
        rows.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        with warnings.catch_warnings():  # of SequentialLR's own deprecated call
            warnings.simplefilter("ignore")
            scheduler.step()
    return np.array(rows)


def frozen(*things):
    """All that can be told of optimizers and schedulers, random generators included."""
    groups = [
        [{k: v for k, v in group.items() if k != "params"} for group in t.param_groups]
        for t in things
        if isinstance(t, torch.optim.Optimizer)
    ]
    states = [copy.deepcopy(thing.state_dict()) for thing in things]
    generators = (random.getstate(), np.random.get_state(), torch.get_rng_state())  # noqa: NPY002
    return repr((groups, states, generators[:2], generators[2].tolist()))


# Schedules


def test_of_a_schedule_the_factor_until_it_has_arrived():
    seen = future(warmup(2) | cosine(4))
    assert seen.title == "warmup(2) | cosine(4)"
    assert seen.steps.tolist() == list(range(7))
    assert list(seen.values) == ["factor"]
    assert seen.values["factor"][:, 0] == pytest.approx(
        [0.5, 1, 1, 0.8535533905932737, 0.5, 0.1464466094067262, 0]
    )


def test_of_a_schedule_with_a_rate_the_rate():
    assert future(step(2), 3, lr=0.5).values["lr"].ravel().tolist() == [0.5, 0.5, 0.05]
    assert future(linear(3, 4, 1).absolute()).values["value"].ravel().tolist() == [3, 4]


def test_a_very_long_schedule_is_drawn_at_a_million_steps():
    seen = future(cosine(10**15))
    assert len(seen.steps) <= 1_000_000
    assert seen.values["factor"][-1] < 1e-9


@pytest.mark.parametrize(
    ("what", "options", "error", "message"),
    [
        (step(2), {}, ValueError, r"step\(2\) does not say when it ends: give the num"),
        (step(2), {"steps": 0}, ValueError, "Invalid steps: 0"),
        (step(2), {"steps": 2.5}, ValueError, r"Invalid steps: 2\.5"),
        (linear(3, 4, 1).absolute(), {"lr": 1}, ValueError, "gives the values themsel"),
        ("cosine(3)", {}, TypeError, "takes a schedule, a scheduler, a list .* got 'c"),
        (3, {}, TypeError, "got 3 of type int"),
        ([], {}, ValueError, "an empty list"),
    ],
)
def test_mistakes(what, options, error, message):
    with pytest.raises(error, match=message):
        future(what, **options)


# Schedulers: what they will do is what they then do

MAKERS = {
    "StepLR": lambda m, o: m.StepLR(o, 3),
    "MultiStepLR": lambda m, o: m.MultiStepLR(o, [2, 5]),
    "ConstantLR": lambda m, o: m.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda m, o: m.LinearLR(o),
    "ExponentialLR": lambda m, o: m.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda m, o: m.PolynomialLR(o, 8, 2.0),
    "CosineAnnealingLR": lambda m, o: m.CosineAnnealingLR(o, 6),
    "CosineAnnealingWarmRestarts": lambda m, o: m.CosineAnnealingWarmRestarts(o, 3, 2),
    "CyclicLR": lambda m, o: m.CyclicLR(o, 0.01, 0.2, 3, cycle_momentum=False),
    "OneCycleLR": lambda m, o: m.OneCycleLR(o, 0.3, total_steps=20),
    "LambdaLR": lambda m, o: m.LambdaLR(o, lambda k: 1 / (k + 1)),
    "MultiplicativeLR": lambda m, o: m.MultiplicativeLR(o, lambda k: 0.9),
    "SequentialLR": lambda m, o: m.SequentialLR(
        o, [m.LinearLR(o), m.ExponentialLR(o, 0.8)], [4]
    ),
    "ChainedScheduler": lambda m, o: m.ChainedScheduler(
        [m.LinearLR(o), m.ExponentialLR(o, 0.8)]
    ),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("module", [torch_lr, polyak_lr], ids=["torch", "polyak"])
@pytest.mark.parametrize(
    "kind", [torch.optim.Adam, polyak.Adam], ids=["torch", "polyak"]
)
def test_it_is_what_comes_true_and_nothing_has_changed(kind, module, name):
    optimizer = optimizer_of(kind)
    scheduler = MAKERS[name](module, optimizer)
    driven(scheduler, 2)
    before = frozen(optimizer, scheduler)
    seen = future(scheduler, 12)
    assert frozen(optimizer, scheduler) == before
    assert seen.steps.tolist() == list(range(2, 14))
    assert np.array_equal(seen.values["lr"], driven(scheduler, 12))


def test_all_that_changes_is_shown_and_nothing_else():
    scheduler = torch_lr.OneCycleLR(optimizer_of(), 0.3, total_steps=20)
    seen = future(scheduler, 20)
    assert list(seen.values) == ["lr", "betas[0]"]
    assert seen.values["betas[0]"].min() == pytest.approx(0.85, abs=1e-3)
    scheduler = polyak.lr_scheduler.Scheduler(
        optimizer_of(), weight_decay=linear(1, 0.5, 2), betas=(None, step(1, 0.5))
    )
    seen = future(scheduler, 3)
    assert list(seen.values) == ["lr", "betas[1]", "weight_decay"]
    assert seen.values["weight_decay"][:, 0].tolist() == [0.01, 0.0075, 0.005]
    assert np.ptp(seen.values["lr"], axis=0).tolist() == [0, 0, 0]


def test_a_hyperparameter_that_some_groups_lack():
    optimizer = optimizer_of(torch.optim.SGD, groups=2)
    optimizer.param_groups[1]["temperature"] = 1.0

    class Cooling(torch_lr.LRScheduler):
        def get_lr(self):
            self.optimizer.param_groups[1]["temperature"] /= 2
            return [group["lr"] for group in self.optimizer.param_groups]

    seen = future(Cooling(optimizer), 3)
    assert np.isnan(seen.values["temperature"][:, 0]).all()
    assert seen.values["temperature"][:, 1].tolist() == [0.5, 0.25, 0.125]
    (curve,) = seen.curves("temperature")
    assert curve.label == "group 1"
    assert optimizer.param_groups[1]["temperature"] == 0.5


def test_rates_in_tensors_stay_as_they_are():
    optimizer = torch.optim.Adam([torch.ones(2, requires_grad=True)], torch.tensor(0.5))
    scheduler = torch_lr.ExponentialLR(optimizer, 0.5)
    rate = optimizer.param_groups[0]["lr"]
    assert future(scheduler, 3).values["lr"].ravel().tolist() == [0.5, 0.25, 0.125]
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate == 0.5


def test_schedulers_that_step_together():
    optimizer = optimizer_of(groups=1)
    schedulers = [
        torch_lr.LinearLR(optimizer, 0.5, total_iters=2),
        polyak.lr_scheduler.ExponentialLR(optimizer, 0.5),
    ]
    seen = future(schedulers, 4)
    assert seen.title == "LinearLR and ExponentialLR"
    assert seen.values["lr"].ravel() == pytest.approx([0.05, 0.0375, 0.025, 0.0125])
    with pytest.raises(ValueError, match="these drive 2: draw them one by one"):
        future([*schedulers, torch_lr.StepLR(optimizer_of(), 3)], 4)


def test_of_an_optimizer_what_drives_it():
    optimizer = optimizer_of(groups=2)
    with pytest.raises(ValueError, match="no scheduler of polyak's drives this AdamW"):
        future(optimizer, 3)
    scheduler = polyak.lr_scheduler.Scheduler(optimizer, lr=linear(1, 0, 4))
    seen = future(optimizer)
    assert seen.title == "lr: linear(1, 0, 4)"
    assert np.array_equal(seen.values["lr"], driven(scheduler, 5))
    assert len(future(optimizer).steps) == 1


def test_a_plateau_never_reduces():
    for module in (torch_lr, polyak_lr):
        optimizer = optimizer_of(groups=1)
        plateau = module.ReduceLROnPlateau(optimizer, patience=0)
        plateau.step(1.0)
        assert set(future(plateau, 30).values["lr"].ravel()) == {0.1}
        assert plateau.patience == 0
    optimizer = optimizer_of(groups=1)
    sequence = polyak_lr.SequentialLR(
        optimizer,
        [
            polyak_lr.LinearLR(optimizer, 0.5, total_iters=2),
            polyak_lr.ReduceLROnPlateau(optimizer, patience=0),
        ],
        [2],
    )
    seen = future(sequence, 9).values["lr"].ravel()
    assert seen == pytest.approx([0.05, 0.075, *[0.1] * 7])


def test_a_scheduler_that_follows_the_optimizer_goes_on():
    scheduler = polyak_lr.ExponentialLR(optimizer_of(groups=1), 0.5)
    scheduler.follows_optimizer = True
    assert future(scheduler, 3).values["lr"].ravel().tolist() == [0.1, 0.05, 0.025]


def test_a_failing_scheduler_fails_and_changes_nothing():
    optimizer = optimizer_of(torch.optim.SGD)
    scheduler = torch_lr.OneCycleLR(optimizer, 0.1, total_steps=5, cycle_momentum=False)
    before = frozen(optimizer, scheduler)
    with pytest.raises(ValueError, match="total steps is 5"):
        future(scheduler, 50)
    assert frozen(optimizer, scheduler) == before


# Schedulers of users


class Wandering(torch_lr.LRScheduler):
    """Draws its rates by chance, prints, warns and keeps a list."""

    def __init__(self, optimizer):
        self.path = []
        super().__init__(optimizer)

    def get_lr(self):
        draws = random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002
        self.path.append(draws)
        print("a step")
        warnings.warn("a step", stacklevel=1)
        return [sum(draws) for _ in self.base_lrs]


def test_chance_is_given_back_and_nothing_is_said(capsys):
    optimizer = optimizer_of(torch.optim.SGD)
    with pytest.warns(UserWarning, match="a step"):
        scheduler = Wandering(optimizer)
    capsys.readouterr()
    before, path = frozen(optimizer, scheduler), list(scheduler.path)
    first, again = future(scheduler, 5), future(scheduler, 5)
    assert frozen(optimizer, scheduler) == before
    assert scheduler.path == path
    assert np.array_equal(first.values["lr"], again.values["lr"])
    assert capsys.readouterr().out == ""
    random.seed(0)
    drawn = random.random()
    random.seed(0)
    future(custom(lambda k: random.random()), 5)
    assert random.random() == drawn


def test_verbose_schedulers_are_silent(capsys):
    scheduler = polyak_lr.StepLR(optimizer_of(), 3, verbose=True)
    capsys.readouterr()
    future(scheduler, 5)
    assert capsys.readouterr().out == ""


def test_the_model_is_not_copied():
    class Uncopied(torch.nn.Parameter):
        def __deepcopy__(self, memo):
            raise AssertionError("a parameter was copied")

    class Trainer:
        def __init__(self):
            self.model = torch.nn.Linear(2, 2)
            self.model.weight = Uncopied(torch.ones(2, 2))
            self.model.bias = Uncopied(torch.ones(2))
            self.optimizer = polyak.Adam(self.model.parameters(), lr=1.0)
            self.scheduler = torch_lr.LambdaLR(self.optimizer, self.factor)

        def factor(self, step):
            return 1 / (step + 1)

    trainer = Trainer()
    trainer.model(torch.ones(2)).sum().backward()
    trainer.optimizer.step()
    before = frozen(trainer.optimizer)
    weights = [p.clone() for p in trainer.model.parameters()]
    assert future(trainer.scheduler, 2).values["lr"].ravel().tolist() == [1.0, 0.5]
    assert frozen(trainer.optimizer) == before
    pairs = zip(weights, trainer.model.parameters(), strict=True)
    assert all(torch.equal(old, new) for old, new in pairs)


def test_what_cannot_be_copied_is_said():
    scheduler = torch_lr.StepLR(optimizer_of(torch.optim.SGD), 3)
    with open(__file__) as file:
        scheduler.log = file
        with pytest.raises(TypeError, match=r"StepLR cannot be copied.*TextIOWrapper"):
            future(scheduler, 3)


def test_copies_do_not_drive_the_optimizer():
    optimizer = optimizer_of()
    scheduler = polyak_lr.StepLR(optimizer, 3)
    future(optimizer, 5)
    assert polyak_lr.drivers(optimizer) == [scheduler]


# Curves


def test_groups_with_the_same_values_share_a_curve():
    optimizer = optimizer_of(groups=6)
    for index, rate in enumerate([1, 1, 2, 1, 1, 2]):
        optimizer.param_groups[index]["lr"] = rate
    seen = future(torch_lr.StepLR(optimizer, 2), 4)
    first, second = seen.curves("lr")
    assert first.label == "groups 0-1, 3-4"
    assert second.label == "groups 2, 5"
    assert second.values == pytest.approx([2, 2, 0.2, 0.2])
    (only,) = future(torch_lr.StepLR(optimizer_of(groups=1), 2), 4).curves("lr")
    assert only.label == ""
