"""Small programs for a process of their own; each prints its answer as JSON.

Nothing heavy may be imported here: what a process imports is what is measured.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter
from typing import Any

Answer = dict[str, float]


def load() -> Answer:
    """Seconds for importing torch, and then polyak."""
    start = perf_counter()
    import torch  # noqa: F401

    between = perf_counter()
    import polyak  # noqa: F401

    return {"torch": between - start, "polyak": perf_counter() - between}


def first(library: str, optimizer: str, switch: str) -> Answer:
    """Seconds for making an optimizer of 200 tensors, its first and its third step."""
    make, params = _maker(library, optimizer, switch), _params(200, 64)
    start = perf_counter()
    made = make(params)
    ready = perf_counter()
    made.step()
    stepped = perf_counter()
    made.step()
    again = perf_counter()
    made.step()
    third = perf_counter() - again
    return {"made": ready - start, "first": stepped - ready, "third": third}


def memory(library: str, optimizer: str, switch: str, numel: str) -> Answer:
    """Bytes that a step takes at its peak, beyond the tensors that it leaves behind."""
    import torch

    torch.set_num_threads(1)
    make = _maker(library, optimizer, switch)
    small = make(_params(1, 64))  # compiles and loads what steps need
    small.step()
    params = _params(1, int(numel))
    made = make(params)
    ballast = _fill_up()
    before = _peak()
    made.step()
    after = _peak()
    del ballast
    state = made.state[params[0]].values()
    kept = sum(v.nbytes for v in state if isinstance(v, torch.Tensor))
    return {"extra": max(0, after - before - kept), "state": kept}


def _maker(library: str, optimizer: str, switch: str) -> Any:
    import torch

    if library == "polyak":
        import polyak

        return getattr(polyak, optimizer)
    from .contenders import SWITCHES

    kind = getattr(torch.optim, optimizer)
    return lambda params: kind(params, **SWITCHES[switch])


def _params(count: int, numel: int) -> list[Any]:
    import torch

    params = [torch.nn.Parameter(torch.full((numel,), 0.1)) for _ in range(count)]
    for param in params:
        param.grad = torch.full((numel,), 0.1)
    return params


def _fill_up() -> list[bytearray]:
    """Take memory until the process has more than it ever had.

    Only what goes beyond an earlier peak, such as that of an import, can be seen.
    """
    ballast, peak = [], _peak()
    while _peak() <= peak:
        ballast.append(bytearray(b"x") * (1 << 20))
    return ballast


def _peak() -> int:
    """The most memory that the process has had, in bytes."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    programs: dict[str, Any] = {"load": load, "first": first, "memory": memory}
    print(json.dumps(programs[sys.argv[1]](*sys.argv[2:])))
