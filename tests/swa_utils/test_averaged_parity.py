"""Step by step, the averages are torch's."""

import inspect

import pytest
import torch
from torch import nn
from torch.optim import swa_utils as torchs

import polyak
import polyak.swa_utils as ours
from tests.swa_utils.harness import (
    NETWORKS,
    assert_same,
    every_network,
    linear,
    normalised,
    shake,
)


def drift(average, current, count):
    """A user's function of one tensor; it uses the count."""
    return average + (current - average) / (count + 2)


def drift_all(averages, current, count):
    """A user's function of lists."""
    for average, value in zip(averages, current, strict=True):
        average.copy_(drift(average, value, count))


FUNCTIONS = {
    "default": lambda library: {},
    "mean": lambda library: {"multi_avg_fn": library.get_swa_multi_avg_fn()},
    "ema": lambda library: {"multi_avg_fn": library.get_ema_multi_avg_fn(0.9)},
    "mean_of_one": lambda library: {"avg_fn": library.get_swa_avg_fn()},
    "ema_of_one": lambda library: {"avg_fn": library.get_ema_avg_fn(0.9)},
    "torchs_ema": lambda library: {"multi_avg_fn": torchs.get_ema_multi_avg_fn(0.9)},
    "users": lambda library: {"multi_avg_fn": drift_all},
    "users_of_one": lambda library: {"avg_fn": drift},
}
every_function = pytest.mark.parametrize("function", list(FUNCTIONS))


def pair(label, function="default", **more):
    """A model, polyak's average of it and torch's."""
    model = shake(NETWORKS[label](), 0)
    return model, *(
        library.AveragedModel(model, **FUNCTIONS[function](library), **more)
        for library in (ours, torchs)
    )


def assert_parity(label, function="default", steps=6, **more):
    """The averages are alike before the first update, and after each."""
    model, actual, expected = pair(label, function, **more)
    assert_same(actual, expected)
    for seed in range(1, steps):
        shake(model, seed)
        actual.update_parameters(model)
        expected.update_parameters(model)
        # Whole numbers are copied here, and torch averages them.
        for module in (actual.module, expected.module):
            for ours_, live in zip(
                module.parameters(), model.parameters(), strict=True
            ):
                if not ours_.dtype.is_floating_point and not ours_.dtype.is_complex:
                    ours_.copy_(live)
        assert_same(actual, expected)


@every_network
@every_function
def test_weights(label, function):
    """All networks under all functions."""
    if label == "odd" and function != "default":
        pytest.skip("torch's functions round whole numbers, or refuse them")
    assert_parity(label, function)


@every_function
def test_buffers(function):
    """Averaged as weights are; the count of batches alone is not."""
    if function == "mean":
        pytest.skip("torch's function fails at whole numbers")
    model, actual, expected = pair("normalised", function, use_buffers=True)
    for seed in range(1, 6):
        shake(model, seed)
        actual.update_parameters(model)
        expected.update_parameters(model)
        norm, reference = actual.module[1], expected.module[1]
        assert norm.num_batches_tracked == model[1].num_batches_tracked
        for name in ("running_mean", "running_var"):
            one, other = getattr(norm, name), getattr(reference, name)
            torch.testing.assert_close(one, other)
            if seed > 1:
                assert not torch.equal(one, getattr(model[1], name))


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999, 1.0])
def test_decays(decay):
    """The ends of the range too, and weights of different sizes."""
    model = linear()
    averages = [
        library.AveragedModel(model, multi_avg_fn=library.get_ema_multi_avg_fn(decay))
        for library in (ours, torchs)
    ]
    for size in (1e20, 1.0, 1e-20, 3.0):
        with torch.no_grad():
            model.weight.fill_(size)
        for average in averages:
            average.update_parameters(model)
        assert_same(*averages)


def test_training():
    """With dropout, an optimizer, and the averaged model in use in between."""
    torch.manual_seed(0)
    model = normalised()
    averages = [library.AveragedModel(model) for library in (ours, torchs)]
    optimizer = polyak.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
        for average in averages:
            average.update_parameters(model)
        assert_same(*averages)
        x = torch.randn(3, 4)
        outputs = [average.eval()(x) for average in averages]
        torch.testing.assert_close(*outputs)


def test_channels_last():
    """The layout of the live weights may change on the way."""
    model = nn.Conv2d(3, 4, 3)
    averages = [library.AveragedModel(model) for library in (ours, torchs)]
    for seed in range(5):
        if seed == 2:
            model.to(memory_format=torch.channels_last)
        shake(model, seed)
        for average in averages:
            average.update_parameters(model)
        assert_same(*averages)


def test_forward_takes_any_arguments():
    """By position and by name."""
    model = nn.Bilinear(2, 3, 4)
    average = ours.AveragedModel(model)
    x, y = torch.randn(5, 2), torch.randn(5, 3)
    assert torch.equal(average(x, input2=y), model(x, y))


def test_the_first_update_is_a_copy():
    """Whatever the function, and the average begins as the model's copy."""
    model, actual, _ = pair("float32", "users")
    assert torch.equal(actual.module.weight, model.weight)
    shake(model, 5)
    actual.update_parameters(model)
    assert torch.equal(actual.module.weight, model.weight)
    assert actual.n_averaged == 1


def test_a_new_beginning():
    """``n_averaged`` of 0 begins anew, as in torch."""
    model, actual, expected = pair("float32")
    for seed in range(1, 7):
        shake(model, seed)
        for average in (actual, expected):
            if seed == 4:
                average.n_averaged.zero_()
            average.update_parameters(model)
        assert_same(actual, expected)


def test_what_a_function_is_given():
    """Detached lists of one dtype, and the count as a tensor; of one tensor alike."""
    seen = {ours: [], torchs: []}
    for library, calls in seen.items():

        def record(averages, current, count, calls=calls):
            for values in (averages, current):
                assert isinstance(values, list | tuple)
                assert not any(value.requires_grad for value in values)
            calls.append((len(averages), averages[0].dtype, int(count), type(count)))

        model = nn.ModuleList([linear(), linear(torch.float64)])
        average = library.AveragedModel(model, multi_avg_fn=record)
        for _ in range(3):
            average.update_parameters(model)
    assert sorted(map(str, seen[ours])) == sorted(map(str, seen[torchs]))


def test_device():
    """The averages are kept there."""
    model = linear()
    average = ours.AveragedModel(model, device=torch.device("meta"))
    assert {value.device.type for value in average.state_dict().values()} == {"meta"}
    assert model.weight.device.type == "cpu"
    average = ours.AveragedModel(model, "cpu")
    assert average.n_averaged.device.type == "cpu"


def test_every_tensor_is_served_by_a_kernel():
    """The default and the fused functions."""
    for function in ("default", "mean", "ema"):
        for label in ("float32", "float64", "complex64", "normalised"):
            model, average, _ = pair(label, function, use_buffers=True)
            for seed in range(3):
                average.update_parameters(shake(model, seed))
            served = polyak.explain(average._blend._optimizer).served
            assert served
            assert all(part.kernel is not None for part in served)


@pytest.mark.parametrize("name", torchs.__all__)
def test_signatures(name):
    """torch's parameters, in its order, with its defaults; then what is new."""
    actual = inspect.signature(getattr(ours, name)).parameters.values()
    expected = inspect.signature(getattr(torchs, name)).parameters.values()
    assert len(actual) >= len(expected)
    for one, other in zip(actual, expected, strict=False):
        assert (one.name, one.default, one.kind) == (
            other.name,
            other.default,
            other.kind,
        )
    for new in list(actual)[len(expected) :]:
        assert new.default is not inspect.Parameter.empty


def test_names():
    """All of torch's, and its class as the base."""
    assert set(torchs.__all__) <= set(ours.__all__)
    assert isinstance(ours.AveragedModel(linear()), torchs.AveragedModel)
    assert polyak.swa_utils is ours
