"""The live model and the averaged one are two: each may be used and changed freely."""

import pytest
import torch
from torch import nn

import polyak.swa_utils as ours
from tests.swa_utils.harness import (
    assert_equal,
    both,
    copies,
    linear,
    normalised,
    run,
    shake,
)

X = torch.linspace(-1, 1, 12).reshape(4, 3)


def reference(values):
    """The mean of these tensors."""
    return torch.stack(values).double().mean(0).float()


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_of_the_model(set_to_none):
    """A backward and ``zero_grad`` between updates change no average."""
    model = linear()
    average = ours.AveragedModel(model)
    seen = []
    for seed in range(5):
        shake(model, seed)
        model(X).sum().backward()
        gradient = model.weight.grad.clone()
        average.update_parameters(model)
        assert torch.equal(model.weight.grad, gradient)
        model.zero_grad(set_to_none=set_to_none)
        seen.append(model.weight.detach().clone())
        torch.testing.assert_close(average.module.weight.detach(), reference(seen))
    assert average.module.weight.grad is None


def test_gradients_of_the_average():
    """Its own: the live model has neither gradient nor change from it."""
    model = linear()
    average = ours.AveragedModel(model)
    run(average, model, range(3))
    before = copies(model.parameters())
    average(X).square().sum().backward()
    assert all(p.grad is not None for p in average.module.parameters())
    assert all(p.grad is None for p in model.parameters())
    average.zero_grad()
    assert all(p.grad is None for p in average.module.parameters())
    average(X).square().sum().backward()
    average.zero_grad(set_to_none=False)
    assert_equal(list(model.parameters()), before)
    run(average, model, range(3, 5))
    assert not any(p.grad.any() for p in average.module.parameters())


def test_zero_grad_of_the_average_leaves_the_weights():
    """What the average follows is no gradient of the averaged model."""
    model = linear()
    average = ours.AveragedModel(model)
    run(average, model, range(3))
    before = copies(model.parameters())
    average.zero_grad(set_to_none=False)
    average.module.zero_grad(set_to_none=False)
    assert_equal(list(model.parameters()), before)


def data(model, values):
    for param, value in zip(model.parameters(), values, strict=True):
        param.data = value.clone()


def state_dict(model, values):
    model.load_state_dict(dict(zip(model.state_dict(), values, strict=True)))


def assigned(model, values):
    state = dict(zip(model.state_dict(), copies(values), strict=True))
    model.load_state_dict(state, assign=True)


def anew(model, values):
    for (name, _), value in zip([*model.named_parameters()], values, strict=True):
        setattr(model, name, nn.Parameter(value.clone()))


@pytest.mark.parametrize("replace", [data, state_dict, assigned, anew])
@pytest.mark.parametrize("side", ["model", "average"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@both
def test_weights_that_are_replaced(replace, side, dtype, library):
    """Of the live model or of the average: the next update sees what is there."""
    model = linear(dtype)
    function = library.get_ema_multi_avg_fn(0.5)
    average = library.AveragedModel(model, multi_avg_fn=function)
    run(average, model, range(3))
    new = copies(shake(linear(dtype), 9).parameters())
    replace(model if side == "model" else average.module, new)
    before = copies(average.module.parameters())
    average.update_parameters(model)
    after = list(average.module.parameters())
    for then, now, live in zip(before, after, model.parameters(), strict=True):
        due = (then.double() + live.detach().double()) / 2
        torch.testing.assert_close(now.double(), due, rtol=1e-2, atol=1e-2)


def test_both_are_cast():
    """From half precision to float32, in the middle of a run."""
    model = linear(torch.bfloat16)
    average = ours.AveragedModel(model)
    run(average, model, range(3))
    model.float()
    average.float()
    before = average.module.weight.detach().clone()
    run(average, model, [7])
    due = (3 * before + model.weight.detach()) / 4
    torch.testing.assert_close(average.module.weight.detach(), due)


def test_another_model():
    """The weights may come from any model of the same shapes."""
    models = [shake(linear(), seed) for seed in range(4)]
    average = ours.AveragedModel(models[0])
    for model in models:
        average.update_parameters(model)
    due = reference([model.weight.detach() for model in models])
    torch.testing.assert_close(average.module.weight.detach(), due)


def test_integer_buffers_are_copied():
    """Whether buffers are averaged or not."""
    for use_buffers in (True, False):
        model = normalised()
        average = ours.AveragedModel(model, use_buffers=use_buffers)
        for count in (3, 10, 4):
            model[1].num_batches_tracked.fill_(count)
            average.update_parameters(model)
            assert average.module[1].num_batches_tracked == count


def test_buffers_are_copied():
    """Unless they are to be averaged."""
    model = normalised()
    average = ours.AveragedModel(model)
    for seed in range(4):
        average.update_parameters(shake(model, seed))
        assert_equal(list(average.module.buffers()), list(model.buffers()))
        assert average.module[1].running_mean is not model[1].running_mean
