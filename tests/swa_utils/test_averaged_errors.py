"""A model that does not fit is refused, and nothing has changed."""

import copy

import pytest
import torch
from torch import nn

import polyak.swa_utils as ours
from tests.swa_utils.harness import assert_equal, linear, normalised, run


def sequential(*layers):
    return nn.Sequential(*layers)


OTHERS = {
    "fewer": sequential(nn.Linear(3, 4)),
    "more": sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 5)),
    "shape": sequential(nn.Linear(3, 4), nn.Linear(4, 6)),
    "broadcast": sequential(nn.Linear(3, 4), nn.Linear(4, 1)),
    "dtype": sequential(nn.Linear(3, 4), nn.Linear(4, 5).double()),
    "half": sequential(nn.Linear(3, 4), nn.Linear(4, 5).bfloat16()),
    "none": sequential(nn.ReLU()),
    "buffers": sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 5)),
}
FUNCTIONS = {
    "default": {},
    "ema": {"multi_avg_fn": ours.get_ema_multi_avg_fn(0.9)},
    "of_one": {"avg_fn": ours.get_ema_avg_fn(0.9)},
    "users": {"multi_avg_fn": lambda averages, current, count: None},
}


@pytest.mark.parametrize("label", list(OTHERS))
@pytest.mark.parametrize("function", list(FUNCTIONS))
@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_model(label, function, count):
    """Before the first update, and later; and the right one can go on."""
    model = sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    average = ours.AveragedModel(model, **FUNCTIONS[function])
    run(average, model, range(count))
    before = copy.deepcopy(average.state_dict())
    with pytest.raises(ValueError, match=r"AveragedModel.*Nothing was changed"):
        average.update_parameters(OTHERS[label])
    assert_equal([*average.state_dict().values()], [*before.values()])
    run(average, model, [5])
    assert average.n_averaged == count + 1


def test_the_message():
    """What it is, and what it should be."""
    average = ours.AveragedModel(linear())
    with pytest.raises(ValueError, match=r"weight.*float32.*\(4, 5\).*\(4, 3\)"):
        average.update_parameters(nn.Linear(5, 4))
    with pytest.raises(ValueError, match=r"float64.*float32"):
        average.update_parameters(linear(torch.float64))
    with pytest.raises(ValueError, match=r"4 parameters.*2"):
        average.update_parameters(sequential(linear(), linear()))


@pytest.mark.parametrize("use_buffers", [True, False])
def test_a_buffer_of_another_shape(use_buffers):
    """Neither the weights before it have changed."""
    model = normalised()
    average = ours.AveragedModel(model, use_buffers=use_buffers)
    run(average, model, range(3))
    before = copy.deepcopy(average.state_dict())
    model[1].running_mean = torch.zeros(1)
    with pytest.raises(ValueError, match="running_mean"):
        average.update_parameters(model)
    assert_equal([*average.state_dict().values()], [*before.values()])


def test_both_functions():
    """As in torch."""
    with pytest.raises(AssertionError, match="Only one of"):
        ours.AveragedModel(
            linear(),
            avg_fn=ours.get_swa_avg_fn(),
            multi_avg_fn=ours.get_swa_multi_avg_fn(),
        )


def test_a_function_that_raises():
    """The count is what it was."""

    def fails(average, current, count):
        raise RuntimeError("no average")

    model = linear()
    average = ours.AveragedModel(model, avg_fn=fails)
    average.update_parameters(model)
    before = copy.deepcopy(average.state_dict())
    with pytest.raises(RuntimeError, match="no average"):
        average.update_parameters(model)
    assert_equal([*average.state_dict().values()], [*before.values()])
