"""Rules with sums and means of all kinds: kernel and eager engine agree.

The counts are powers of two, so that means of small multiples of powers of two are
exact in float64, in whatever order they are added up.
"""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyak import Slot
from polyak.engine import bucket

from .support import engines, probe, state_of, why_eager
from .test_random_rules import larger

# The last are so many small matrices that they are taken together.
SHAPES = [(4, 8), (2, 4, 4), (1, 2), (8, 1), (13, 2, 2), (9, 4, 8)]
SLOTS = {"rows": Slot(per="row"), "columns": Slot(per="column")}
SUMS = ["sum()", "mean()"] + [
    f"{name}({dim}, keepdim=True)"
    for name in ("sum", "mean")
    for dim in ("-1", "-2", "(-2, -1)")
]
CONSTANTS = ["param", "grad", "rows", "columns"]


def reduced(inner):
    """A sum or mean of what has rows and columns; of a row alone it is the row."""
    parts = inner, st.sampled_from(CONSTANTS), st.sampled_from(SUMS)
    return st.tuples(*parts).map("({0[0]} + 0 * {0[1]}).{0[2]}".format)


tensors = st.recursive(
    st.sampled_from([*CONSTANTS, "grad.mean(-1, keepdim=True)", "param.mean()"]),
    lambda inner: larger(inner) | reduced(inner),
    max_leaves=5,
)


def rule_of(param, rows, columns):
    """A rule that computes these."""
    namespace = {"torch": torch}
    source = f"""
def rule(param, grad, rows, columns, *, step, lr, beta):
    return (
        {param} + 0 * param,
        ({rows} + 0 * param).mean(-1, keepdim=True),
        ({columns} + 0 * param).sum(-2, keepdim=True) / 8,
    )
"""
    exec(source, namespace)
    return namespace["rule"]


def drawn(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 5, shape, generator=generator).double() / 2


def stepped(rule, foreach):
    """All tensors after a step."""
    params = [drawn(shape, i).requires_grad_() for i, shape in enumerate(SHAPES)]
    optimizer = probe(rule, SLOTS)(params, lr=0.5, beta=0.25, foreach=foreach)
    optimizer.init_state()
    for index, param in enumerate(params):
        for name in SLOTS:
            slot = optimizer.state[param][name]
            slot.copy_(drawn(slot.shape, 10 + index))
        param.grad = drawn(param.shape, 20 + index)
    optimizer.step()
    assert engines(optimizer) == ("kernel" if foreach is None else "eager"), why_eager(
        optimizer
    )
    return state_of(optimizer, params)


@pytest.mark.parametrize("rows", [None, 1, 2], ids=["whole", "rows", "two_rows"])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(param=tensors, new_rows=tensors, columns=tensors)
def test_any_rule_with_sums(rows, param, new_rows, columns, monkeypatch):
    """Where a chunk is all of a tensor, and where it is some rows."""
    if rows is not None:
        monkeypatch.setattr(bucket, "CHUNK", 4 * rows)
        monkeypatch.setattr(bucket, "ROWS", rows)
    rule = rule_of(param, new_rows, columns)
    found, expected = stepped(rule, None), stepped(rule, False)
    for x, y in zip(found, expected, strict=True):
        scale = max(1.0, y.abs().max().item())
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12 * scale)
