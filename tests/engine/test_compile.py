"""torch.compile: a step within compiled code is the step."""

import pytest
import torch

import polyak

from .support import parameter


def test_a_compiled_step():
    """Right, and without a warning: dynamo does not look into the engine."""
    results = []
    for compiled in (False, True):
        param = parameter([1.0, 2.0], [1.0, -1.0])
        optimizer = polyak.Adam([param], lr=0.1, weight_decay=0.1)

        def step(optimizer=optimizer):
            optimizer.step()

        run = torch.compile(step, backend="eager") if compiled else step
        for _ in range(3):
            run()
        results.append(param.detach())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("clear_grads", [False, True])
def test_a_compiled_training_loop(clear_grads):
    """Forward, backward, step and zero_grad in one compiled function."""
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = polyak.Adam(model.parameters(), lr=0.1, clear_grads=clear_grads)
        data = torch.ones(4, 3)

        def train(model=model, optimizer=optimizer, data=data):
            model(data).square().sum().backward()
            optimizer.step()
            if not clear_grads:
                optimizer.zero_grad()

        run = torch.compile(train, backend="eager") if compiled else train
        for _ in range(3):
            run()
        results.append(list(model.state_dict().values()))
    torch.testing.assert_close(*results)
