"""``WeightAverage``: the mean of parameters, or their moving average."""

import copy
import pickle

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

DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.complex64,
]
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_decay = pytest.mark.parametrize("decay", [None, 0.0, 0.9, 1.0])


@every_dtype
@every_decay
def test_values(dtype, decay):
    """A reference in double precision."""
    model = linear(dtype)
    average = ours.WeightAverage(model, decay)
    due = None
    for count in range(8):
        shake(model, count)
        average.update()
        now = model.weight.detach().to(torch.complex128)
        if due is None:
            due = now
        else:
            kept = count / (count + 1) if decay is None else decay
            due = kept * due + (1 - kept) * now
        actual = average.averages()[0].to(torch.complex128)
        torch.testing.assert_close(actual, due, rtol=1e-5, atol=1e-6)
        assert average.n_averaged == count + 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """Kept in float32: small steps are not lost."""
    params = weights(1.0, 1.0, dtype=dtype)
    average = ours.WeightAverage(params, 0.9999)
    average.update()
    fill(params, 2.0)
    for _ in range(500):
        average.update()
    due = 1 - 0.9999**500
    for value in average.averages():
        assert value.dtype == torch.float32
        assert (value - 1).numpy() == pytest.approx(due, rel=0.01)


def test_a_hook():
    """The average follows the optimizer's steps."""
    model, seen = linear(), []
    optimizer = polyak.SGD(model.parameters(), lr=0.1)
    average = ours.WeightAverage(model)
    handle = optimizer.register_step_post_hook(average.update)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(2, 3)).sum().backward()
        optimizer.step()
        seen.append(model.weight.detach().clone())
    handle.remove()
    assert average.n_averaged == 4
    torch.testing.assert_close(average.averages()[0], torch.stack(seen).mean(0))


def test_a_hook_of_all_optimizers():
    """The average's own pass is no step of an optimizer."""
    params = weights(1.0)
    average = ours.WeightAverage(params)
    handle = polyak.register_optimizer_step_post_hook(lambda *_: average.update())
    try:
        optimizer = polyak.SGD(params, lr=0.1)
        for _ in range(3):
            optimizer.step()
    finally:
        handle.remove()
    assert average.n_averaged == 3


def test_gradients_are_left_alone():
    """Those of the parameters, and there is no graph."""
    params = weights(1.0, 2.0)
    average = ours.WeightAverage(params)
    for _ in range(3):
        sum(p.sum() for p in params).backward()
        before = copies(p.grad for p in params)
        average.update()
        assert_equal([p.grad for p in params], before)
    assert not any(value.requires_grad for value in average.averages())


def test_the_kernel():
    """One pass, in half precision too."""
    for dtype in DTYPES:
        average = ours.WeightAverage(weights(1.0, 2.0, dtype=dtype))
        for _ in range(3):
            average.update()
        served = polyak.explain(average._blend._optimizer).served
        assert all(part.kernel is not None for part in served)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_resume(dtype, count):
    """In place, bit for bit."""
    params = weights(1.0, 2.0, dtype=dtype)
    average, other = (ours.WeightAverage(params, 0.99) for _ in range(2))
    for value in range(count):
        fill(params, value)
        average.update()
    held = other.averages()
    other.load_state_dict(through_torch(average.state_dict()))
    assert all(a is b for a, b in zip(other.averages(), held, strict=True))
    for value in (7.0, 3.0):
        fill(params, value)
        average.update()
        other.update()
        assert_equal(other.averages(), average.averages())
    assert other.n_averaged == average.n_averaged == count + 2


BAD_STATES = {
    "fewer": lambda: {"n_averaged": 3, "averages": [torch.zeros(2)]},
    "shape": lambda: {"n_averaged": 3, "averages": [torch.zeros(2), torch.zeros(1)]},
    "no_averages": lambda: {"n_averaged": 3},
    "no_count": lambda: {"averages": [torch.zeros(2), torch.zeros(3)]},
    "empty": dict,
}


@pytest.mark.parametrize("label", list(BAD_STATES))
def test_a_state_that_does_not_fit(label):
    """Nothing is changed."""
    average = ours.WeightAverage(weights(1.0, 2.0))
    average.update()
    before = copies(average.averages())
    with pytest.raises((ValueError, KeyError)):
        average.load_state_dict(BAD_STATES[label]())
    assert_equal(average.averages(), before)
    assert average.n_averaged == 1


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("shape", [(3,), (2, 2, 3), (1,), ()])
def test_shapes_that_changed(shape, count):
    """An error at the update, and nothing is changed."""
    params = [*weights(1.0), nn.Parameter(torch.ones(2, 3))]
    average = ours.WeightAverage(params)
    for _ in range(count):
        average.update()
    before = copies(average.averages())
    fill(params, 5.0)
    params[1].data = torch.ones(shape)
    with pytest.raises(ValueError, match="shape"):
        average.update()
    assert_equal(average.averages(), before)
    assert average.n_averaged == count


def by_pickle(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", [copy.deepcopy, by_pickle])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_copies(dtype, way, count):
    """A copy of the pair goes on with its own parameters."""
    model = shake(linear(dtype), 0)
    average = ours.WeightAverage(model, 0.5)
    for _ in range(count):
        average.update()
    other, copied = way((model, average))
    assert copied.params[0] is other.weight
    before = copies(average.averages())
    for seed in (3, 4):
        shake(other, seed)
        copied.update()
    assert_equal(average.averages(), before)
    for seed in (3, 4):
        shake(model, seed)
        average.update()
    assert_equal(copied.averages(), average.averages())


@pytest.mark.parametrize("to", [torch.float64, torch.bfloat16])
def test_parameters_that_are_cast(to):
    """The average keeps its own precision."""
    model = linear()
    average = ours.WeightAverage(model, 0.5)
    fill(model.parameters(), 1.0)
    average.update()
    model.to(to)
    fill(model.parameters(), 2.0)
    average.update()
    assert average.averages()[0].dtype == torch.float32
    assert (average.averages()[0] == 1.5).all()
