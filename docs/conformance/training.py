"""Promises about the step, and those who call it."""

import torch

from .registry import promise
from .subject import LOW, WARM_UP, keeps_no_rate, movement, same, values


@promise(
    "Training",
    "it is a `torch.optim.Optimizer`",
    "Schedulers, GradScaler, Lightning and accelerate refuse it.",
)
def instance(subject):
    optimizer = subject.make(subject.parameters())
    assert isinstance(optimizer, torch.optim.Optimizer), "it is not"


@promise(
    "Training",
    "a closure gets gradients, its loss comes back",
    "Under `torch.no_grad()` a step with a closure is a RuntimeError, or no step.",
)
def closure(subject):
    subject.needs(
        "dense" if subject.drive == "dense" else "closure", "sparse gradients"
    )
    params = subject.parameters()
    optimizer = subject.make(params)
    subject.step(optimizer, params, 0)
    calls = []

    def loss():
        calls.append(torch.is_grad_enabled())
        return subject.closure(optimizer, params, 0)()

    with torch.no_grad():
        returned = optimizer.step(loss)
    assert calls, "the closure is not called"
    assert all(calls), "the closure runs without gradients"
    assert returned is not None, "the loss is not returned"


@promise(
    "Training",
    "torch's schedulers drive it",
    "The rate that is logged is not the one that is used.",
)
def scheduler(subject):
    keeps_no_rate(subject)
    params = subject.parameters()
    optimizer = subject.make(params)
    subject.train(optimizer, params, range(WARM_UP))
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2], gamma=LOW)
    moved = []
    for number in range(4):
        before = values(params)
        subject.step(optimizer, params, number)
        moved.append(movement(params, before))
        schedule.step()
    part = moved[-1] / moved[1]
    assert part < 0.01, f"a rate of {LOW} times moves by {part:.2g}"


@promise(
    "Training",
    "`GradScaler` can leave a step out",
    "One overflow, and all weights are NaN.",
)
def grad_scaler(subject):
    subject.needs("dense", "a closure or sparse gradients")
    params = subject.parameters()
    optimizer = subject.make(params)
    subject.train(optimizer, params, range(WARM_UP))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for bad in (True, False):
        before = values(params)
        optimizer.zero_grad()
        loss = sum((param * torch.ones_like(param)).sum() for param in params)
        scaler.scale(loss).backward()
        if bad:
            params[0].grad.fill_(torch.inf)
        scaler.step(optimizer)
        scaler.update()
        assert same(params, before) == bad, "a bad step is done, or a good one is not"
    assert all(param.isfinite().all() for param in params), "the weights are NaN"


@promise(
    "Training",
    "step hooks run once a step",
    "Profilers, loggers and pruning that hook the step see none, or two.",
)
def hooks(subject):
    params = subject.parameters()
    optimizer = subject.make(params)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("pre"))
    optimizer.register_step_post_hook(lambda *_: seen.append("post"))
    subject.step(optimizer, params, 0)
    assert seen == ["pre", "post"], f"they ran as {seen}"


@promise(
    "Training",
    "state dict hooks run",
    "Libraries that translate checkpoints by hooks are passed over.",
)
def state_dict_hooks(subject):
    params = subject.parameters()
    optimizer = subject.make(params)
    subject.step(optimizer, params, 0)
    seen = []
    optimizer.register_state_dict_post_hook(lambda *_: seen.append("saved"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: seen.append("loaded"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["saved", "loaded"], f"they ran as {seen}"
