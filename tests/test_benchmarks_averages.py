"""The benchmark of averages measures what it says: no time is asserted here."""

from math import prod

import pytest
import torch
from torch.optim import swa_utils as torch_swa

from benchmarks import averages
from benchmarks.timing import Times
from polyak import swa_utils


def test_the_cases_are_those_that_are_promised():
    sizes = [(case.count, case.length, case.dtype) for case in averages.CASES]

    assert (161, 155_000, torch.float32) in sizes
    assert (1000, 1024, torch.float32) in sizes
    assert any(dtype is torch.bfloat16 for *_, dtype in sizes)
    assert all(prod(size) < 30_000_000 for *size, _ in sizes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_side_is_what_its_name_says(dtype, monkeypatch):
    torch.manual_seed(0)
    sides = averages._sides(averages.Case("", 2, 3, dtype))
    assert list(sides) == [
        "torch's pass",
        "polyak's pass",
        "torch's model",
        "polyak's model",
        "mul_",
    ]
    ran = []
    monkeypatch.setattr(swa_utils.WeightAverage, "update", lambda _: ran.append("p"))
    for library in (swa_utils, torch_swa):
        monkeypatch.setattr(
            library.AveragedModel,
            "update_parameters",
            lambda self, model: ran.append(type(self).__module__.split(".")[0]),
        )
    sides = averages._sides(averages.Case("", 2, 3, dtype))
    ran.clear()
    for side in sides.values():
        side.run()
    assert ran == ["p", "torch", "polyak"]


def test_traffic_is_that_of_float32_averages():
    case = averages.Case("few", 2, 10, torch.bfloat16)
    times = Times((0.5, 1.0))
    result = averages.Averaged(case, 1, times, times, times, times, times)

    assert result.moved == 20 * (2 + 4 + 4) / 0.5
    assert result.bandwidth == 20 * (2 + 2) / 0.5
    assert "| few | 1 | 500000 / 750000 / 1000000 |" in (averages.section([result], []))


@pytest.mark.parametrize("name", averages.STEPS)
def test_a_step_with_an_average_is_that_on_both_sides(name):
    torch.manual_seed(0)
    sides = averages._steps(averages.Case("", 2, 3), name)
    theirs, ours = (sides[side].run for side in ("torch", "polyak"))
    for side in sides.values():
        side.run()
    optimizer = ours.__self__

    assert optimizer.param_groups[0]["ema_decay"] == averages.DECAY
    assert all("param_ema" in state for state in optimizer.state.values())
    assert sides["plain"].run.__self__.schema.slots.keys() == (
        optimizer.schema.slots.keys() - {"param_ema"}
    )
    cells = dict(zip(theirs.__code__.co_freevars, theirs.__closure__, strict=True))
    averaged, current = (cells[n].cell_contents for n in ("averages", "current"))
    assert cells["step"].cell_contents.__self__.defaults["fused"]
    assert all(not a.equal(c) for a, c in zip(averaged, current, strict=True))


def test_the_report_says_what_a_step_costs():
    case, fast, slow = averages.Case("few", 2, 10), Times((1.0,)), Times((3.0,))
    result = averages.InStep(case, "SGD", 1, slow, fast, fast)
    assert "| few | SGD | 1 |" in averages.section([], [result])
    assert "3.00" in averages.section([], [result])
