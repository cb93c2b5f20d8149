"""A few values of a future, as a table."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from .future import Future

__all__ = ["table"]


def table(future: Future) -> Table:
    """The values at the ends, the quarters, and where each hyperparameter is highest.

    Args:
        future: of a schedule: of several groups, the first is shown.
    """
    last = len(future.steps) - 1
    peaks = [int(np.argmax(values[:, 0])) for values in future.values.values()]
    rows = sorted({*peaks, *(round(last * part / 4) for part in range(5))})
    result = Table(box=None, header_style="bold", pad_edge=False)
    result.add_column("step", justify="right")
    for name in future.values:
        result.add_column(name, justify="right")
    for row in rows:
        numbers = (f"{values[row, 0]:.4g}" for values in future.values.values())
        result.add_row(str(future.steps[row]), *numbers)
    return result
