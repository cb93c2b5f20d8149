"""``zero_grad`` drops gradients or fills them with zeros, as torch's does."""

import pytest
import torch

from tests.contract.comparison import assert_same
from tests.contract.harness import (
    NAMES,
    case_of,
    every_grouped_optimizer,
    every_optimizer,
    give_gradients,
    make,
    ours,
    parameters,
    params_of,
    reference,
    takes,
)


@every_optimizer
def test_gradients_are_dropped(name):
    """By default, and where asked to."""
    optimizer = make(ours(name), parameters(name), {})
    for arguments in ({}, {"set_to_none": True}):
        give_gradients(name, params_of(optimizer), 0)
        optimizer.zero_grad(**arguments)
        assert all(param.grad is None for param in params_of(optimizer))


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        (name, flag)
        for name in NAMES
        for flag in ("default", "foreach", "fused")
        if flag == "default" or takes(name, flag)
    ],
)
def test_gradients_are_zeroed_in_place(name, flag):
    """The tensors stay, detached from their graph; what has none gets none."""
    arguments = {} if flag == "default" else {flag: True}
    pairs = []
    for kind in (ours(name), reference(name)):
        optimizer = make(kind, parameters(name), arguments)
        params = params_of(optimizer)
        give_gradients(name, params, 2)
        if case_of(name).sparse != "only":
            first = params[0]
            first.grad = first.grad.clone().requires_grad_() * 2
        held = [param.grad for param in params]
        optimizer.zero_grad(set_to_none=False)
        assert all(p.grad is g for p, g in zip(params, held, strict=True))
        pairs.append(held)
    assert_same(*pairs)
    assert any(grad is None for grad in pairs[0]) == (len(pairs[0]) > 2)
    for grad in [grad for grad in pairs[0] if grad is not None]:
        assert not grad.requires_grad
        assert grad.grad_fn is None
        assert torch.count_nonzero(grad.to_dense()) == 0


@every_grouped_optimizer
def test_all_groups_are_cleared(name):
    """Also the groups that were added later."""
    first, *rest = parameters(name)
    optimizer = make(ours(name), [first], {})
    optimizer.add_param_group({"params": rest})
    give_gradients(name, params_of(optimizer), 0)
    optimizer.zero_grad()
    assert all(param.grad is None for param in params_of(optimizer))
