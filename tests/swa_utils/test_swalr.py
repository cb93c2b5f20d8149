"""``SWALR``: torch's rates, alone and after another scheduler."""

import math
import warnings
from copy import deepcopy

import pytest
import torch
from torch.optim import lr_scheduler as torchs_schedulers
from torch.optim import swa_utils as torchs

import polyak
import polyak.lr_scheduler as our_schedulers
import polyak.swa_utils as ours
from tests.lr_scheduler.harness import assert_close, lrs_of, through_torch
from tests.lr_scheduler.nodes import sgd, tensor

STEPS = 12
LIBRARIES = {"torch": (torchs, torchs_schedulers), "polyak": (ours, our_schedulers)}
BEFORE = {
    "nothing": lambda library, optimizer: None,
    "exponential": lambda library, optimizer: library.ExponentialLR(optimizer, 0.8),
    "cosine": lambda library, optimizer: library.CosineAnnealingLR(optimizer, 20),
    "lambda": lambda library, optimizer: library.LambdaLR(optimizer, geometric),
}
SWA = {"number": 0.05, "list": [0.05, 0.02], "tuple": (0.3, 0.01), "zero": 0.0}
every_before = pytest.mark.parametrize("before", list(BEFORE))
every_strategy = pytest.mark.parametrize("strategy", ["cos", "linear"])
every_length = pytest.mark.parametrize("epochs", [0, 1, 5])


def geometric(epoch):
    return 0.9**epoch


class Schedule:
    """Two schedulers on one optimizer: the second takes over."""

    def __init__(self, library, before, swa_lr=0.05, start=4, setup=None, **arguments):
        swa, schedulers = LIBRARIES[library]
        self.optimizer = sgd(2) if setup is None else setup()
        self.start, self.epoch = start if before != "nothing" else 0, 0
        self.first = BEFORE[before](schedulers, self.optimizer)
        self.second = swa.SWALR(self.optimizer, swa_lr, **arguments)

    def step(self):
        self.optimizer.step()
        scheduler = self.first if self.epoch < self.start else self.second
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about the order of steps
            scheduler.step()
        self.epoch += 1

    def trace(self, steps=STEPS):
        """The rates now and after each of the next steps."""
        seen = [lrs_of(self.optimizer)]
        for _ in range(steps):
            self.step()
            seen.append(lrs_of(self.optimizer))
        return seen

    def parts(self):
        return [p for p in (self.optimizer, self.first, self.second) if p is not None]

    def state(self):
        return through_torch([deepcopy(part.state_dict()) for part in self.parts()])


@every_before
@every_strategy
@every_length
@pytest.mark.parametrize("rates", list(SWA))
def test_parity(before, strategy, epochs, rates):
    """With one group's rate above its last one, or below."""
    arguments = dict(anneal_epochs=epochs, anneal_strategy=strategy, swa_lr=SWA[rates])
    traces = [Schedule(name, before, **arguments).trace() for name in LIBRARIES]
    assert_close(traces[1], traces[0], 1e-10)


@every_strategy
@every_length
def test_the_formula(strategy, epochs):
    """``value_at`` is what ``step`` sets; and it is the definition."""
    run = Schedule("polyak", "nothing", anneal_epochs=epochs, anneal_strategy=strategy)
    values = [run.second.value_at(epoch) for epoch in range(STEPS + 1)]
    assert_close(run.trace(), values, 1e-12)
    for epoch, value in enumerate(values):
        part = min(epoch / epochs, 1) if epochs else 1
        left = (1 + math.cos(math.pi * part)) / 2 if strategy == "cos" else 1 - part
        for rate, base in zip(value, (0.1, 0.02), strict=True):
            assert rate == pytest.approx(0.05 + (base - 0.05) * left, rel=1e-12)


@every_before
@every_length
def test_it_arrives_and_stays(before, epochs):
    """At the rate itself, to the bit."""
    run = Schedule("polyak", before, swa_lr=[0.05, 0.3], anneal_epochs=epochs)
    trace = run.trace()
    assert trace[run.start + epochs + 1 :] == [[0.05, 0.3]] * (
        STEPS - run.start - epochs
    )
    assert run.second.get_last_lr() == [0.05, 0.3]


def test_a_tensor():
    """It is filled, and stays the tensor that it is."""
    runs = [Schedule(name, "nothing", setup=tensor) for name in LIBRARIES]
    held = runs[1].optimizer.param_groups[0]["lr"]
    traces = [run.trace() for run in runs]
    assert_close(traces[1], traces[0], 1e-6)
    assert runs[1].optimizer.param_groups[0]["lr"] is held


def test_our_optimizers():
    """They are driven alike."""
    run = Schedule("polyak", "cosine", setup=lambda: sgd(2, polyak))
    assert_close(run.trace(), Schedule("polyak", "cosine").trace(), 0)


# Resuming

ORDERS = {
    "optimizer_first": ("optimizer", "schedulers"),
    "optimizer_last": ("schedulers", "optimizer"),
    "swalr_first": ("swalr", "before", "optimizer"),
}


def load(run, states, order):
    """Load what was saved, in this order."""
    named = {"optimizer": 0, "swalr": -1, "before": 1}
    parts = run.parts()
    for act in ORDERS[order]:
        if act == "schedulers":
            chosen = range(1, len(parts))
        elif act == "before" and len(parts) < 3:
            chosen = []
        else:
            chosen = [named[act]]
        for index in chosen:
            parts[index].load_state_dict(deepcopy(states[index]))


@every_before
@every_length
@pytest.mark.parametrize("order", list(ORDERS))
def test_resume(before, epochs, order):
    """From every epoch, bit for bit."""
    assert_resumes("polyak", before, epochs, order, 0)


# Of two schedulers of torch's, each saves the rates that itself has set last: where
# both are loaded after the optimizer, the idle one cannot know better.
OF_TORCHS = [
    (before, order)
    for before in BEFORE
    for order in ORDERS
    if before == "nothing" or order != "optimizer_first"
]


@every_length
@pytest.mark.parametrize(("before", "order"), OF_TORCHS)
def test_a_state_of_torchs(before, epochs, order):
    """A run that torch's schedulers began."""
    assert_resumes("torch", before, epochs, order, 1e-10)


def assert_resumes(library, before, epochs, order, rel):
    """What was saved at any epoch goes on as the run that it is of."""
    arguments = dict(anneal_epochs=epochs, swa_lr=[0.05, 0.3])
    whole = Schedule(library, before, **arguments)
    trace, states = [], []
    for _ in range(STEPS):
        states.append(whole.state())
        trace += whole.trace(0)
        whole.step()
    for epoch, state in enumerate(states):
        run = Schedule("polyak", before, **arguments)
        load(run, state, order)
        run.epoch = epoch
        assert_close(run.trace(STEPS - 1 - epoch), trace[epoch:], rel, f"from {epoch}")


@pytest.mark.parametrize("epoch", [0, 2, 7])
def test_torch_resumes_ours(epoch):
    """The state dict serves it too."""
    arguments = dict(anneal_epochs=5, anneal_strategy="linear", swa_lr=[0.05, 0.3])
    run = Schedule("polyak", "nothing", **arguments)
    run.trace(epoch)
    other = Schedule("torch", "nothing", **arguments)
    load(other, run.state(), "optimizer_first")
    assert_close(other.trace(5), run.trace(5), 1e-10)


def test_the_state_dict_has_all_arguments():
    """They need not be given again."""
    run = Schedule(
        "polyak", "nothing", [0.05, 0.3], anneal_epochs=5, anneal_strategy="linear"
    )
    run.trace(2)
    other = Schedule("polyak", "nothing", 0.7, anneal_epochs=9)
    with pytest.warns(UserWarning, match="replaces this run's"):
        load(other, run.state(), "optimizer_first")
    assert other.trace(6) == run.trace(6)


def test_copies():
    """A pair that is copied goes on alike."""
    run = Schedule("polyak", "cosine")
    run.trace(6)
    other = deepcopy(run)
    assert other.second.optimizer is other.optimizer
    assert other.trace(5) == run.trace(5)


# What it is, and what it refuses


def test_the_class():
    """torch's, so what asks for its schedulers takes it."""
    scheduler = ours.SWALR(sgd(2), 0.05)
    assert isinstance(scheduler, torchs.SWALR)
    assert isinstance(scheduler, torchs_schedulers.LRScheduler)
    assert isinstance(scheduler, our_schedulers.LRScheduler)
    assert [group["swa_lr"] for group in scheduler.optimizer.param_groups] == [0.05] * 2


@pytest.mark.parametrize("own", [{}, {"swa_lr": 0.3}])
def test_a_group_that_is_added(own):
    """It has a goal of its own, or that of the others."""
    optimizer = sgd(2)
    scheduler = ours.SWALR(optimizer, 0.05, anneal_epochs=2)
    added = {"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1.0, **own}
    optimizer.add_param_group(added)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    assert lrs_of(optimizer) == [0.05, 0.05, own.get("swa_lr", 0.05)]


REFUSED = {
    "strategy": (dict(swa_lr=0.05, anneal_strategy="exp"), "cos.*linear.*exp"),
    "negative": (dict(swa_lr=0.05, anneal_epochs=-1), "anneal_epochs.*-1"),
    "fraction": (dict(swa_lr=0.05, anneal_epochs=2.5), "anneal_epochs.*2.5"),
    "text": (dict(swa_lr=0.05, anneal_epochs="3"), "anneal_epochs.*3"),
    "flag": (dict(swa_lr=0.05, anneal_epochs=True), "anneal_epochs.*True"),
    "fewer": (dict(swa_lr=[0.05]), "swa_lr.*1.*2"),
    "more": (dict(swa_lr=[0.05, 0.1, 0.2]), "swa_lr.*3.*2"),
    "no_number": (dict(swa_lr=None), None),
    "word": (dict(swa_lr="0.05"), None),
    "last_epoch": (dict(swa_lr=0.05, last_epoch=-2), "last_epoch.*-2"),
}


@pytest.mark.parametrize("label", list(REFUSED))
def test_bad_input(label):
    """The groups are what they were."""
    arguments, match = REFUSED[label]
    optimizer = sgd(2)
    before = deepcopy(optimizer.state_dict())
    with pytest.raises((ValueError, TypeError), match=match):
        ours.SWALR(optimizer, **arguments)
    assert optimizer.state_dict() == before
    assert ours.SWALR(optimizer, 0.05).get_last_lr() == [0.1, 0.02]


def test_what_is_no_optimizer():
    """As every scheduler says it."""
    with pytest.raises(TypeError, match="Linear is not an Optimizer"):
        ours.SWALR(torch.nn.Linear(2, 2), 0.05)
