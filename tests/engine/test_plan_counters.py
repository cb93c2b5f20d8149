"""Numbers in the state: the counters of steps, and slots that are numbers."""

import pytest
import torch

import polyak
from polyak import Slot

from .support import compared, engines, parameter, probe


@compared("Adam")
def test_the_step_changes_in_place(run):
    """The bias corrections follow."""
    run.steps()
    run.state()["step"].fill_(100.0)
    run.steps()
    run.state()["step"].add_(-50.0)
    run.steps()
    for index in range(3):
        run.state(index)["step"].zero_()
    run.steps()


@compared("Adam")
def test_the_step_is_another_tensor(run):
    """state[p]["step"] = tensor(7.)."""
    run.steps()
    run.state()["step"] = torch.tensor(7.0)
    run.steps()
    run.state(1)["step"].data = torch.tensor(9.0)
    run.steps()
    run.state(2)["step"] = torch.tensor(11.0, dtype=torch.float64)
    run.gradients()
    run.optimizer.step()
    run.record.append([value.float() for value in run.state(2).values()])


@compared("Adam", references=["eager"])
def test_the_step_is_a_python_number(run):
    """As in checkpoints of torch 1.11 and before; it stays what it is."""
    run.steps()
    run.state()["step"] = 7
    run.state(1)["step"] = 7.0
    run.steps(3, "kernel and eager")
    assert run.state()["step"] == 10
    assert type(run.state()["step"]) is int
    assert type(run.state(1)["step"]) is float


@compared("Adam")
def test_the_step_is_an_integer_tensor(run):
    """It stays one, and counts."""
    run.steps()
    run.state()["step"] = torch.tensor(7)
    run.step("kernel and eager")
    run.step("kernel and eager")
    assert run.state()["step"].dtype is torch.int64


@compared("Adam")
def test_parameters_have_different_steps(run):
    """One kernel, a row of scalars for each step."""
    for index, step in enumerate((1.0, 50.0, 3.0)):
        run.step()
        run.state(index)["step"].fill_(step)
    run.steps(3)
    if run.engine == "kernel":
        assert len(run.optimizer._plan.buckets) == 1


@compared("Adam")
def test_parameters_share_a_step(run):
    """One counter for two parameters is advanced by both, as in torch."""
    run.steps()
    run.state(1)["step"] = run.state(0)["step"]
    run.step("kernel and eager")
    run.step("kernel and eager")


@compared("Adam")
def test_steps_are_views_of_one_tensor(run):
    """0-d views side by side."""
    run.steps()
    counters = torch.full((3,), 2.0)
    for index in range(3):
        run.state(index)["step"] = counters[index]
    run.steps()
    assert counters.tolist() == [4.0] * 3


@compared("Adam")
def test_counters_follow_the_default_dtype(run):
    """float64 where that is the default; float32 and float64 side by side are right."""
    run.step()
    torch.set_default_dtype(torch.float64)
    try:
        run.params.append(torch.ones(3, dtype=torch.float32, requires_grad=True))
        run.groups[0]["params"].append(run.params[-1])
        run.steps()
    finally:
        torch.set_default_dtype(torch.float32)
    run.steps()
    assert run.state(0)["step"].dtype is torch.float32
    assert run.state(3)["step"].dtype is torch.float64


def test_large_steps_are_counted_as_float32_counts():
    """Beyond 2**24 a float32 counter stands still, in torch as here."""
    results = []
    for foreach in (None, False):
        param = parameter([1.0], [1.0])
        optimizer = polyak.Adam([param], foreach=foreach)
        optimizer.step()
        optimizer.state[param]["step"].fill_(2.0**24 - 1)
        for _ in range(3):
            optimizer.step()
        results.append([param.item(), optimizer.state[param]["step"].item()])
        assert engines(optimizer) == ("kernel" if foreach is None else "eager")
    assert results[0] == pytest.approx(results[1])
    assert results[0][1] == 2.0**24


# Numbers among the slots


def number_rule(param, grad, speed, mean, *, lr):
    """A number that grows, and a branch on it."""
    scale = 2.0 if speed > 3 else 1.0
    mean = mean + speed * grad
    return param - lr * scale * mean, speed * 1.5, mean


Numbered = probe(
    number_rule, {"speed": Slot(lambda param, group: 1.0, number=True)}, name="Numbered"
)


def number_run(foreach, change=lambda optimizer, params: None):
    params = [parameter([1.0, 2.0]), parameter([3.0])]
    optimizer, record = Numbered(params, lr=0.5, foreach=foreach), []
    for step in range(6):
        for index, param in enumerate(params):
            param.grad = torch.full_like(param, 0.1 * (step + index))
        optimizer.step()
        record += [param.detach().clone() for param in params]
        record += [optimizer.state[param]["speed"].clone() for param in params]
        if step == 2:
            change(optimizer, params)
    assert engines(optimizer) == ("kernel" if foreach is None else "eager")
    return record


def replace(optimizer, params):
    optimizer.state[params[0]]["speed"] = torch.tensor(0.25)


def fill(optimizer, params):
    optimizer.state[params[0]]["speed"].fill_(0.25)


def delete(optimizer, params):
    del optimizer.state[params[1]]["speed"]


@pytest.mark.parametrize("change", [lambda *_: None, replace, fill, delete])
def test_numbers_among_the_slots(change):
    """They follow the rule, whatever is done to them, as in the eager engine."""
    torch.testing.assert_close(number_run(None, change), number_run(False, change))


def test_a_number_may_be_nan():
    """A number that is no number equals nothing, and is still right."""
    results = []
    for foreach in (None, False):
        param = parameter([1.0], [1.0])
        optimizer = Numbered([param], lr=0.5, foreach=foreach)
        optimizer.step()
        optimizer.state[param]["speed"].fill_(float("nan"))
        optimizer.step()
        optimizer.step()
        results.append([param.detach(), optimizer.state[param]["speed"]])
    torch.testing.assert_close(*results, equal_nan=True)
    assert results[0][0].isnan()


def test_a_number_may_overflow():
    """Beyond float32 it is infinite, as in a tensor."""

    def rule(param, grad, speed):
        return param + 0 * grad, speed * 1e30

    param = parameter([1.0], [1.0])
    slots = {"speed": Slot(lambda param, group: 1e30, number=True)}
    optimizer = probe(rule, slots)([param])
    for _ in range(2):
        optimizer.step()
        assert optimizer.state[param]["speed"] == torch.inf
    assert param.item() == 1.0
