"""What must hold where the host does not wait: CUDA graphs, scalers, skips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import polyak

from .checking import (
    CAPTURABLE,
    MATRICES,
    OPTIMIZERS,
    SIZES,
    called,
    check,
    fresh_gradients,
    in_kernels,
    same,
    shaped,
)
from .device import Device, Size, tensors


@check
def _sums_in_graphs(device: Device) -> str:
    """CUDA graphs: the counters of a kernel with sums are ready for each replay."""

    def rule(param, grad, momentum, *, lr):  # type: ignore[no-untyped-def]
        momentum = momentum + grad / (1 + grad.norm())
        return param - lr * momentum, momentum

    body = {"rule": staticmethod(rule), "__init__": _plain_init}
    kind: Any = type("Normalised", (polyak.Optimizer,), body)
    runs = []
    for captured in (True, False):
        params = shaped(device, torch.float32)
        fresh_gradients(params, 0)
        optimizer = kind(params, 0.1, foreach=None if captured else False)
        with device.side_stream():
            for _ in range(3):
                optimizer.step()
        replay = device.captured(optimizer.step) if captured else optimizer.step
        for number in range(5):
            for param in params:
                assert param.grad is not None
                param.grad.mul_(0.5).add_(0.1 * number)
            replay()
        runs.append(optimizer)
    device.synchronize()
    same(*runs, rtol=1e-4)
    return "3 steps before, 5 replays"


def _plain_init(self: Any, params: Any, lr: float, foreach: bool | None = None) -> None:
    polyak.Optimizer.__init__(self, params, dict(lr=lr, foreach=foreach))


def _replayed(
    device: Device,
    kind: type,
    arguments: dict[str, Any],
    live: bool,
    sizes: Sequence[Size] = SIZES,
    rtol: float = 2e-5,
) -> None:
    """A graph whose rate changes between replays does what eager steps do."""
    rates = (0.05, 0.02, 0.01)
    runs = []
    for captured in (True, False):
        lr: Any = torch.tensor(0.1, device=device.torch) if live else 0.1
        params = tensors(sizes, torch.float32, device)
        optimizer = called(kind(params, **{**arguments, "lr": lr}), fused=captured)
        static = [param.grad for param in params]

        def step(optimizer: Any = optimizer, params: Any = params) -> None:
            optimizer.step()

        with device.side_stream():
            for _ in range(3):
                step()
        replay = device.captured(step) if captured else step
        for number, rate in enumerate(rates):
            group = optimizer.param_groups[0]
            if live:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
                if captured:
                    optimizer.refresh()
            for grad in static:
                grad.mul_(0.5).add_(0.1 * number)
            replay()
        runs.append(optimizer)
    device.synchronize()
    same(*runs, rtol)


@check
def _graphs(device: Device) -> str:
    """CUDA graphs: the step advances, refresh() sends the rate."""
    for name in CAPTURABLE:
        arguments = {**OPTIMIZERS[name], "capturable": True}
        if name != "ASGD":  # its rate is in its state
            _replayed(device, getattr(polyak, name), arguments, live=False)
    _replayed(device, polyak.SGD, dict(momentum=0.9), live=False)
    _replayed(device, polyak.Muon, {}, live=False, sizes=MATRICES, rtol=1e-2)
    return f"{', '.join(CAPTURABLE)}, SGD, Muon"


@check
def _graphs_of_tensors(device: Device) -> str:
    """CUDA graphs: a rate that is a tensor is read where it is."""
    for name in CAPTURABLE:
        arguments = {**OPTIMIZERS[name], "capturable": True}
        if name not in ("ASGD", "Rprop"):
            _replayed(device, getattr(polyak, name), arguments, live=True)
    _replayed(device, polyak.SGD, dict(momentum=0.9), live=True)
    _replayed(device, polyak.Muon, {}, live=True, sizes=MATRICES, rtol=1e-2)
    return "all with a rate, SGD and Muon"


@check
def _whole_graph(device: Device) -> str:
    """CUDA graphs: forward, backward and step in one."""

    def network() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Linear(33, 65), torch.nn.ReLU(), torch.nn.Linear(65, 7)
        ).to(device.torch)

    data = torch.randn(16, 33, device=device.torch)
    runs = []
    for captured in (True, False):
        model = network()
        optimizer = polyak.AdamW(model.parameters(), lr=0.01, capturable=True)

        def step(model: Any = model, optimizer: Any = optimizer) -> None:
            optimizer.zero_grad()
            model(data).square().mean().backward()
            optimizer.step()

        with device.side_stream():
            for _ in range(3):
                step()
        replay = device.captured(step) if captured else step
        for _ in range(4):
            replay()
        runs.append(optimizer)
    device.synchronize()
    same(*runs, rtol=1e-4)
    return "3 steps before, 4 replays"


@check
def _scaler(device: Device) -> str:
    """A GradScaler that finds an overflow: as torch's optimizer."""
    for fused in (None, True):
        runs = []
        for kind in (polyak.AdamW, torch.optim.AdamW):
            params = tensors(SIZES, torch.float32, device)
            optimizer = kind(params, lr=0.1, fused=fused)
            scaler = torch.amp.GradScaler(
                device.torch.type, init_scale=2.0**10, growth_interval=2
            )
            for step in range(5):
                fresh_gradients(params, step)
                for param in params:
                    scaler.scale(torch.ones((), device=device.torch))
                    param.grad.mul_(scaler.get_scale())
                if step == 2:
                    params[1].grad[0] = float("inf")
                scaler.step(optimizer)
                scaler.update()
            runs.append(optimizer)
        same(*runs, rtol=2e-5)
        if fused:
            counts = runs[0].steps, runs[0].skipped_steps
            assert counts == (4, 1), f"counted {counts}"
    return "who unscales: the scaler, the step; what was left out is counted"


@check
def _skips_of_graphs(device: Device) -> str:
    """CUDA graphs: steps that a replay leaves out are counted."""
    params = tensors(SIZES, torch.float32, device)
    optimizer = polyak.AdamW(params, capturable=True)
    found = torch.zeros((), device=device.torch)
    with device.side_stream():
        for _ in range(3):
            optimizer.found_inf = found
            optimizer.step()
    replay = device.captured(optimizer.step)
    before = optimizer.state[params[3]]["step"].clone()
    for overflow in (1.0, 0.0, 1.0):
        found.fill_(overflow)
        replay()
    assert optimizer.skipped_steps == 2, f"counted {optimizer.skipped_steps}"
    advanced = optimizer.state[params[3]]["step"] - before
    assert advanced == 1, f"advanced {advanced}"
    return "2 of 3 replays"


@check
def _no_waiting(device: Device) -> str:
    """No step waits for the device."""
    cases: list[Any] = [
        (polyak.AdamW, dict(lr=0.01)),
        (polyak.SGD, dict(lr=0.1, momentum=0.9)),
        (polyak.AdamW, dict(capturable=True, clip_grad_norm=1.0, nonfinite="skip")),
        (polyak.Adam, dict(lr=torch.tensor(0.1, device=device.torch), capturable=True)),
        (polyak.AdamW, dict(fused=True)),
        (polyak.Muon, dict(lr=0.01)),
        (polyak.Muon, dict(clip_grad_norm=1.0, nonfinite="skip")),
    ]
    for kind, arguments in cases:
        sizes: Sequence[Size] = MATRICES if kind is polyak.Muon else SIZES
        params = tensors(sizes, torch.float32, device)
        optimizer = kind(params, **arguments)
        for _ in range(3):
            optimizer.step()
        scale = torch.tensor(2.0, device=device.torch)
        found = torch.zeros((), device=device.torch)
        if arguments.get("fused"):
            optimizer.grad_scale, optimizer.found_inf = scale, found
            optimizer.step()
        grads = [
            [torch.ones_like(p, requires_grad=False) for p in params] for _ in "ab"
        ]
        with device.unsynchronised():
            for step in range(4):
                for param, grad in zip(params, grads[step % 2], strict=True):
                    param.grad = grad
                if isinstance(arguments.get("lr"), float):
                    optimizer.param_groups[0]["lr"] *= 0.9
                optimizer.step()
        in_kernels(optimizer)
    return f"{len(cases)} optimizers, torch's sync debug mode"
