"""``update_bn``: torch's statistics; and nothing has changed where it fails."""

import copy
from collections import UserDict, namedtuple

import pytest
import torch
from torch import nn
from torch.optim import swa_utils as torchs

import polyak.swa_utils as ours
from tests.swa_utils.harness import assert_equal, linear, normalised

BATCHES = [
    torch.randn(size, 4, generator=torch.Generator().manual_seed(size))
    for size in (5, 5, 3)
]
Pair = namedtuple("Pair", ["x", "y"])


class Named(nn.Module):
    """Takes its inputs by name."""

    def __init__(self):
        super().__init__()
        self.net = normalised()

    def forward(self, x, scale=1.0):
        return self.net(x * scale)


class Movable:
    """A batch of a user's class."""

    def __init__(self, x, moved_to=None):
        self.x, self.moved_to = x, moved_to

    def to(self, device):
        return Movable(self.x.to(device), device)


def used(model):
    """With statistics of its own, and modes of every kind."""
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm1d))
    norm.momentum = 0.3
    model(BATCHES[0])
    model.train()
    norm.eval()
    return model


def told(model):
    """What a call that fails may not change, and one that succeeds but in part."""
    modules = list(model.modules())
    modes = [module.training for module in modules]
    return modes, [getattr(module, "momentum", None) for module in modules]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, 1), lambda x: [x]])
@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu")])
def test_parity(training, wrap, device):
    """Tensors, tuples and lists, with a device and without."""
    results = []
    for library in (ours, torchs):
        torch.manual_seed(0)
        model = normalised()
        model(BATCHES[0])
        model.train(training)
        assert library.update_bn(map(wrap, BATCHES), model, device) is None
        assert all(module.training == training for module in model.modules())
        results.append(list(model.buffers()))
    assert_equal(*results)
    assert results[0][-1] == len(BATCHES)


@pytest.mark.parametrize("kind", [dict, UserDict])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_batches_of_names(kind, device):
    """Keyword arguments."""
    model, expected = Named(), normalised()
    model.net.load_state_dict(expected.state_dict())
    ours.update_bn([kind(x=x, scale=2.0) for x in BATCHES], model, device)
    torchs.update_bn([x * 2 for x in BATCHES], expected)
    assert_equal(list(model.buffers()), list(expected.buffers()))


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("wrap", [Pair, lambda x, y: (x, y), lambda x, y: [x, y]])
def test_forward(wrap, device):
    """The caller runs the model, with the batch as it is."""
    model, expected = normalised(), normalised()
    expected.load_state_dict(model.state_dict())
    seen = []

    def forward(model, batch):
        seen.append(type(batch))
        model(batch[1])

    batches = [wrap("unused", x) for x in BATCHES]
    ours.update_bn(batches, model, device, forward=forward)
    torchs.update_bn(BATCHES, expected)
    assert_equal(list(model.buffers()), list(expected.buffers()))
    assert seen == list(map(type, batches))


def test_batches_that_move_themselves():
    """Whatever has a ``to`` is moved, as in torch."""
    seen = []

    class Model(nn.BatchNorm1d):
        def forward(self, batch):
            seen.append(batch.moved_to)
            return super().forward(batch.x)

    for library in (ours, torchs):
        library.update_bn(map(Movable, BATCHES), Model(4), "cpu")
    assert seen == ["cpu"] * 2 * len(BATCHES)


def test_modes_and_momenta():
    """Each module has its own back; torch sets all modes to the model's."""
    model = used(normalised())
    before = told(model)
    ours.update_bn(BATCHES, model)
    assert told(model) == before


class Stop(BaseException):
    """Like a keyboard interrupt."""


@pytest.mark.parametrize("kind", [RuntimeError, Stop])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_loader_that_fails(kind, after):
    """Statistics, momenta and modes are what they were."""

    def loader():
        yield from BATCHES[:after]
        raise kind("no more")

    model = used(normalised())
    before, state = told(model), copy.deepcopy(model.state_dict())
    with pytest.raises(kind, match="no more"):
        ours.update_bn(loader(), model)
    assert told(model) == before
    assert_equal([*model.state_dict().values()], [*state.values()])


def test_a_batch_that_fails():
    """So too where the model cannot take it."""
    model = used(normalised())
    before, state = told(model), copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError):
        ours.update_bn([BATCHES[0], torch.ones(3, 7)], model)
    assert told(model) == before
    assert_equal([*model.state_dict().values()], [*state.values()])


@pytest.mark.parametrize("loader", [[], iter(()), {}])
def test_an_empty_loader(loader):
    """torch leaves statistics of nothing."""
    model = used(normalised())
    before, state = told(model), copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="yields no batches"):
        ours.update_bn(loader, model)
    assert told(model) == before
    assert_equal([*model.state_dict().values()], [*state.values()])


def test_a_model_without_norms():
    """Nothing to do: the loader is not even read."""

    def loader():
        raise AssertionError
        yield

    model = linear().eval()
    ours.update_bn(loader(), model)
    assert not model.training


def test_norms_without_statistics():
    """They have none to compute."""
    model = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False))
    ours.update_bn(BATCHES, model)
    assert model[0].running_mean is None
    assert model[0].momentum == 0.1


def test_an_averaged_model():
    """The use it is made for; no gradients are recorded, no weights change."""
    model = normalised()
    average = ours.AveragedModel(model)
    average.update_parameters(model)
    weight = average.module[0].weight.detach().clone()
    ours.update_bn(BATCHES, average)
    assert torch.equal(average.module[0].weight, weight)
    assert average.module[0].weight.grad is None
    expected = copy.deepcopy(model)
    torchs.update_bn(BATCHES, expected)
    assert_equal(list(average.module.buffers()), list(expected.buffers()))
