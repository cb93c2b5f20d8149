"""``swapped()``: the averages are in the parameters, and the originals come back."""

import copy

import pytest
import torch
from torch import nn

import polyak.swa_utils as ours
from tests.swa_utils.harness import (
    assert_equal,
    copies,
    fill,
    linear,
    shake,
    weights,
)

KINDS = {
    "mean": ours.WeightAverage,
    "ema": lambda params: ours.WeightAverage(params, 0.9),
    "latest": lambda params: ours.LatestWeightAverage(params, 3),
    "one": lambda params: ours.LatestWeightAverage(params, 1),
}
every_kind = pytest.mark.parametrize("kind", list(KINDS))
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def trained(kind, dtype=torch.float32):
    """A model, and the average of its weights."""
    model = linear(dtype)
    average = KINDS[kind](model)
    for seed in range(4):
        shake(model, seed)
        average.update()
    shake(model, 9)
    # Bits that no arithmetic would give back.
    with torch.no_grad():
        model.bias[0], model.bias[1] = float("nan"), -0.0
    return model, average


def bits(model):
    kind = {torch.float32: torch.int32, torch.bfloat16: torch.int16}
    return copies(p.detach().view(kind[p.dtype]) for p in model.parameters())


@every_kind
@every_dtype
def test_inside_and_after(kind, dtype):
    """The same parameters, in the dtype that they have."""
    model, average = trained(kind, dtype)
    held, before = list(model.parameters()), bits(model)
    values = copies(average.averages())
    with average.swapped():
        inside = [value.to(dtype) for value in values]
        assert_equal(list(model.parameters()), inside)
        assert all(a is b for a, b in zip(model.parameters(), held, strict=True))
    assert_equal(bits(model), before)
    assert_equal(average.averages(), values)


def fails(model, error):
    fill(model.parameters(), 3.0)
    raise error


@every_kind
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_exception(kind, error):
    """Whatever it is."""
    model, average = trained(kind)
    before = bits(model)
    with pytest.raises(error), average.swapped():
        fails(model, error)
    assert_equal(bits(model), before)


@every_kind
def test_nested(kind):
    """Each block gives back what it found."""
    model, average = trained(kind)
    before = bits(model)
    with average.swapped():
        inside = bits(model)
        with average.swapped():
            assert_equal(bits(model), inside)
        assert_equal(bits(model), inside)
    assert_equal(bits(model), before)


@every_kind
def test_state_dicts_inside(kind):
    """The model's has the averages; the average's is what it is outside."""
    model, average = trained(kind)
    outside = copy.deepcopy(average.state_dict())
    with average.swapped():
        saved = copy.deepcopy(model.state_dict())
        inside = copy.deepcopy(average.state_dict())
    assert_equal([*saved.values()], average.averages())
    assert str(inside) == str(outside)
    other = KINDS[kind](linear())
    other.load_state_dict(inside)
    assert_equal(other.averages(), average.averages())


@every_kind
def test_a_backward_inside(kind):
    """Gradients are at the averages, and parameters keep them."""
    model, average = trained(kind)
    with average.swapped():
        model(torch.ones(2, 3)).sum().backward()
    assert (model.weight.grad == 2).all()


@every_kind
def test_before_the_first_update(kind):
    """An error, which says what to do; the block is not run."""
    model = linear()
    before = bits(model)
    with pytest.raises(RuntimeError, match=r"update\(\)"), KINDS[kind](model).swapped():
        raise AssertionError
    assert_equal(bits(model), before)


@every_kind
def test_shapes_that_changed(kind):
    """An error, and the parameters are what they were."""
    params = weights(1.0, 2.0)
    average = KINDS[kind](params)
    average.update()
    params[1].data = torch.full((4, 3), 5.0)
    with pytest.raises((ValueError, RuntimeError)), average.swapped():
        pass
    assert (params[0] == 1).all()
    assert (params[1] == 5).all()


# What is averaged


@every_kind
def test_modules_and_parameters(kind):
    """A module, a list or an iterator; tied weights once."""
    model = nn.Sequential(linear(), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[1].weight
    for given in (model, list(model.parameters()), model.parameters()):
        average = KINDS[kind](given)
        assert len(average.params) == 5
        average.update()
        assert_equal(average.averages(), list(model.parameters()))


@every_kind
def test_integers_are_left_out(kind):
    """They have no average, and are not swapped."""
    whole = nn.Parameter(torch.arange(3), requires_grad=False)
    average = KINDS[kind]([whole, *weights(1.0)])
    average.update()
    assert len(average.averages()) == 1
    whole.data += 1
    with average.swapped():
        assert whole.tolist() == [1, 2, 3]
    assert whole.tolist() == [1, 2, 3]


@every_kind
def test_no_parameters(kind):
    """An iterator that is used up, a module without any, integers alone."""
    used = linear().parameters()
    list(used)
    for given in (used, nn.ReLU(), [], [torch.arange(3)]):
        with pytest.raises(ValueError, match="no floating-point parameters"):
            KINDS[kind](given)
