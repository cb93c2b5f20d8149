"""torch.compile: a step within compiled code is the step."""

import pytest
import torch

import polyak

from .support import parameter


@pytest.mark.parametrize("kind", ["Adam", "SGD"])
def test_a_compiled_step(kind):
    """Right, and without a warning: dynamo does not look into the engine."""
    results = []
    for compiled in (False, True):
        param = parameter([1.0, 2.0], [1.0, -1.0])
        optimizer = getattr(polyak, kind)([param], lr=0.1, weight_decay=0.1)

        def step(optimizer=optimizer):
            optimizer.step()

        run = torch.compile(step, backend="eager") if compiled else step
        for _ in range(3):
            run()
        results.append(param.detach())
    torch.testing.assert_close(*results)


def test_a_compiled_training_loop():
    """Forward, backward, step and zero_grad in one compiled function."""
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = polyak.Adam(model.parameters(), lr=0.1)
        data = torch.ones(4, 3)

        def train(model=model, optimizer=optimizer, data=data):
            loss = model(data).square().sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.detach()

        run = torch.compile(train, backend="eager") if compiled else train
        results.append(torch.stack([run() for _ in range(3)]))
    torch.testing.assert_close(*results)
    assert results[0][0] > results[0][2]
