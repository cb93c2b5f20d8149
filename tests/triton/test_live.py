"""Steps whose scalars stay on the device, and what graphs ask of them."""

import pytest
import torch

import polyak
from polyak.engine.triton.bucket import TritonBucket
from polyak.engine.triton.live import LiveBucket
from tests.contract.comparison import assert_same, assert_same_training, states_of
from tests.engine.support import probe

from .support import give_gradients, in_kernels, made, pair, params_of, steps_alike

SIZES = (3, 1025, 0)


def test_hyperparameters_that_are_tensors():
    """They are read where they are: a change in place is seen, and so is another."""

    def between(optimizer, step):
        group = optimizer.param_groups[0]
        if step == 1:
            group["lr"].mul_(0.5)
        if step == 2:
            group["lr"] = torch.tensor(0.3, dtype=torch.float64)
        if step == 3:
            group["lr"] = 0.1
        if step == 4:
            group["betas"] = (torch.tensor(0.5), torch.tensor(0.75))

    def build():
        return polyak.Adam(
            made(sizes=SIZES), lr=torch.tensor(0.1), capturable=True, weight_decay=0.1
        )

    steps_alike(build, steps=6, between=between, kind=LiveBucket)


def test_a_rule_without_counter_keeps_a_tensor_where_it_is():
    steps_alike(
        lambda: polyak.SGD(made(sizes=SIZES), lr=torch.tensor(0.1)), kind=LiveBucket
    )
    steps_alike(lambda: polyak.SGD(made(sizes=SIZES), lr=0.1), kind=TritonBucket)


def test_nothing_is_read(monkeypatch):
    """No number of a tensor reaches the host in a step."""
    params = made(sizes=SIZES)
    optimizer = polyak.Adam(
        params,
        lr=torch.tensor(0.1),
        capturable=True,
        clip_grad_norm=1.0,
        nonfinite="skip",
    )
    give_gradients(params, 0)
    optimizer.step()

    def refuse(*args):
        raise AssertionError("a step reads a tensor")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    optimizer.found_inf = torch.tensor(0.0)
    for step in range(3):
        give_gradients(params, step)
        optimizer.step()
    monkeypatch.undo()
    assert states_of(optimizer)[0]["step"] == 4


@pytest.mark.parametrize("kind", ["Adam", "SGD"])
@pytest.mark.parametrize("way", ["found_inf", "nonfinite"])
def test_a_step_that_is_left_out_changes_nothing(kind, way):
    params = made(sizes=SIZES)
    arguments = {"Adam": dict(capturable=True), "SGD": dict(lr=0.1, momentum=0.9)}
    optimizer = getattr(polyak, kind)(params, **arguments[kind])
    if way == "nonfinite":
        optimizer.nonfinite = "skip"
    for step in range(2):
        give_gradients(params, step)
        optimizer.step()
    before = (
        [t.clone() for t in params],
        [
            {name: value.clone() for name, value in state.items()}
            for state in states_of(optimizer)
        ],
    )
    give_gradients(params, 2)
    if way == "nonfinite":
        params[1].grad[7] = float("nan")
    else:
        optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    in_kernels(optimizer, LiveBucket if kind == "Adam" else TritonBucket)
    assert_same([t.detach() for t in params], [t.detach() for t in before[0]])
    assert_same(states_of(optimizer), before[1])
    if way == "found_inf":
        optimizer.found_inf.zero_()
    give_gradients(params, 3)
    optimizer.step()
    assert not torch.equal(params[1], before[0][1])


@pytest.mark.parametrize("capturable", [False, True])
def test_scaled_and_clipped(capturable):
    """A scale, a norm and a value, as the eager engine does them."""

    def build():
        optimizer = polyak.Adam(
            made(sizes=SIZES),
            capturable=capturable,
            clip_grad_norm=1.0,
            clip_grad_value=0.1,
        )
        optimizer.grad_scale = torch.tensor(4.0)
        return optimizer

    kind = LiveBucket if capturable else TritonBucket
    steps_alike(build, kind=kind, ulps=8)


@pytest.mark.parametrize("kind", ["Adam", "SGD"])
def test_a_first_step_that_is_left_out_begins_nothing(kind):
    """Its state would be kept, and the next step would not be the first."""
    params = made(sizes=SIZES)
    arguments = {"Adam": dict(capturable=True), "SGD": dict(lr=0.1, momentum=0.9)}
    optimizer = getattr(polyak, kind)(params, **arguments[kind])
    optimizer.found_inf, optimizer.grad_scale = 1.0, 2.0
    give_gradients(params, 0)
    optimizer.step()
    assert not optimizer.state
    optimizer.found_inf = 0.0
    for step in range(3):
        give_gradients(params, step)
        optimizer.step()
    reference = getattr(polyak, kind)(made(sizes=SIZES), **arguments[kind])
    for step in range(3):
        give_gradients(params_of(reference), step)
        for param in params_of(reference):
            param.grad /= 2
        reference.step()
    assert_same_training(optimizer, reference, 4)


def test_fused_keeps_the_counter_with_the_parameter():
    """As torch does: what a GradScaler found need not be read."""
    fused, eager = pair(lambda: polyak.Adam(made(sizes=SIZES), fused=True))
    for group in eager.param_groups:
        group.update(fused=None, foreach=False)
    for step in range(3):
        for optimizer in (fused, eager):
            give_gradients(params_of(optimizer), step)
            optimizer.grad_scale = torch.tensor(2.0)
            optimizer.found_inf = torch.tensor(float(step == 1))
            optimizer.step()
    in_kernels(fused, LiveBucket)
    assert_same_training(fused, eager, 12)


def test_a_branch_on_what_is_on_the_device_is_left_to_the_eager_engine():
    def rule(param, grad, *, step, lr):
        if step > 2:
            lr = lr / 2
        return param - lr * grad

    params = made(sizes=SIZES)
    optimizer = probe(rule)(params, lr=0.1, capturable=True)
    give_gradients(params, 0)
    optimizer.step()
    (why,) = {entry.reason for entry in optimizer._plan.eager}
    assert why == "the rule branches on step, which is on the device"


def test_a_choice_is_made_on_the_device():
    """polyak.where, between scalars and between tensors."""

    def rule(param, grad, *, step, lr):
        rate = polyak.where(step > 2, lr / 2, lr)
        return polyak.where(step == 2, param, param - rate * grad)

    steps_alike(
        lambda: probe(rule)(made(sizes=SIZES), lr=0.1, capturable=True),
        steps=4,
        kind=LiveBucket,
    )


class Replays:
    """A captured step, as far as the host can play it: the same launches again."""

    def __init__(self, optimizer):
        self.buckets = optimizer._plan.buckets

    def replay(self):
        for bucket in self.buckets:
            bucket._start()


@pytest.mark.parametrize("kind", ["Adam", "SGD"])
def test_refresh_sends_numbers_between_replays(kind):
    """lr and betas; the step advances by itself."""
    more = {"Adam": dict(capturable=True), "SGD": dict(momentum=0.9)}[kind]
    fused, eager = pair(
        lambda: getattr(polyak, kind)(made(sizes=SIZES), lr=0.1, **more)
    )
    for optimizer in (fused, eager):
        for _ in range(2):
            give_gradients(params_of(optimizer), 0)
            optimizer.step()
    graph = Replays(fused)
    for lr in (0.1, 0.05, 0.7):
        for optimizer in (fused, eager):
            optimizer.param_groups[0]["lr"] = lr
            if kind == "Adam":
                optimizer.param_groups[0]["betas"] = (lr, 0.5)
        fused.refresh()
        graph.replay()
        eager.step()
        assert_same_training(fused, eager, 24)


@pytest.mark.parametrize("changed", [{"weight_decay": 0.1}, {"amsgrad": True}])
def test_refresh_refuses_what_asks_for_another_kernel(changed):
    params = made(sizes=SIZES)
    optimizer = polyak.Adam(params, capturable=True)
    give_gradients(params, 0)
    optimizer.step()
    optimizer.param_groups[0].update(changed)
    with pytest.raises(RuntimeError, match="capture it again"):
        optimizer.refresh()


def test_refresh_before_a_step_does_nothing():
    polyak.Adam(made(sizes=SIZES), capturable=True).refresh()
