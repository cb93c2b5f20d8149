"""A GPU's tables too are taken for true where nobody else holds the state."""

import pytest
import torch

import polyak
from tests.engine.support import parameter


@pytest.mark.parametrize("capturable", [False, True])
def test_state_that_nobody_else_holds(capturable):
    """What the tables refer to are the optimizer's own references."""
    params = [parameter(torch.ones(size), torch.ones(size)) for size in (3, 70)]
    optimizer = polyak.AdamW(params, lr=0.1, capturable=capturable)
    for _ in range(4):
        optimizer.step()
    assert optimizer._plan.buckets[0].scalars_stay == capturable
    assert optimizer._custody.keeper is optimizer._plan
    optimizer.state[params[0]]["step"].fill_(10.0)
    held = optimizer.state[params[1]]["exp_avg"]
    for _ in range(4):
        optimizer.step()
    assert optimizer.state[params[0]]["step"] == 14
    assert optimizer._custody.keeper is None
    del held


def test_numbers_that_moved_are_found_where_they_are():
    """The program reads counters by address: another one is noticed."""
    params = [parameter(torch.ones(size), torch.ones(size)) for size in (3, 70)]
    optimizer = polyak.AdamW(params, lr=0.1, capturable=True)
    for _ in range(3):
        optimizer.step()
    for param in params:
        optimizer.state[param]["step"].data = torch.tensor(20.0)
    optimizer.step()
    assert [optimizer.state[param]["step"] for param in params] == [21, 21]
