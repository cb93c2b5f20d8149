"""A step that is traced, by make_fx and on fake tensors: the graph has all of it."""

from copy import deepcopy

import torch
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from polyak import swap_in_optimizer_params_and_state as swap_in
from tests.contract.comparison import assert_same
from tests.contract.harness import (
    case_of,
    make,
    optimizers,
    ours,
    parameters,
    params_of,
    train,
)

traceable = optimizers(lambda case: not case.closure and case.sparse != "only")


def trained(name):
    """An optimizer that has state, after some steps."""
    optimizer = make(ours(name), parameters(name), case_of(name).stateful)
    train(name, optimizer, params_of(optimizer), range(3))
    return optimizer


def step_of(optimizer):
    """A step as a function of parameters, gradients and state, to be traced."""

    def step(params, grads, state):
        for param, grad in zip(params.values(), grads, strict=True):
            param.grad = grad
        with swap_in(optimizer, params, state):
            optimizer.step()
        return params, state

    return step


def inputs(optimizer, factor=1.0):
    """What such a function takes: parameters that are no leaves, gradients, state."""
    values = [param.detach() * factor for param in params_of(optimizer)]
    params = {f"p{index}": value for index, value in enumerate(values)}
    state = deepcopy(optimizer.state_dict())
    return params, [torch.ones_like(value) for value in values], state


@traceable
def test_a_step_is_traced(name):
    """The graph does to other values what a step does, its counter too."""
    optimizer = trained(name)
    graph = make_fx(step_of(optimizer))(*inputs(optimizer))
    for factor in (1.0, 3.0):
        given, wanted = inputs(optimizer, factor), inputs(optimizer, factor)
        for _ in range(2):
            graph(*given)
            step_of(optimizer)(*wanted)
        ulps = max(8, case_of(name).ulps)
        assert_same(list(given[0].values()), list(wanted[0].values()), ulps)
        assert_same(given[2]["state"], wanted[2]["state"], ulps)


@traceable
def test_a_step_is_traced_on_fake_tensors(name):
    """No number is read, and every parameter is written to in the graph."""
    optimizer = trained(name)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    given = pytree.tree_map_only(torch.Tensor, fake.from_tensor, inputs(optimizer))
    graph = make_fx(step_of(optimizer))(*given)
    written = [node for node in graph.graph.nodes if "copy_" in str(node.target)]
    assert len(written) >= len(params_of(optimizer))
