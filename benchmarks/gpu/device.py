"""The device that is measured, or the CPU that stands in for it in a dry run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

__all__ = ["Device", "Size", "Step", "Timing", "tensors"]

Step = Callable[[], object]
Size = int | tuple[int, ...]


@dataclass(frozen=True)
class Timing:
    """Seconds of one step, at best and as a rule.

    Attributes:
        device: the device's time.
        host: what the host needs to hand the step over.
    """

    device: float
    device_median: float
    host: float
    host_median: float


class Device:
    """What the checks and the measurements ask of a device.

    Args:
        dry: the CPU stands in: a graph is a function, and an event the time.
    """

    def __init__(self, *, dry: bool) -> None:
        self.dry = dry
        self.torch = torch.device("cpu" if dry else "cuda")
        if not dry:
            torch.cuda.init()

    def name(self) -> str:
        """The device's name."""
        return "CPU (dry run)" if self.dry else torch.cuda.get_device_name()

    def synchronize(self) -> None:
        """Wait for all work."""
        if not self.dry:
            torch.cuda.synchronize()

    def memory(self) -> int:
        """Bytes that are free."""
        return 2**30 if self.dry else torch.cuda.mem_get_info()[0]

    def scale(self, count: int, dry: int) -> int:
        """A size, or the toy's."""
        return dry if self.dry else count

    # Order

    @contextmanager
    def side_stream(self) -> Iterator[None]:
        """Work on a stream of its own, in order with the others' before and after."""
        if self.dry:
            yield
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream().wait_stream(stream)

    def captured(self, step: Step) -> Step:
        """A step as a graph: what replays it."""
        if self.dry:
            return step
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay

    @contextmanager
    def unsynchronised(self) -> Iterator[None]:
        """Whatever waits for the device is an error."""
        if self.dry:
            yield
            return
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    # Figures

    def peak(self, step: Step) -> int:
        """Bytes that a step takes while it runs."""
        self.synchronize()
        if self.dry:
            step()
            return 0
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def launches(self, step: Step) -> tuple[int, int]:
        """Kernels and copies that a step launches."""
        if self.dry:
            step()
            return 0, 0
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.profiler.profile(activities=activities) as profile:
                step()
                torch.cuda.synchronize()
        on_device = torch.autograd.DeviceType.CUDA
        names = [
            event.name
            for event in profile.events()
            if event.device_type == on_device
            and not event.name.startswith("Optimizer.")  # the span of a step
        ]
        copies = sum(name.startswith(("Memcpy", "Memset")) for name in names)
        return len(names) - copies, copies

    def bandwidth(self) -> float:
        """Bytes a second that a copy reads and writes."""
        source = torch.ones(self.scale(2**28, 2**16), device=self.torch)
        target = torch.empty_like(source)
        timing = self.time(lambda: target.copy_(source), rounds=self.scale(20, 2))
        return 2 * source.nbytes / timing.device

    def time(self, step: Step, *, rounds: int) -> Timing:
        """Time a step that has been warmed up."""
        return self.interleaved({"": step}, rounds=rounds)[""]

    def interleaved(
        self,
        steps: dict[str, Step],
        *,
        rounds: int,
        before: dict[str, Step] | None = None,
    ) -> dict[str, Timing]:
        """Time several steps that take turns, and what comes before each untimed.

        The device is held up before each step until the host has handed all of it
        over, so that its time has no gaps in which it waits for the host.
        """
        device: dict[str, list[float]] = {name: [] for name in steps}
        host: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(rounds):
            for name, step in steps.items():
                prepare = (before or {}).get(name, _nothing)
                prepare()
                self.synchronize()
                start = perf_counter()
                step()
                host[name].append(perf_counter() - start)
                prepare()
                self.synchronize()
                device[name].append(self._on_device(step, 2 * host[name][-1]))
        return {
            name: Timing(
                min(device[name]),
                median(device[name]),
                min(host[name]),
                median(host[name]),
            )
            for name in steps
        }

    def _on_device(self, step: Step, hold: float) -> float:
        if self.dry:
            start = perf_counter()
            step()
            return perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")
        torch.cuda._sleep(int(2e9 * min(hold, 0.2)) + 100_000)  # cycles
        begin.record()
        step()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000


def _nothing() -> None:
    pass


def tensors(
    shapes: Sequence[Size], dtype: torch.dtype, device: Device, seed: int = 0
) -> list[Tensor]:
    """Parameters with gradients: vectors of these lengths, or tensors of shapes."""
    generator = torch.Generator(device.torch).manual_seed(seed)
    made = []
    for shape in shapes:
        param = torch.randn(shape, generator=generator, device=device.torch)
        param = param.to(dtype).requires_grad_()
        grad = torch.randn(shape, generator=generator, device=device.torch)
        param.grad = grad.to(dtype)
        made.append(param)
    return made
