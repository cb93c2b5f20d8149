"""``clear_grads``: a step ends by dropping the gradients."""

import copy
import math
import weakref

import pytest
import torch
from torch.amp import GradScaler
from torch.nn import Parameter
from torch.optim.optimizer import register_optimizer_step_post_hook

import polyak
from tests.contract.case import LAYOUTS
from tests.contract.comparison import assert_same_training
from tests.contract.harness import (
    any_closure,
    case_of,
    every_given_gradients,
    give_gradients,
    make,
    optimizers,
    ours,
    parameters,
    params_of,
    reference,
    takes,
)

STEPS = 4

every_dense = optimizers(lambda case: not case.closure and case.sparse != "only")
every_engine = pytest.mark.parametrize("foreach", [None, False], ids=["any", "eager"])


def build(name, layouts=LAYOUTS, clear_grads=True, **arguments):
    """One of polyak's optimizers, with state."""
    arguments = {**case_of(name).stateful, "clear_grads": clear_grads, **arguments}
    if not takes(name, "foreach"):
        arguments.pop("foreach", None)
    return make(ours(name), parameters(name, layouts), arguments)


def gradients(optimizer):
    """Those that there are."""
    return [param.grad for param in params_of(optimizer) if param.grad is not None]


def give_bad(name, optimizer, step):
    """The gradients of a step, with one infinite number."""
    give_gradients(name, params_of(optimizer), step)
    grad = next(grad for grad in gradients(optimizer) if grad.numel())
    values = grad._values() if grad.is_sparse else grad
    values[(0,) * values.dim()] = math.inf


# Steps that are done


@every_given_gradients
@every_engine
def test_steps_are_those_before_zero_grad(name, foreach):
    """Bit for bit; nothing is left of a gradient, nor kept alive."""
    clearing, by_hand = (
        build(name, foreach=foreach, clear_grads=clear_grads)
        for clear_grads in (True, False)
    )
    for step in range(STEPS):
        for optimizer in (clearing, by_hand):
            give_gradients(name, params_of(optimizer), step)
        kept = [weakref.ref(grad) for grad in gradients(clearing)]
        for optimizer in (clearing, by_hand):
            optimizer.step()
        assert gradients(by_hand)
        by_hand.zero_grad()
        assert not gradients(clearing)
        assert all(grad() is None for grad in kept)
        assert_same_training(clearing, by_hand)
    assert clearing.steps == STEPS


@every_dense
def test_nothing_adds_up(name):
    """The same loop in torch needs its zero_grad."""
    clearing = build(name)
    torchs = make(reference(name), parameters(name, LAYOUTS), case_of(name).stateful)
    scales = {}
    for step in range(STEPS):
        for optimizer in (clearing, torchs):
            loss = sum(p.square().sum() for p in params_of(optimizer))
            loss.backward()
            optimizer.step()
        torchs.zero_grad()
        ulps = case_of(name).ulps * (step + 1)
        assert_same_training(clearing, torchs, ulps, scales)


@every_given_gradients
def test_all_groups_are_cleared(name):
    """Also parameters that are no part of the graph, and groups that came later."""
    first, *rest = parameters(name)
    optimizer = make(ours(name), [first], {"clear_grads": True})
    give_gradients(name, [first], 0)
    optimizer.step()
    optimizer.add_param_group({"params": rest})
    give_gradients(name, params_of(optimizer), 0)
    optimizer.step()
    assert not gradients(optimizer)
    optimizer.step()
    assert not gradients(optimizer)


@every_given_gradients
def test_the_gradients_of_a_closure_are_cleared(name):
    """When the step is over; its loss is returned."""
    optimizer = build(name)
    params = params_of(optimizer)
    loss = optimizer.step(any_closure(name, optimizer, params, 0))
    assert torch.is_tensor(loss)
    assert not gradients(optimizer)


@every_given_gradients
def test_averages_and_limits_are_those_of_the_gradients(name):
    """All stages read them before they are dropped."""
    stages = {"ema_decay": 0.5, "nonfinite": "skip"}
    if case_of(name).sparse != "only":
        stages |= {"clip_grad_norm": 1.0, "clip_grad_value": 0.1}
    clearing, plain = build(name, **stages), build(name, clear_grads=False, **stages)
    for step in range(STEPS):
        for optimizer in (clearing, plain):
            give_gradients(name, params_of(optimizer), step)
            optimizer.step()
        assert_same_training(clearing, plain)
    assert not gradients(clearing)
    with clearing.swapped(), plain.swapped():
        assert_same_training(clearing, plain)


@every_given_gradients
def test_hooks_see_the_gradients(name):
    """Those after the step too: the optimizer's own, and those of all optimizers."""
    optimizer, seen = build(name), []

    def look(*_):
        seen.append(len(gradients(optimizer)))

    optimizer.register_step_pre_hook(look)
    optimizer.register_step_post_hook(look)
    handle = register_optimizer_step_post_hook(look)
    try:
        give_gradients(name, params_of(optimizer), 0)
        there = len(gradients(optimizer))
        optimizer.step()
    finally:
        handle.remove()
    assert seen == [there] * 3
    assert not gradients(optimizer)


@every_given_gradients
def test_what_a_hook_gives_is_cleared(name):
    """A hook after the step may compute gradients, for a log of its own."""
    optimizer = build(name)
    optimizer.register_step_post_hook(
        lambda *_: give_gradients(name, params_of(optimizer), 1)
    )
    give_gradients(name, params_of(optimizer), 0)
    optimizer.step()
    assert not gradients(optimizer)


@every_given_gradients
def test_a_subclass_clears_once_and_by_its_own_zero_grad(name):
    """At the end of its own step, not of the step that it calls."""
    seen = []

    class Sub(ours(name)):
        def step(self, closure=None):
            loss = super().step(closure)
            seen.append(len(gradients(self)) > 0)
            return loss

        def zero_grad(self, set_to_none=True):
            seen.append("cleared")
            super().zero_grad(set_to_none)

    optimizer = make(Sub, parameters(name), {"clear_grads": True})
    give_gradients(name, params_of(optimizer), 0)
    optimizer.step()
    assert seen == [True, "cleared"]
    assert not gradients(optimizer)


# Steps that are left out, and steps that raise


@every_given_gradients
@every_engine
def test_a_skipped_step_clears(name, foreach):
    """Bad numbers would stay, and every later gradient be added to them."""
    optimizer = build(name, foreach=foreach, nonfinite="skip")
    for step in range(2):
        give_bad(name, optimizer, step)
        optimizer.step()
        assert not gradients(optimizer)
    give_gradients(name, params_of(optimizer), 0)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert not gradients(optimizer)
    assert (optimizer.steps, optimizer.skipped_steps) == (0, 3)


def overflowing(name, optimizer):
    optimizer.nonfinite = "raise"
    give_bad(name, optimizer, 0)
    optimizer.step()


def in_a_closure(name, optimizer):
    def closure():
        raise RuntimeError("no data")

    optimizer.step(closure)


def in_a_hook(name, optimizer):
    def hook(*_):
        raise RuntimeError("no log")

    optimizer.register_step_post_hook(hook)
    optimizer.step()


def on_the_averages(name, optimizer):
    with optimizer.swapped():
        optimizer.step()


@every_given_gradients
@pytest.mark.parametrize(
    "failing", [overflowing, in_a_closure, in_a_hook, on_the_averages]
)
def test_a_step_that_raises_keeps_them(name, failing):
    """They tell what went wrong."""
    optimizer = build(name, ema_decay=0.5)
    give_gradients(name, params_of(optimizer), 0)
    optimizer.step()
    give_gradients(name, params_of(optimizer), 0)
    there = len(gradients(optimizer))
    with pytest.raises(RuntimeError):
        failing(name, optimizer)
    assert len(gradients(optimizer)) == there


# With a scaler


@every_dense
@pytest.mark.parametrize("unscale", [False, True], ids=["plain", "unscaled"])
def test_a_scaler_needs_no_zero_grad(name, unscale):
    """Steps are torch's; an overflow is cleared too, though no step is done."""
    clearing = build(name)
    torchs = make(reference(name), parameters(name, LAYOUTS), case_of(name).stateful)
    scalers = [GradScaler("cpu", init_scale=2.0**10, growth_interval=2) for _ in "ab"]
    scales = {}
    for step in range(6):
        for optimizer, scaler in zip((clearing, torchs), scalers, strict=True):
            loss = sum(p.square().sum() for p in params_of(optimizer))
            scaler.scale(loss * math.inf if step in (0, 3) else loss).backward()
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        assert not gradients(clearing)
        torchs.zero_grad()
        assert scalers[0].get_scale() == scalers[1].get_scale()
        ulps = 2 * case_of(name).ulps * (step + 1)
        assert_same_training(clearing, torchs, ulps, scales)
    assert (clearing.steps, clearing.skipped_steps) == (4, 2)


# The setting


@every_given_gradients
def test_the_choice_may_change_at_any_time(name):
    """The step has what it is then; None is the default."""
    optimizer = build(name, clear_grads=False)
    for value, clears in ((True, True), (None, False), (True, True), (False, False)):
        optimizer.clear_grads = value
        assert optimizer.clear_grads is clears
        assert optimizer._step_supports_amp_scaling is clears
        give_gradients(name, params_of(optimizer), 0)
        optimizer.step()
        assert bool(gradients(optimizer)) is not clears


@every_given_gradients
def test_it_is_no_part_of_a_checkpoint(name):
    """Loading one leaves it as it is."""
    optimizer, plain = build(name), build(name, clear_grads=False)
    give_gradients(name, params_of(optimizer), 0)
    optimizer.step()
    assert "clear_grads" not in optimizer.state_dict()["param_groups"][0]
    plain.load_state_dict(optimizer.state_dict())
    optimizer.load_state_dict(plain.state_dict())
    assert optimizer.clear_grads
    assert not plain.clear_grads


@every_given_gradients
def test_copies_keep_it(name):
    """Each for itself."""
    optimizer = build(name)
    other = copy.deepcopy(optimizer)
    optimizer.clear_grads = False
    for each in (optimizer, other):
        give_gradients(name, params_of(each), 0)
        each.step()
    assert gradients(optimizer)
    assert not gradients(other)


@every_given_gradients
@pytest.mark.parametrize("value", ["yes", 2, 0.5])
def test_other_values_are_refused(name, value):
    """When it is built, and later."""
    with pytest.raises(ValueError, match="Invalid clear_grads value"):
        build(name, clear_grads=value)
    optimizer = build(name)
    with pytest.raises(ValueError, match="needs one of False, True"):
        optimizer.clear_grads = value
    assert optimizer.clear_grads is True


@optimizers(lambda case: case.closure)
def test_without_a_rule_there_are_no_stages(name):
    """A step that computes its gradients itself does not drop them."""
    with pytest.raises(TypeError, match="clear_grads"):
        make(ours(name), parameters(name), {"clear_grads": True})


def test_several_optimizers_as_one_clear_all():
    """It is of the whole step; a part may not have its own."""
    weight, bias = Parameter(torch.ones(3, 2)), Parameter(torch.ones(3))
    parts = polyak.Muon([weight]), polyak.AdamW([bias])
    optimizer = polyak.Mixed(*parts, clear_grads=True)
    (weight.sum() + bias.sum()).backward()
    optimizer.step()
    assert weight.grad is None
    assert bias.grad is None
    with pytest.raises(ValueError, match="AdamW has clear_grads of its own"):
        polyak.Mixed(polyak.Muon([weight]), polyak.AdamW([bias], clear_grads=True))


def test_rows_of_an_embedding_do_not_add_up():
    """Sparse gradients of a real loss."""
    clearing, torchs = (
        torch.nn.Embedding(5, 2, sparse=True, _weight=torch.ones(5, 2)) for _ in "ab"
    )
    dropping = polyak.SparseAdam(clearing.parameters(), clear_grads=True)
    keeping = torch.optim.SparseAdam(torchs.parameters())
    for step in range(STEPS):
        for module, optimizer in ((clearing, dropping), (torchs, keeping)):
            module(torch.tensor([step, 0])).square().sum().backward()
            optimizer.step()
        keeping.zero_grad()
        assert clearing.weight.grad is None
    torch.testing.assert_close(clearing.weight, torchs.weight)
