"""Promises about parameter groups and hyperparameters."""

import torch
from torch.nn import Parameter

from .registry import promise
from .subject import (
    LOW,
    WARM_UP,
    NotApplicable,
    close,
    keeps_no_rate,
    movement,
    values,
)


@promise(
    "Groups",
    "a misspelt key is refused",
    "`weight_decya=0` is kept, ignored, and found after the run.",
)
def misspelt(subject):
    try:
        subject.make([{"params": subject.parameters(), "weight_decya": 0.0}])
    except Exception:
        return
    raise AssertionError("it is taken")


@promise(
    "Groups",
    "a negative rate in a group is refused",
    "One group climbs instead of descending.",
)
def negative_rate(subject):
    if not subject.takes("lr"):
        raise NotApplicable("there is no rate")
    try:
        subject.make([{"params": subject.parameters(), "lr": -1.0}])
    except Exception:
        return
    raise AssertionError("it is taken")


@promise(
    "Groups",
    "groups have their own rates",
    "Layer-wise rates and nearly frozen groups do not work.",
)
def several_groups(subject):
    keeps_no_rate(subject)
    params = subject.parameters()
    before = values(params)
    rate = subject.make(params).defaults["lr"]
    # A quasi-Newton method makes up for a low rate, but not for none.
    part = 0.0 if subject.drive == "closure" else LOW
    low, usual = {"params": params[:1], "lr": rate * part}, {"params": params[1:]}
    optimizer = subject.make([low, usual])
    subject.train(optimizer, params, range(WARM_UP))
    slow, fast = movement(params[:1], before[:1]), movement(params[1:], before[1:])
    assert fast > 0, "the other group does not move"
    assert slow < 0.01 * fast, f"a rate of {part} times moves by {slow / fast:.2g}"


@promise(
    "Groups",
    "a group can be added in the run",
    "Layers cannot be unfrozen one by one.",
)
def added(subject):
    params = subject.parameters()
    first, second = params
    before = values(params)
    optimizer = subject.make([first])
    subject.train(optimizer, [first], range(2))
    optimizer.add_param_group({"params": [second]})
    subject.train(optimizer, params, range(2, 2 + WARM_UP))
    assert not torch.equal(second, before[1]), "its parameters do not move"


@promise(
    "Groups",
    "a changed rate counts",
    "Schedules and hand-set rates are ignored.",
)
def rate_changed(subject):
    keeps_no_rate(subject)
    params = subject.parameters()
    optimizer = subject.make(params)
    subject.train(optimizer, params, range(WARM_UP))
    moved = []
    for number in range(4):
        before = values(params)
        subject.step(optimizer, params, number)
        moved.append(movement(params, before))
        if number == 1:  # it has one step to come into effect, as in ASGD
            for group in optimizer.param_groups:
                group["lr"] *= LOW
    part = moved[-1] / moved[1]
    assert part < 0.01, f"a rate of {LOW} times moves by {part:.2g}"


@promise(
    "Groups",
    "the rate may be a tensor",
    "Compiled and captured steps compile anew at every change of the rate.",
)
def tensor_rate(subject):
    rate = subject.keywords.get("lr", 1e-3)
    ends = []
    for lr in (rate, torch.tensor(rate)):
        params = subject.parameters()
        optimizer = subject.make(params, lr=lr)
        subject.train(optimizer, params, range(3))
        ends.append(values(params))
    assert close(*ends), "the steps are others than with a number"


@promise(
    "Groups",
    "`maximize=True`",
    "Whoever maximises must turn the loss's sign, in the logs too.",
)
def maximise(subject):
    if not subject.takes("maximize"):
        raise AssertionError("there is no such argument")
    subject = subject.without_decay()
    subject.needs("dense", "sparse gradients")
    ends = []
    for maximize, sign in ((False, 1), (True, -1)):
        param = Parameter(torch.zeros(4, 3))
        optimizer = subject.make([param], maximize=maximize)
        for number in range(3):
            rng = torch.Generator().manual_seed(number)
            param.grad = sign * torch.randn(4, 3, generator=rng)
            optimizer.step()
        ends.append([param.detach()])
    assert close(*ends), "it is not the step on the negated gradient"


@promise(
    "Groups",
    "`differentiable=True`",
    "Meta-learning cannot go through the step.",
)
def differentiable(subject):
    if not subject.takes("differentiable"):
        raise AssertionError("there is no such argument")
    start = torch.ones(4, 3, requires_grad=True)
    param = start.clone()
    optimizer = subject.make([param], differentiable=True)
    param.grad = torch.ones_like(param)
    optimizer.step()
    param.sum().backward()
    assert start.grad is not None, "no gradient comes through"
