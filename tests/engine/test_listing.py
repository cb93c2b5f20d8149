"""The readable listing of a kernel: what it says is what the kernel does.

``POLYAK_WRITE_GOLDEN=1 pytest tests/engine/test_listing.py`` writes the files in
``golden/`` anew; the difference is for the reviewer.
"""

import os
from pathlib import Path

import pytest
import torch

import polyak

from .support import parameter

GOLDEN = Path(__file__).with_name("golden")
CASES = {
    "sgd": ("SGD", {}, torch.float32),
    "sgd_momentum": ("SGD", {"momentum": 0.9, "weight_decay": 0.1}, torch.float32),
    "sgd_nesterov_maximize": (
        "SGD",
        {"momentum": 0.9, "nesterov": True, "maximize": True},
        torch.float64,
    ),
    "adam": ("Adam", {}, torch.float32),
    "adam_amsgrad": ("Adam", {"amsgrad": True, "weight_decay": 0.1}, torch.bfloat16),
    "adamw": ("AdamW", {}, torch.complex64),
    "rprop": ("Rprop", {}, torch.float32),
}
# Kernels of several passes: sums and means are words there, not loops.
OF_MATRICES = {
    "adafactor": ("Adafactor", {"weight_decay": 0.1}, torch.float32),
    "adafactor_average": ("Adafactor", {"ema_decay": 0.5}, torch.bfloat16),
}


def stepped(name, numbers=(0.5, -2.0, 1.5), steps=2):
    """An optimizer after some steps, and its only kernel."""
    kind, options, dtype = {**CASES, **OF_MATRICES}[name]
    param = parameter(list(numbers), [1.0, -0.25, 0.5], dtype)
    if name in OF_MATRICES:
        param = parameter(torch.diag(param.detach()), torch.diag(param.grad))
    optimizer = getattr(polyak, kind)([param], lr=0.125, **options)
    for _ in range(steps):
        optimizer.step()
    (bucket,) = optimizer._plan.buckets
    return optimizer, param, bucket.kernel


@pytest.mark.parametrize("name", [*CASES, *OF_MATRICES])
def test_listings_are_the_golden_ones(name):
    """A change of what a kernel computes, or of how it reads, shows in review."""
    _, _, kernel = stepped(name)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("POLYAK_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(kernel.listing, encoding="utf-8")
    assert kernel.listing == path.read_text(encoding="utf-8")


def test_every_golden_file_has_a_case():
    """No file is left behind."""
    assert {path.stem for path in GOLDEN.iterdir()} == {*CASES, *OF_MATRICES}


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        ((8, 3, 2), "# 8 matrices of 3 by 2 at once\n"),
        ((8, 5, 5), "# 8 matrices at once\n"),
    ],
    ids=str,
)
def test_listings_say_how_many_matrices_are_taken_together(shape, line):
    """Kernels of one rule that differ in nothing else can be told apart."""
    param = parameter(torch.ones(shape), torch.ones(shape))
    optimizer = polyak.Adafactor([param])
    optimizer.step()
    listing = optimizer._plan.buckets[0].kernel.listing
    assert line in listing
    other = polyak.Adafactor([parameter(torch.ones(3, 2), torch.ones(3, 2))])
    other.step()
    assert listing.replace(line, "") == other._plan.buckets[0].kernel.listing


def test_the_first_step_has_a_listing_of_its_own():
    """SGD's momentum begins with the gradient."""
    _, _, first = stepped("sgd_momentum", steps=1)
    _, _, second = stepped("sgd_momentum", steps=2)
    assert first.listing != second.listing


@pytest.mark.parametrize("name", CASES)
def test_a_listing_is_a_program(name):
    """Run as Python, it does the step that the kernel does."""
    optimizer, param, kernel = stepped(name)
    group, state = optimizer.param_groups[0], optimizer.state[param]

    def numbers(tensor):
        tensor = tensor.detach().clone()
        return torch.view_as_real(tensor) if tensor.is_complex() else tensor

    tensors = {"param": numbers(param), "grad": numbers(param.grad)}
    for key in optimizer.schema.tensor_slots(optimizer.schema.present(group)):
        tensors[key] = numbers(state[key])
    flat = {key: list(tensor.flatten().float()) for key, tensor in tensors.items()}
    counted = {"step": state["step"].item() + 1} if "step" in state else {}
    functions = {"sqrt": torch.sqrt, "where": torch.where}
    size = tensors["param"].numel()
    exec(kernel.listing, {**group, **counted, **functions, **flat, "n": size})
    optimizer.step()
    for key, before in tensors.items():
        now = {"param": param, "grad": param.grad}.get(key, state.get(key))
        found = torch.stack([torch.as_tensor(number) for number in flat[key]])
        found = found.to(before.dtype).view(before.shape)
        ulp = torch.finfo(before.dtype).eps
        torch.testing.assert_close(found, numbers(now), rtol=max(ulp, 1e-6), atol=0)
