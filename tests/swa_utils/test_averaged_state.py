"""State dicts are torch's, and a run that is resumed or copied goes on alike."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.optim import swa_utils as torchs

import polyak.swa_utils as ours
from tests.swa_utils.harness import (
    NETWORKS,
    assert_equal,
    every_network,
    linear,
    run,
    shake,
    tensors,
    through_torch,
)


def by_pickle(value):
    return pickle.loads(pickle.dumps(value))


def averaged(label, library=ours, decay=None):
    """A model and its average."""
    model = shake(NETWORKS.get(label, lambda: linear(torch.bfloat16))(), 0)
    if decay is None:
        return model, library.AveragedModel(model)
    function = library.get_ema_multi_avg_fn(decay)
    return model, library.AveragedModel(model, multi_avg_fn=function)


with_half = pytest.mark.parametrize("label", [*NETWORKS, "bfloat16"])
every_count = pytest.mark.parametrize("count", [0, 1, 2, 5])


@every_network
@every_count
def test_keys(label, count):
    """torch's, in its order."""
    dicts = []
    for library in (ours, torchs):
        model, average = averaged(label, library)
        run(average, model, range(count))
        dicts.append(average.state_dict())
    assert list(dicts[0]) == list(dicts[1])


@pytest.mark.parametrize(
    ("source", "target"),
    [(ours, torchs), (torchs, ours)],
    ids=["to_torch", "from_torch"],
)
@pytest.mark.parametrize("label", ["float32", "float64", "complex64", "normalised"])
@every_count
def test_exchange_with_torch(source, target, label, count):
    """In the middle of a run; both go on alike."""
    model, average = averaged(label, source)
    run(average, model, range(count))
    _, other = averaged(label, target)
    other.load_state_dict(through_torch(average.state_dict()))
    assert_equal(tensors(other), tensors(average))
    run(average, model, range(10, 14))
    run(other, model, range(10, 14))
    parameters = zip(other.parameters(), average.parameters(), strict=True)
    for one, another in parameters:
        torch.testing.assert_close(one, another)


@with_half
@every_count
@pytest.mark.parametrize("decay", [None, 0.99])
@pytest.mark.parametrize("used", [False, True])
def test_resume(label, count, decay, used):
    """Bit for bit, in a new average and in one that was used."""
    model, average = averaged(label, decay=decay)
    run(average, model, range(count))
    _, other = averaged(label, decay=decay)
    if used:
        run(other, averaged(label)[0], range(20, 23))
    other.load_state_dict(through_torch(average.state_dict()))
    for seed in range(10, 14):
        shake(model, seed)
        average.update_parameters(model)
        other.update_parameters(model)
        assert_equal(
            list(other.state_dict().values()), [*average.state_dict().values()]
        )


@with_half
@every_count
@pytest.mark.parametrize("decay", [None, 0.99])
@pytest.mark.parametrize("way", [copy.deepcopy, by_pickle])
def test_copies(label, count, decay, way):
    """The copy goes on as the original would, and neither touches the other."""
    model, average = averaged(label, decay=decay)
    run(average, model, range(count))
    other = way(average)
    before = copy.deepcopy(average.state_dict())
    live = NETWORKS.get(label, lambda: linear(torch.bfloat16))()
    live.load_state_dict(model.state_dict())
    run(other, live, range(10, 14))
    assert_equal([*average.state_dict().values()], [*before.values()])
    run(average, model, range(10, 14))
    assert_equal([*average.state_dict().values()], [*other.state_dict().values()])
    assert type(other) is ours.AveragedModel


def test_a_state_dict_inside_another():
    """An averaged model may be part of a module, in half precision too."""

    def build():
        net = linear(torch.bfloat16)
        return nn.ModuleDict({"net": net, "average": ours.AveragedModel(net)})

    one, other = build(), build()
    run(one["average"], one["net"], range(4))
    other.load_state_dict(through_torch(one.state_dict()))
    for part in (one, other):
        run(part["average"], part["net"], range(5, 8))
    assert_equal([*one.state_dict().values()], [*other.state_dict().values()])


def test_loading_is_into_the_same_tensors():
    """What holds the averaged weights sees the new ones."""
    model, average = averaged("float32")
    run(average, model, range(3))
    weight, state = average.module.weight, copy.deepcopy(average.state_dict())
    run(average, model, range(3, 6))
    average.load_state_dict(state)
    assert average.module.weight is weight
    assert torch.equal(weight, state["module.weight"])


def test_loading_leaves_the_state_dict_alone():
    """It can be loaded twice."""
    model, average = averaged("bfloat16")
    run(average, model, range(3))
    state = copy.deepcopy(average.state_dict())
    keys = list(state)
    for _ in range(2):
        average.load_state_dict(state)
        assert list(state) == keys
