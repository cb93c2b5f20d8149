"""What torch.optim gets wrong about checkpoints, beside what polyak does.

The first half of each test shows torch's failure: where it fails, torch has mended it,
and that half can go. The failure of distributed checkpoints is in test_init_state.py.
"""

import sys
from copy import deepcopy

import pytest
import torch
from torch.nn import Parameter

import polyak
from tests.contract.comparison import assert_same, containers
from tests.contract.harness import params_of


def trained(kind, params, steps=2, **arguments):
    """An optimizer after some steps; each parameter's gradient is its own."""
    optimizer = kind(params, **arguments)
    for _ in range(steps):
        for index, param in enumerate(params_of(optimizer)):
            param.grad = torch.full_like(param, index + 1)
        optimizer.step()
    return optimizer


def ones(*shapes, dtype=torch.float32):
    """Parameters of ones."""
    return [Parameter(torch.ones(shape, dtype=dtype)) for shape in shapes]


def named(names, *shapes):
    """Named parameters of ones."""
    return list(zip(names, ones(*shapes), strict=True))


def first_state(optimizer, slot="exp_avg"):
    """A slot of the first parameter."""
    return optimizer.state[params_of(optimizer)[0]][slot]


def test_torch_finds_state_by_position_though_names_are_there():
    """Two parameters that change places take each other's averages."""

    def swapped(kind):
        source = trained(kind, named("ab", (3,), (3,)))
        other = kind(named("ba", (3,), (3,)))
        other.load_state_dict(deepcopy(source.state_dict()))
        a, b = (source.state[param]["exp_avg"] for param in params_of(source))
        assert not torch.equal(a, b)
        return other, a, b

    other, a, _ = swapped(torch.optim.Adam)
    assert_same(first_state(other), a)  # of "b"
    assert other.param_groups[0]["param_names"] == ["a", "b"]

    other, _, b = swapped(polyak.Adam)
    assert_same(first_state(other), b)
    assert other.param_groups[0]["param_names"] == ["b", "a"]


def test_torch_loads_state_of_another_shape():
    """And fails in the next step, when the old state is gone."""
    source = trained(torch.optim.Adam, ones((4,), (3,)))
    other = torch.optim.Adam(ones((3,), (4,)))
    other.load_state_dict(deepcopy(source.state_dict()))
    for param in params_of(other):
        param.grad = torch.ones_like(param)
    with pytest.raises(RuntimeError, match="size"):
        other.step()

    ours = trained(polyak.Adam, ones((3,), (4,)), steps=1)
    before = deepcopy(ours.state_dict())
    with pytest.raises(ValueError, match=r"shape \(4,\) for parameter 0"):
        ours.load_state_dict(source.state_dict())
    assert_same(ours.state_dict(), before)


def test_torch_cannot_load_a_part():
    """A group that was added in fine-tuning makes the checkpoint useless."""
    source = trained(torch.optim.Adam, ones((3,)))
    source.add_param_group({"params": ones((2,))})
    state_dict = deepcopy(source.state_dict())
    other = torch.optim.Adam(ones((3,)))
    with pytest.raises(ValueError, match="different number of parameter groups"):
        other.load_state_dict(state_dict)
    with pytest.raises(TypeError, match="strict"):
        other.load_state_dict(state_dict, strict=False)

    ours = polyak.Adam(ones((3,)))
    report = ours.load_state_dict(state_dict, strict=False)
    assert report.unexpected == ["parameter 0 of group 1"]
    assert_same(first_state(ours), first_state(source))


def test_torch_rounds_state_to_the_parameters_dtype():
    """Float32 averages of bfloat16 parameters come back as bfloat16."""

    def reloaded(kind):
        source = trained(kind, ones((3,), dtype=torch.bfloat16))
        state_dict = deepcopy(source.state_dict())
        wide = state_dict["state"][0]["exp_avg"].float() + 2**-20
        state_dict["state"][0]["exp_avg"] = wide
        other = kind(ones((3,), dtype=torch.bfloat16))
        other.load_state_dict(state_dict)
        return first_state(other), wide

    loaded, _ = reloaded(torch.optim.Adam)
    assert loaded.dtype is torch.bfloat16

    loaded, saved = reloaded(polyak.Adam)
    assert_same(loaded, saved)


def test_torch_takes_every_value_from_the_checkpoint():
    """``fused=True`` is lost, and the learning rate that was asked for."""

    def resumed(kind, **how):
        source = trained(kind, ones((3,)), lr=0.5, weight_decay=0.25)
        other = kind(ones((3,)), lr=0.125, fused=True)
        other.load_state_dict(source.state_dict(), **how)
        [group] = other.param_groups
        return group["lr"], group["weight_decay"], group["fused"]

    assert resumed(torch.optim.Adam) == (0.5, 0.25, None)

    assert resumed(polyak.Adam) == (0.5, 0.25, True)
    assert resumed(polyak.Adam, hyperparams={"lr"}) == (0.125, 0.25, True)
    assert resumed(polyak.Adam, hyperparams="current") == (0.125, 0, True)


def test_torch_needs_every_key():
    """Where a checkpoint lacks one, the next step raises KeyError."""

    def without_eps(kind):
        source = trained(kind, ones((3,)))
        state_dict = deepcopy(source.state_dict())
        del state_dict["param_groups"][0]["eps"]
        other = kind(ones((3,)), eps=0.5)
        other.load_state_dict(state_dict)
        return other

    [param] = params_of(other := without_eps(torch.optim.Adam))
    param.grad = torch.ones(3)
    with pytest.raises(KeyError, match="eps"):
        other.step()

    [param] = params_of(other := without_eps(polyak.Adam))
    param.grad = torch.ones(3)
    other.step()
    assert other.param_groups[0]["eps"] == 0.5


def test_torch_shares_what_it_loads():
    """A step of one optimizer then changes the state of the other."""

    def changed_by_the_other(kind):
        source = trained(kind, ones((3,)))
        other = kind(ones((3,)))
        other.load_state_dict(source.state_dict())
        before = deepcopy(source.state_dict()["state"])
        params_of(other)[0].grad = torch.full((3,), 9.0)
        other.step()
        return [
            slot
            for slot, value in before[0].items()
            if not torch.equal(first_state(source, slot), value)
        ]

    assert changed_by_the_other(torch.optim.Adam) == ["step", "exp_avg", "exp_avg_sq"]

    assert changed_by_the_other(polyak.Adam) == []


def test_torch_puts_new_objects_in_place():
    """Whoever held the groups or the state, holds those of before."""

    def replaced(kind):
        source = trained(kind, ones((3,)))
        other = trained(kind, ones((3,)))
        held = [*containers(other), first_state(other)]
        other.load_state_dict(deepcopy(source.state_dict()))
        now = [*containers(other), first_state(other)]
        return [a is not b for a, b in zip(held, now, strict=True)]

    lost = replaced(torch.optim.Adam)
    assert lost[:2] == [True, True]  # the list of groups and its group
    assert lost[-1]  # exp_avg

    assert not any(replaced(polyak.Adam))


def hook(optimizer, *_):
    """A hook that a pickle can have."""
    optimizer.hooked = True


def test_torch_copies_without_hooks():
    """They are gone from a deepcopy."""

    def hooked(kind):
        optimizer = trained(kind, ones((3,)))
        optimizer.register_step_post_hook(hook)
        copy = deepcopy(optimizer)
        copy.step()
        return hasattr(copy, "hooked")

    assert not hooked(torch.optim.Adam)

    assert hooked(polyak.Adam)


def test_a_copy_of_torchs_lbfgs_cannot_step():
    """Its own attributes are lost."""

    def stepped(kind):
        copy = deepcopy(kind(ones((3,))))
        [param] = params_of(copy)

        def closure():
            copy.zero_grad()
            loss = param.square().sum()
            loss.backward()
            return loss

        copy.step(closure)
        return param

    with pytest.raises(AttributeError, match="_params"):
        stepped(torch.optim.LBFGS)

    assert stepped(polyak.LBFGS).abs().max() < 1e-3


# Work that grows with the square of the number of parameters


class Key(int):
    """The number of a parameter, which counts how often it is compared."""

    compared = 0

    def __eq__(self, other):
        Key.compared += 1
        return int(self) == int(other)

    __hash__ = int.__hash__


def comparisons(kind, count):
    """How often keys are compared when a state dict is loaded."""
    source = trained(kind, ones(*[()] * count), steps=1)
    state_dict = deepcopy(source.state_dict())
    state_dict["state"] = {Key(k): v for k, v in state_dict["state"].items()}
    [group] = state_dict["param_groups"]
    group["params"] = [Key(index) for index in group["params"]]
    other = kind(ones(*[()] * count))
    Key.compared = 0
    other.load_state_dict(state_dict)
    return Key.compared


def test_torch_searches_all_parameters_for_each():
    """Twice as many take four times the comparisons."""
    few, many = (comparisons(torch.optim.Adam, count) for count in (100, 200))
    assert many > 3.5 * few

    few, many = (comparisons(polyak.Adam, count) for count in (100, 200))
    assert many <= 2.2 * few


def calls(task):
    """How many functions a task calls, Python's and native ones."""
    count = 0

    def counting(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counting)
    try:
        task()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("steps", [0, 1], ids=["fresh", "warm"])
@pytest.mark.parametrize("with_names", [True, False], ids=["named", "unnamed"])
def test_the_work_of_loading_is_linear(with_names, steps, strict):
    """Twice as many parameters take twice the calls, and not many each."""

    def work(count):
        def build(steps):
            params = ones(*[(2,)] * count)
            if with_names:
                params = [(f"layer.{i}", param) for i, param in enumerate(params)]
            return trained(polyak.AdamW, params, steps)

        source, other = build(1).state_dict(), build(steps)
        return calls(lambda: other.load_state_dict(source, strict=strict))

    few, many = work(500), work(1000)
    assert many < 2.2 * few
    assert many < 90 * 1000
