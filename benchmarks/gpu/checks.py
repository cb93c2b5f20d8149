"""What must hold on a GPU, each a function that raises where it does not."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import polyak
from polyak.engine.triton.bucket import TOGETHER

from .device import Device, Size, tensors

__all__ = ["CHECKS", "OPTIMIZERS", "Outcome", "outcomes"]

Check = Callable[[Device], str]
CHECKS: dict[str, Check] = {}

# Each optimizer with a kernel, and arguments with which all of it is at work.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": dict(lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "ASGD": dict(lr=0.1, t0=2, weight_decay=0.01),
    "Rprop": {},
    "Adagrad": dict(weight_decay=0.01, lr_decay=0.1),
    "Adadelta": dict(lr=0.5, weight_decay=0.01),
    "RMSprop": dict(momentum=0.9, centered=True),
    "Adam": dict(weight_decay=0.01, amsgrad=True),
    "AdamW": {},
    "Adamax": dict(weight_decay=0.01),
    "NAdam": dict(weight_decay=0.01),
    "RAdam": dict(weight_decay=0.01),
}
# Its leaves take matrices, of which some share a stack.
MUON = dict(lr=0.02, weight_decay=0.01)
MATRICES: list[tuple[int, ...]] = [
    (0, 4),
    (64, 64),
    (64, 64),
    (3, 5),
    (96, 33),
    (64, 64),
    (8, 3, 3, 3),
]
CAPTURABLE = [name for name in OPTIMIZERS if name not in ("SGD", "Adagrad")]
SIZES: list[Size] = [0, 1, 3, 1023, 1024, 4097]
# Matrices large and small, filters, rows of numbers that are no multiples of anything.
SHAPES = [(300, 520), (33, 7), (64, 64, 3, 3), (1, 70_001), (20_011, 3), (65,), (3, 4)]


@dataclass(frozen=True)
class Outcome:
    """How a check went.

    Attributes:
        passed: it holds; None if it could not be made.
        detail: what was seen.
    """

    name: str
    passed: bool | None
    detail: str


class Skipped(Exception):
    """A check that this machine does not allow."""


def outcomes(device: Device) -> Iterator[Outcome]:
    """Make every check, whatever the others do."""
    for name, check in CHECKS.items():
        try:
            yield Outcome(name, True, check(device))
        except Skipped as reason:
            yield Outcome(name, None, str(reason))
        except Exception as error:
            traceback.print_exc()
            yield Outcome(name, False, f"{type(error).__name__}: {error}"[:300])
        if not device.dry:
            torch.cuda.empty_cache()


def check(function: Check) -> Check:
    """Make a check of a function, named by what it says it is."""
    assert function.__doc__ is not None
    CHECKS[function.__doc__.splitlines()[0].rstrip(".")] = function
    return function


def fresh_gradients(params: list[Tensor], step: int) -> None:
    generator = torch.Generator(params[0].device).manual_seed(step)
    for param in params:
        drawn = torch.randn(param.shape, generator=generator, device=param.device)
        param.grad = drawn.to(param.dtype)


def values(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters and their state."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state = [optimizer.state[param] for param in params]
    numbers = [torch.as_tensor(v).cpu() for held in state for v in held.values()]
    return [*(param.detach().cpu() for param in params), *numbers]


def same(one: torch.optim.Optimizer, other: torch.optim.Optimizer, rtol: float) -> None:
    torch.testing.assert_close(
        values(one), values(other), rtol=rtol, atol=rtol, check_dtype=False
    )


def in_kernels(optimizer: Any) -> None:
    plan = optimizer._plan
    assert not plan.eager, plan.eager[0].reason
    engines = {served.engine for served in polyak.explain(optimizer).served}
    assert engines == {"triton"}, engines


def called(optimizer: Any, *, fused: bool) -> Any:
    """The optimizer, with its rule called on tensors if it is not to be fused."""
    for group in optimizer.param_groups:
        group["foreach"] = None if fused else False
    return optimizer


def trained(
    optimizer: Any, steps: int = 5, before: Callable[[int], object] | None = None
) -> Any:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(steps):
        if before is not None:
            before(step)
        fresh_gradients(params, step)
        optimizer.step()
    return optimizer


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


def _shaped(device: Device, dtype: torch.dtype) -> list[Tensor]:
    """Parameters of all shapes: many chunks, and one, in one launch."""
    shapes = SHAPES if not device.dry else [(9, 140), (3, 4), (5,)]
    return tensors(shapes, dtype, device)


@check
def _sums(device: Device) -> str:
    """Adafactor, whose rule has sums, steps as torch's and as its own rule does."""
    arguments = dict(lr=0.1, weight_decay=0.01, d=1.5)
    limits = {torch.float32: 5e-5, torch.bfloat16: 3e-2, torch.float64: 1e-11}
    for dtype, rtol in limits.items():
        fused, eager = (
            trained(
                polyak.Adafactor(_shaped(device, dtype), foreach=foreach, **arguments)
            )
            for foreach in (None, False)
        )
        in_kernels(fused)
        same(fused, eager, rtol)
    theirs = torch.optim.Adafactor(
        _shaped(device, torch.float32), foreach=False, **arguments
    )
    ours = polyak.Adafactor(_shaped(device, torch.float32), **arguments)
    same(trained(ours), trained(theirs), 1e-4)
    return f"{len(limits)} dtypes and torch's, 5 steps"


@check
def _sums_twice(device: Device) -> str:
    """Sums give the same bits, however often."""
    runs = []
    for _ in range(device.scale(10, 2)):
        params = _shaped(device, torch.float32)
        optimizer = polyak.Adafactor(params, lr=0.1)
        trained(optimizer, steps=device.scale(20, 2))
        in_kernels(optimizer)
        runs.append(values(optimizer))
    for other in runs[1:]:
        assert all(map(torch.equal, runs[0], other))
    return f"{len(runs)} runs of Adafactor"


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
        params = _shaped(device, torch.float32)
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
    sums = polyak.Adafactor([p for p in _shaped(device, torch.float32) if p.dim() > 1])
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
