"""Schedulers as users derive them, from torch's classes or from ours: the same values.

Each is written once, as a function of the module that its base class is from.
"""

import warnings
from functools import partial

import pytest
import torch
from torch.optim import lr_scheduler as torchs

import polyak.lr_scheduler as ours
from tests.lr_scheduler.harness import Run, assert_close
from tests.lr_scheduler.nodes import sgd

STEPS = 10


def poly(module):
    """From the base class by its old name, with the old ``verbose``."""

    class PolyLR(module._LRScheduler):
        def __init__(self, optimizer, max_iters, power=0.9, last_epoch=-1):
            self.power = power
            self.max_iters = max_iters
            super().__init__(optimizer, last_epoch)

        def get_lr(self):
            left = max(1 - self.last_epoch / self.max_iters, 0.001)
            return [base * left**self.power for base in self.base_lrs]

    return lambda optimizer: PolyLR(optimizer, 20)


def halved(module):
    """``get_lr`` of a ready class, changed."""

    class HalvedLR(module.CosineAnnealingWarmRestarts):
        def get_lr(self):
            return [lr / 2 for lr in super().get_lr()]

    return lambda optimizer: HalvedLR(optimizer, T_0=4)


def chainable(module):
    """The rates that the groups have, changed; another attribute besides."""

    class WarmStepLR(module.StepLR):
        def __init__(self, optimizer, warm, *arguments):
            self.warm = warm
            super().__init__(optimizer, *arguments)

        def get_lr(self):
            if self.last_epoch < self.warm:
                return [base * 0.1 for base in self.base_lrs]
            if self.last_epoch == self.warm:
                return list(self.base_lrs)
            return super().get_lr()

    return lambda optimizer: WarmStepLR(optimizer, 3, 4, 0.5)


def stepping(module):
    """``step`` does something besides."""

    class CountingLR(module.ExponentialLR):
        calls = 0

        def step(self, epoch=None):
            self.calls += 1
            super().step(epoch)

    return lambda optimizer: CountingLR(optimizer, 0.8)


def momentum(module):
    """``get_lr`` sets another hyperparameter too."""

    class MomentumLR(module.LRScheduler):
        def get_lr(self):
            for group in self.optimizer.param_groups:
                group["momentum"] = 0.5 + 0.04 * self.last_epoch
            return [base * 0.9**self.last_epoch for base in self.base_lrs]

    return MomentumLR


def gradual(module):
    """A warm-up that hands over to another scheduler, as is widely copied."""

    class GradualWarmup(module._LRScheduler):
        def __init__(self, optimizer, total, after):
            self.total = total
            self.after = after
            self.finished = False
            super().__init__(optimizer)

        def get_lr(self):
            if self.last_epoch > self.total:
                return self.after.get_last_lr()
            share = self.last_epoch / self.total
            return [base * share for base in self.base_lrs]

        def step(self, epoch=None):
            if self.finished:
                self.after.step()
                self._last_lr = self.after.get_last_lr()
            else:
                super().step(epoch)
                self.finished = self.last_epoch >= self.total

    def build(optimizer):
        return GradualWarmup(optimizer, 3, module.ExponentialLR(optimizer, 0.9))

    return build


def closed(module):
    """A closed form beside the chainable one of its base."""

    class FlooredLR(module.ExponentialLR):
        def _get_closed_form_lr(self):
            return [max(lr, 0.01) for lr in super()._get_closed_form_lr()]

    return lambda optimizer: FlooredLR(optimizer, 0.7)


PATTERNS = [poly, halved, chainable, stepping, momentum, gradual, closed]
every_pattern = pytest.mark.parametrize(
    "pattern", PATTERNS, ids=[pattern.__name__ for pattern in PATTERNS]
)


def started(pattern, module):
    optimizer = sgd(2)
    return Run(optimizer, pattern(module)(optimizer))


@every_pattern
def test_values_are_those_over_torch(pattern):
    """Every step, and what they keep of their own."""
    actual, expected = started(pattern, ours), started(pattern, torchs)
    assert_close(actual.trace(STEPS), expected.trace(STEPS), 1e-12, pattern.__name__)
    for key, value in vars(expected.scheduler).items():
        if isinstance(value, int | float) and not key.startswith("_"):
            assert_close(getattr(actual.scheduler, key), value, 1e-12, key)


@every_pattern
def test_state_dicts_hold_what_they_keep(pattern):
    """And continue a run: optimizer and scheduler loaded, as torch wants it."""
    run = started(pattern, ours).steps(5)
    state = run.scheduler.state_dict()
    if pattern is gradual:
        # The scheduler that it holds is not in its state in torch either.
        state = {key: value for key, value in state.items() if key != "after"}
    other = started(pattern, ours)
    other.optimizer.load_state_dict(run.optimizer.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.scheduler.load_state_dict(state)
    if pattern is gradual:
        other.scheduler.after.load_state_dict(run.scheduler.after.state_dict())
    assert_close(other.trace(4), run.trace(4), 0, pattern.__name__)


# Two schedulers in one, or more than a rate, are no members.
@pytest.mark.parametrize("pattern", [poly, halved, chainable, stepping, closed])
@pytest.mark.parametrize("composition", ["SequentialLR", "ChainedScheduler"])
def test_as_members(pattern, composition):
    """Of a sequence as its first, and of a chain with one that changes nothing."""
    alone = started(pattern, ours)
    optimizer = sgd(2)
    part = pattern(ours)(optimizer)
    still = ours.ConstantLR(optimizer, 1.0)
    if composition == "SequentialLR":
        whole = ours.SequentialLR(optimizer, [part, still], [STEPS])
    else:
        whole = ours.ChainedScheduler([part, still])
    run = Run(optimizer, whole)
    for _ in range(STEPS - 1):
        assert_close(run.lrs, alone.lrs, 1e-12, pattern.__name__)
        run.step()
        alone.step()


def test_get_lr_must_be_written():
    """As torch's base class says, by its type of error."""
    with pytest.raises(NotImplementedError, match="get_lr"):
        ours.LRScheduler(sgd())


def test_a_wrong_number_of_rates_is_refused():
    """A ``get_lr`` that forgets the second group."""

    class Forgetful(ours.LRScheduler):
        def get_lr(self):
            return [0.1]

    optimizer = sgd(2)
    before = [dict(group) for group in optimizer.param_groups]
    with pytest.raises(ValueError, match=r"Forgetful.*1.*2"):
        Forgetful(optimizer)
    assert [dict(group) for group in optimizer.param_groups] == before


def test_wrappers_find_what_they_count():
    """``_step_count`` and ``total_steps``, by which accelerate limits a run."""
    optimizer = sgd()
    pair = [
        module.OneCycleLR(optimizer, 0.1, total_steps=5) for module in (ours, torchs)
    ]
    for scheduler in pair:
        for _ in range(3):
            optimizer.step()
            scheduler.step()
    assert pair[0]._step_count == pair[1]._step_count == 4
    assert pair[0].total_steps == 5


def test_a_partial_is_a_function():
    """transformers builds its schedules so."""

    def decay(epoch, *, rate):
        return rate**epoch

    run, same = (
        Run(optimizer, ours.LambdaLR(optimizer, partial(decay, rate=0.5)))
        for optimizer in (sgd(), sgd())
    )
    same.scheduler.load_state_dict(run.steps(2).scheduler.state_dict())
    assert same.lrs == [0.025]
    assert isinstance(run.scheduler, torch.optim.lr_scheduler.LambdaLR)
