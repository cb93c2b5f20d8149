"""``LatestWeightAverage``: the mean of the latest k weights."""

import copy

import pytest
import torch
from torch import nn

import polyak
import polyak.swa_utils as ours
from tests.swa_utils.harness import (
    assert_equal,
    copies,
    fill,
    linear,
    shake,
    through_torch,
    weights,
)


@pytest.mark.parametrize("k", [1, 2, 5, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values(k, dtype):
    """A window that moves."""
    model, seen = linear(dtype), []
    average = ours.LatestWeightAverage(model, k)
    for seed in range(8):
        shake(model, seed)
        average.update()
        seen.append(model.weight.detach().double().clone())
        due = torch.stack(seen[-k:]).mean(0)
        torch.testing.assert_close(
            average.averages()[0].double(), due, rtol=1e-5, atol=1e-6
        )
        assert average.n_averaged == min(seed + 1, k)


def test_half_precision_is_summed_in_float32():
    """In bfloat16, 256 + 1 is 256."""
    params = weights(256.0, dtype=torch.bfloat16)
    average = ours.LatestWeightAverage(params, 4)
    for value in (256.0, 1.0, 1.0, 1.0):
        fill(params, value)
        average.update()
    assert average.averages()[0].tolist() == [259 / 4] * 2


def test_a_hook():
    """The average follows the optimizer's steps."""
    params = weights(1.0)
    optimizer = polyak.SGD(params, lr=0.5)
    average = ours.LatestWeightAverage(params, k=2)
    optimizer.register_step_post_hook(average.update)
    for _ in range(3):
        params[0].grad = torch.ones(2)
        optimizer.step()
    assert average.averages()[0].tolist() == [-0.25, -0.25]


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_resume(count):
    """Bit for bit; and into a smaller window, the latest."""
    params = weights(1.0, 2.0)
    averages = [ours.LatestWeightAverage(params, k) for k in (3, 3, 2)]
    for value in range(count):
        fill(params, value)
        averages[0].update()
    state = through_torch(averages[0].state_dict())
    for average in averages[1:]:
        average.load_state_dict(state)
    assert [a.n_averaged for a in averages] == [min(count, k) for k in (3, 3, 2)]
    for value in (7.0, 2.0):
        fill(params, value)
        for average in averages:
            average.update()
        assert_equal(averages[0].averages(), averages[1].averages())
    assert (averages[2].averages()[0] == 4.5).all()


BAD_STATES = {
    "fewer": {"latest": [[torch.zeros(2), torch.zeros(3)], [torch.zeros(2)]]},
    "shape": {"latest": [[torch.zeros(2), torch.zeros(1)]]},
    "empty": {},
}


@pytest.mark.parametrize("label", list(BAD_STATES))
def test_a_state_that_does_not_fit(label):
    """Nothing is changed."""
    average = ours.LatestWeightAverage(weights(1.0, 2.0), 3)
    average.update()
    before = average.averages()
    with pytest.raises((ValueError, KeyError)):
        average.load_state_dict(BAD_STATES[label])
    assert_equal(average.averages(), before)
    assert average.n_averaged == 1


def test_a_loaded_state_takes_the_dtype_of_the_parameters():
    """A checkpoint in another precision goes on with the weights to come."""
    params = weights(1.0)
    average = ours.LatestWeightAverage(params, 2)
    average.load_state_dict({"latest": [[torch.full((2,), 3.0).double()]]})
    average.update()
    assert average.averages()[0].dtype == torch.float32
    assert average.averages()[0].tolist() == [2.0, 2.0]


@pytest.mark.parametrize("shape", [(3,), (2, 2, 3), (1,)])
def test_shapes_that_changed(shape):
    """An error at the update, and nothing is changed."""
    params = [nn.Parameter(torch.ones(2, 3))]
    average = ours.LatestWeightAverage(params, 3)
    average.update()
    before = copies(average.averages())
    params[0].data = torch.ones(shape)
    with pytest.raises(ValueError, match="shape"):
        average.update()
    assert_equal(average.averages(), before)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "2", None])
def test_bad_windows(k):
    """The class and the argument are named."""
    with pytest.raises(
        (ValueError, TypeError), match=r"LatestWeightAverage.*k|k.*Latest"
    ):
        ours.LatestWeightAverage(weights(1.0), k)


def test_copies():
    """A copy of the pair goes on with its own parameters."""
    model = linear()
    average = ours.LatestWeightAverage(model, 2)
    average.update()
    before = average.averages()
    other, copied = copy.deepcopy((model, average))
    shake(other, 3)
    copied.update()
    assert_equal(average.averages(), before)
    due = (model.weight + other.weight).detach() / 2
    torch.testing.assert_close(copied.averages()[0], due)
