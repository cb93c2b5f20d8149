"""What must hold of steps on a GPU: functions that raise where it does not."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

import polyak
from polyak.engine.triton.bucket import TOGETHER

from .checking import (
    MATRICES,
    MUON,
    OPTIMIZERS,
    SIZES,
    Skipped,
    called,
    check,
    fresh_gradients,
    in_kernels,
    same,
    shaped,
    trained,
    values,
)
from .device import Device, tensors


@check
def _against_torch(device: Device) -> str:
    """Every optimizer steps as torch's does, float32."""
    for name, arguments in OPTIMIZERS.items():
        theirs = getattr(torch.optim, name)
        runs = [
            trained(kind(tensors(SIZES, torch.float32, device), **arguments))
            for kind in (getattr(polyak, name), theirs)
        ]
        in_kernels(runs[0])
        same(*runs, rtol=2e-5)
    return f"{len(OPTIMIZERS)} optimizers, 5 steps"


@check
def _dtypes(device: Device) -> str:
    """Every optimizer and dtype steps as its own rule called on tensors."""
    dtypes = {
        torch.bfloat16: 2e-2,
        torch.float16: 4e-3,
        torch.float64: 1e-12,
        torch.complex64: 2e-5,
    }
    for name, arguments in OPTIMIZERS.items():
        for dtype, rtol in dtypes.items():
            fused, eager = (
                trained(
                    getattr(polyak, name)(
                        tensors(SIZES[1:], dtype, device), foreach=foreach, **arguments
                    ),
                    steps=3,
                )
                for foreach in (None, False)
            )
            in_kernels(fused)
            same(fused, eager, rtol)
    return f"{len(OPTIMIZERS)} optimizers, {len(dtypes)} dtypes, 3 steps"


@check
def _sums(device: Device) -> str:
    """Adafactor, whose rule has sums, steps as torch's and as its own rule does."""
    arguments = dict(lr=0.1, weight_decay=0.01, d=1.5)
    limits = {torch.float32: 5e-5, torch.bfloat16: 3e-2, torch.float64: 1e-11}
    for dtype, rtol in limits.items():
        fused, eager = (
            trained(
                polyak.Adafactor(shaped(device, dtype), foreach=foreach, **arguments)
            )
            for foreach in (None, False)
        )
        in_kernels(fused)
        same(fused, eager, rtol)
    theirs = torch.optim.Adafactor(
        shaped(device, torch.float32), foreach=False, **arguments
    )
    ours = polyak.Adafactor(shaped(device, torch.float32), **arguments)
    same(trained(ours), trained(theirs), 1e-4)
    return f"{len(limits)} dtypes and torch's, 5 steps"


@check
def _sums_twice(device: Device) -> str:
    """Sums give the same bits, however often."""
    runs = []
    for _ in range(device.scale(10, 2)):
        params = shaped(device, torch.float32)
        optimizer = polyak.Adafactor(params, lr=0.1)
        trained(optimizer, steps=device.scale(20, 2))
        in_kernels(optimizer)
        runs.append(values(optimizer))
    for other in runs[1:]:
        assert all(map(torch.equal, runs[0], other))
    return f"{len(runs)} runs of Adafactor"


@check
def _leaves(device: Device) -> str:
    """Muon steps as its own rule called on tensors, and as torch's."""
    # What is iterated in bfloat16 differs by its rounding.
    for dtype, rtol in ((torch.float64, 1e-9), (torch.float32, 2e-3)):
        fused, eager = (
            trained(
                called(
                    polyak.Muon(tensors(MATRICES, dtype, device), **MUON), fused=each
                )
            )
            for each in (True, False)
        )
        in_kernels(fused)
        same(fused, eager, rtol)
    flat = [shape for shape in MATRICES if len(shape) == 2 and shape[0]]
    same(
        *(
            trained(kind(tensors(flat, torch.float32, device), **MUON))
            for kind in (polyak.Muon, torch.optim.Muon)
        ),
        rtol=4e-3,
    )
    return f"{len(MATRICES)} matrices, 5 steps"


@check
def _memory_anywhere(device: Device) -> str:
    """Views that begin anywhere, and dense tensors of any strides."""

    def params() -> list[Tensor]:
        flat = tensors([9000], torch.bfloat16, device)[0].detach()
        views = [flat[1:2], flat[3:4100], flat[4200:8200].view(40, 100).t()]
        return [view.requires_grad_() for view in views]

    runs = []
    for foreach in (None, False):
        optimizer = polyak.AdamW(params(), foreach=foreach)
        for step in range(3):
            for param in optimizer.param_groups[0]["params"]:
                drawn = torch.full_like(param, 0.1 * (step + 1), requires_grad=False)
                param.grad = drawn
            optimizer.step()
        runs.append(optimizer)
    in_kernels(runs[0])
    same(*runs, rtol=1e-2)
    return "bfloat16, 3 steps"


@check
def _streams(device: Device) -> str:
    """Steps on other streams, with gradients that are freed at once."""
    runs = []
    for foreach in (None, False):
        params = tensors([50_000] * device.scale(40, 2), torch.float32, device)
        optimizer = polyak.AdamW(params, foreach=foreach)
        for step in range(device.scale(20, 3)):
            with device.side_stream():
                fresh_gradients(params, step)
                optimizer.step()
                optimizer.zero_grad()
                for _ in range(3):  # takes the memory of the gradients
                    torch.full((50_000,), float("nan"), device=device.torch)
        runs.append(optimizer)
    same(*runs, rtol=1e-5)
    return "each step on a new stream"


@check
def _two_devices(device: Device) -> str:
    """Parameters on several devices."""
    if device.dry or torch.cuda.device_count() < 2:
        raise Skipped("one device here")
    runs = []
    for foreach in (None, False):
        params = tensors([1000], torch.float32, device)
        other = params[0].detach().to("cuda:1").requires_grad_()
        runs.append(trained(polyak.AdamW([*params, other], foreach=foreach)))
    in_kernels(runs[0])
    same(*runs, rtol=1e-5)
    return f"{torch.cuda.device_count()} devices"


@check
def _long_tensors(device: Device) -> str:
    """A tensor of more than 2³¹ numbers."""
    size = device.scale(2**31 + 4099, 5000)
    if device.memory() < 3 * 2 * size:
        raise Skipped("too little memory")
    param = torch.ones(size, dtype=torch.bfloat16, device=device.torch)
    param.requires_grad_().grad = torch.ones_like(param, requires_grad=False)
    optimizer = polyak.SGD([param], lr=0.5)
    optimizer.step()
    in_kernels(optimizer)
    assert bool((param == 0.5).all())
    return f"{size} numbers"


@check
def _memory(device: Device) -> str:
    """A step takes no memory."""
    params = tensors([device.scale(10_000_000, 1000)] * 4, torch.float32, device)
    optimizer = polyak.AdamW(params)
    for _ in range(2):
        optimizer.step()
    peak = device.peak(optimizer.step)
    assert peak <= 2**16, f"{peak} bytes"
    return f"{peak} bytes beyond the state, for 160 MB of parameters"


@check
def _launches(device: Device) -> str:
    """One launch serves a bucket."""
    params = tensors([1000] * device.scale(1000, 4), torch.float32, device)
    seen = []
    for capturable, most in ((False, 1), (True, 2)):
        optimizer = polyak.AdamW(params, capturable=capturable)
        for _ in range(3):
            optimizer.step()
        kernels, copies = device.launches(optimizer.step)
        assert kernels <= most, f"{kernels} kernels"
        seen.append(f"{kernels} kernels and {copies} copies")
    sums = polyak.Adafactor([p for p in shaped(device, torch.float32) if p.dim() > 1])
    trained(sums, steps=3)
    kernels, _ = device.launches(sums.step)
    assert kernels <= 1, f"{kernels} kernels of Adafactor"
    return f"{seen[0]}; capturable: {seen[1]}; Adafactor: {kernels} kernels"


@check
def _memory_of_leaves(device: Device) -> str:
    """A step with leaves takes the memory of one wave of stacks, whatever the model."""
    side, count = device.scale(1024, 8), device.scale(100, 4)
    optimizer = polyak.Muon(tensors([(side, side)] * count, torch.float32, device))
    for _ in range(2):
        optimizer.step()
    peak = device.peak(optimizer.step)
    assert peak <= 8 * TOGETHER, f"{peak} bytes"
    return f"{peak} bytes beyond the state, for {4 * count * side**2} of parameters"


@check
def _checkpoints(device: Device) -> str:
    """A checkpoint of torch's optimizer goes on, and the other way round."""
    for kinds in ((torch.optim.AdamW, polyak.AdamW), (polyak.AdamW, torch.optim.AdamW)):
        first = trained(kinds[0](tensors(SIZES, torch.float32, device)), steps=2)
        params = [
            p.detach().clone().requires_grad_() for p in first.param_groups[0]["params"]
        ]
        second = kinds[1](params)
        second.load_state_dict(deepcopy(first.state_dict()))
        for optimizer in (first, second):
            trained(optimizer, steps=3)
        same(first, second, rtol=2e-5)
    return "AdamW, both ways"
