"""The benchmark of averages measures what it says: no time is asserted here."""

from math import prod

import pytest
import torch

from benchmarks import averages, report
from benchmarks.timing import Times


def test_the_cases_are_those_that_are_promised():
    sizes = [(case.count, case.length, case.dtype) for case in averages.CASES]

    assert (161, 155_000, torch.float32) in sizes
    assert (1000, 1024, torch.float32) in sizes
    assert any(dtype is torch.bfloat16 for *_, dtype in sizes)
    assert all(prod(size) < 30_000_000 for *size, _ in sizes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_side_averages(dtype):
    torch.manual_seed(0)
    sides = averages._sides(averages.Case("", 2, 3, dtype))
    cells = {
        name: [c.cell_contents for c in side.run.__closure__]
        for name, side in sides.items()
        if name.endswith("model")
    }
    for _ in range(3):
        for side in sides.values():
            side.run()
    averaged = [
        next(c for c in found if hasattr(c, "n_averaged")) for found in cells.values()
    ]

    assert list(sides)[:2] == ["torch's pass", "polyak's pass"]
    assert [int(model.n_averaged) for model in averaged] == [4, 4]


def test_traffic_is_that_of_float32_averages():
    case = averages.Case("few", 2, 10, torch.bfloat16)
    times = Times((0.5, 1.0))
    result = averages.Averaged(case, 1, times, times, times, times, times)

    assert result.moved == 20 * (2 + 4 + 4) / 0.5
    assert result.bandwidth == 20 * (2 + 2) / 0.5
    assert "| few | 1 | 500000 / 750000 / 1000000 |" in (
        report.averages_section([result])
    )
