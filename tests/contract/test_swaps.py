"""Whatever is exchanged between two steps, the next step uses what is there now."""

import pytest
import torch
from torch.nn import Parameter

from tests.contract.comparison import assert_same_training, largest
from tests.contract.harness import (
    advance,
    case_of,
    every_given_gradients,
    every_separable_optimizer,
    find_case,
    make,
    optimizers,
    ours,
    parameters,
    params_of,
    reference,
)


def new_data(optimizer):
    """The parameters' memory is another."""
    for param in params_of(optimizer):
        param.data = param.data.clone() + 1


def new_parameters(optimizer):
    """The parameters are other objects; they begin without state."""
    for group in optimizer.param_groups:
        group["params"][:] = [Parameter(p.detach() + 1) for p in group["params"]]


def swapped_data(optimizer):
    """Two optimizers' worth of pointers, exchanged by torch's own function."""
    for param in params_of(optimizer):
        torch.utils.swap_tensors(param, Parameter(param.detach() + 1))


def new_list(optimizer):
    """Another list of the same parameters, in another order."""
    for group in optimizer.param_groups:
        group["params"] = group["params"][::-1]


def fewer_parameters(optimizer):
    """One parameter is gone."""
    if len(params_of(optimizer)) > 1:
        optimizer.param_groups[0]["params"].pop()


def no_state(optimizer):
    """All state is gone."""
    optimizer.state.clear()


def state_of_one_gone(optimizer):
    """One parameter's state is gone."""
    optimizer.state.pop(params_of(optimizer)[0], None)


def new_state_tensors(optimizer):
    """The state's tensors are copies, doubled where they are numbers like weights."""
    for state in optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                state[key] = value * 2 if value.dim() else value.clone()


def state_in_place(optimizer):
    """The state's tensors are written to."""
    for state in optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                value.mul_(2 if value.dim() else 1)
                if key == "step":
                    value.add_(3)


def parameters_in_place(optimizer):
    """The parameters are written to."""
    with torch.no_grad():
        for param in params_of(optimizer):
            param.add_(1)


def other_layout(optimizer):
    """A parameter's memory is laid out in another order."""
    param = params_of(optimizer)[0]
    param.data = param.data.t().contiguous().t()


def one_frozen(optimizer):
    """A parameter needs no gradient any more, and has none."""
    params_of(optimizer)[0].requires_grad_(False)
    params_of(optimizer)[0].grad = None


SWAPS = [
    new_data,
    new_parameters,
    swapped_data,
    new_list,
    fewer_parameters,
    no_state,
    state_of_one_gone,
    new_state_tensors,
    state_in_place,
    parameters_in_place,
    other_layout,
    one_frozen,
]


@every_given_gradients
@pytest.mark.parametrize("swap", SWAPS, ids=[swap.__name__ for swap in SWAPS])
def test_the_next_step_uses_what_is_there(name, swap):
    """Twice between steps, against torch, which looks everything up anew."""
    pair = []
    for kind in (ours(name), reference(name)):
        optimizer = make(kind, parameters(name), case_of(name).stateful)
        for step in range(6):
            if step in (2, 4):
                swap(optimizer)
            advance(name, optimizer, params_of(optimizer), step)
        pair.append(optimizer)
    scales = {}
    assert largest(params_of(pair[1])[0].detach()) < 1e3
    assert_same_training(*pair, find_case(name).ulps * 6, scales)


@every_separable_optimizer
def test_a_group_that_is_taken_out_stands_still(name):
    """Groups may be removed from the list."""
    pair = []
    for kind in (ours(name), reference(name)):
        optimizer = kind([{"params": [param]} for param in parameters(name)])
        everything = params_of(optimizer)
        for step in range(4):
            if step == 2:
                del optimizer.param_groups[0]
            advance(name, optimizer, everything, step)
        pair.append(optimizer)
    assert_same_training(*pair, case_of(name).ulps * 4)


@optimizers(lambda case: not case.closure and case.sparse != "only")
def test_gradients_in_the_same_memory_and_in_new(name):
    """Zeroed in place and filled again, or dropped and made anew."""
    pair = []
    for in_place in (True, False):
        optimizer = make(ours(name), parameters(name), case_of(name).stateful)
        params = params_of(optimizer)
        rng = torch.Generator().manual_seed(0)
        for _ in range(4):
            optimizer.zero_grad(set_to_none=not in_place)
            for param in params:
                grad = torch.randn(param.shape, generator=rng)
                param.grad = (
                    param.grad.copy_(grad)
                    if in_place and param.grad is not None
                    else grad
                )
            optimizer.step()
        pair.append(optimizer)
    assert_same_training(*pair)
