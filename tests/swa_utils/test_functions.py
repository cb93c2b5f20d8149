"""The averaging functions by themselves."""

import math
import pickle

import pytest
import torch
from torch.optim import swa_utils as torchs

import polyak.swa_utils as ours

DECAYS = [0.0, 0.25, 0.999, 1.0]


def values(seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator).to(dtype) for size in (3, 4, 5)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("name", ["get_ema_multi_avg_fn", "get_swa_multi_avg_fn"])
@pytest.mark.parametrize("count", [1, 5, torch.tensor(5)])
def test_of_lists(name, dtype, count):
    """In place, torch's values; the count is a number or a tensor."""
    results = []
    for library in (ours, torchs):
        averages, current = values(0, dtype), values(1, dtype)
        kept = list(averages)
        if isinstance(count, torch.Tensor) and library is torchs:
            count = int(count)
        assert getattr(library, name)()(averages, current, count) is None
        assert all(a is b for a, b in zip(averages, kept, strict=True))
        results.append(averages)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", ["get_ema_avg_fn", "get_swa_avg_fn"])
@pytest.mark.parametrize("count", [1, 5, torch.tensor(5)])
def test_of_one(name, count):
    """A new tensor with torch's values; nothing is changed."""
    average, current = values(0)[0], values(1)[0]
    before = average.clone()
    results = [
        getattr(library, name)()(average, current, count) for library in (ours, torchs)
    ]
    torch.testing.assert_close(*results)
    assert torch.equal(average, before)


@pytest.mark.parametrize("decay", DECAYS)
def test_decays(decay):
    """The argument is torch's, by position and by name."""
    for name in ("get_ema_multi_avg_fn", "get_ema_avg_fn"):
        for make in (lambda f: f(decay), lambda f: f(decay=decay)):
            results = []
            for library in (ours, torchs):
                averages, current = values(0), values(1)
                function = make(getattr(library, name))
                if "multi" in name:
                    function(averages, current, 3)
                else:
                    averages[0] = function(averages[0], current[0], 3)
                results.append(averages)
            torch.testing.assert_close(*results)


@pytest.mark.parametrize("decay", [-0.1, 1.1, math.nan, math.inf, -math.inf, 2])
@pytest.mark.parametrize(
    "make",
    [
        ours.get_ema_avg_fn,
        ours.get_ema_multi_avg_fn,
        lambda decay: ours.get_ema_multi_avg_fn(decay, warmup=True),
        lambda decay: ours.WeightAverage([torch.ones(1)], decay),
    ],
)
def test_decay_outside_its_range(decay, make):
    """torch's error."""
    with pytest.raises(ValueError, match=f"Invalid decay value {decay}"):
        make(decay)


@pytest.mark.parametrize("decay", [0.2, 0.5, 0.99])
def test_warmup(decay):
    """The decay begins at (1 + n) / (10 + n), and ends at its value."""
    function = ours.get_ema_multi_avg_fn(decay, warmup=True)
    model = torch.nn.Linear(1, 1, bias=False).double()
    averaged = ours.AveragedModel(model, multi_avg_fn=function)
    average = ours.WeightAverage(model, decay, warmup=True)
    due = None
    for count in range(60):
        with torch.no_grad():
            model.weight.fill_(math.sin(count))
        averaged.update_parameters(model)
        average.update()
        now = min(decay, (1 + count) / (10 + count))
        live = math.sin(count)
        due = live if due is None else now * due + (1 - now) * live
        assert averaged.module.weight.item() == pytest.approx(due, rel=1e-12)
        assert average.averages()[0].item() == pytest.approx(due, rel=1e-12)


def test_whole_numbers_are_copied():
    """They have no average between them."""
    for function in (ours.get_ema_multi_avg_fn(), ours.get_swa_multi_avg_fn()):
        averages = [torch.tensor([1, 2])]
        function(averages, [torch.tensor([5, 9])], 3)
        assert averages[0].tolist() == [5, 9]


@pytest.mark.parametrize("make", [ours.get_ema_multi_avg_fn, ours.get_swa_multi_avg_fn])
def test_pickles(make):
    """So that an averaged model can be sent to another process."""
    function = pickle.loads(pickle.dumps(make()))
    results = [values(0), values(0)]
    function(results[0], values(1), 3)
    make()(results[1], values(1), 3)
    torch.testing.assert_close(*results, rtol=0, atol=0)
