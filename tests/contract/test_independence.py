"""An optimizer is torch's by name alone: nothing of torch.optim's code runs."""

import copy
import pickle
import types

import pytest
import torch

from tests.contract.harness import (
    advance,
    any_closure,
    case_of,
    every_optimizer,
    make,
    ours,
    parameters,
    params_of,
    train,
)

TORCHS = [torch.optim.Optimizer, torch.optim.LBFGS]
CODE = (types.FunctionType, staticmethod, classmethod, property)


@pytest.fixture
def torch_is_off_limits(monkeypatch):
    """Every function of torch's optimizer classes raises."""
    for kind in TORCHS:
        for key, value in list(vars(kind).items()):
            if not isinstance(value, CODE):
                continue

            def forbidden(*args, _name=f"{kind.__name__}.{key}", **kwargs):
                raise AssertionError(f"torch.optim.{_name} was called")

            monkeypatch.setattr(kind, key, forbidden)


@every_optimizer
def test_it_is_an_instance_of_torchs_class(name):
    """Frameworks ask with isinstance."""
    optimizer = make(ours(name), parameters(name), {})
    assert isinstance(optimizer, torch.optim.Optimizer)
    if name == "LBFGS":
        assert isinstance(optimizer, torch.optim.LBFGS)


def steps(name, optimizer):
    train(name, optimizer, params_of(optimizer), range(3))
    optimizer.step(any_closure(name, optimizer, params_of(optimizer), 3))


def zero_grad(name, optimizer):
    optimizer.zero_grad()
    optimizer.zero_grad(set_to_none=False)


def add_param_group(name, optimizer):
    if case_of(name).groups:
        optimizer.add_param_group({"params": parameters(name), "lr": 0.5})
        train(name, optimizer, params_of(optimizer), range(2))


def state_dict(name, optimizer):
    train(name, optimizer, params_of(optimizer), range(2))
    other = make(ours(name), parameters(name), {})
    other.load_state_dict(optimizer.state_dict())
    train(name, other, params_of(other), range(2))


def pickled(name, optimizer):
    train(name, optimizer, params_of(optimizer), range(2))
    other = pickle.loads(pickle.dumps(optimizer))
    train(name, other, params_of(other), range(2))


def copied(name, optimizer):
    train(name, optimizer, params_of(optimizer), range(2))
    for other in (copy.deepcopy(optimizer), copy.copy(optimizer)):
        train(name, other, params_of(other), range(2))


def shown(name, optimizer):
    assert name in repr(optimizer)
    assert name in str(optimizer)


def hooks(name, optimizer):
    optimizer.register_step_pre_hook(lambda *_: None)
    optimizer.register_step_post_hook(lambda *_: None)
    optimizer.register_state_dict_pre_hook(lambda *_: None)
    optimizer.register_state_dict_post_hook(lambda *_: None)
    optimizer.register_load_state_dict_pre_hook(lambda *_: None)
    optimizer.register_load_state_dict_post_hook(lambda *_: None)
    advance(name, optimizer, params_of(optimizer), 0)
    optimizer.load_state_dict(optimizer.state_dict())


def profiled(name, optimizer):
    with torch.autograd.profiler.profile():
        advance(name, optimizer, params_of(optimizer), 0)
        optimizer.zero_grad()


USES = [
    steps,
    zero_grad,
    add_param_group,
    state_dict,
    pickled,
    copied,
    shown,
    hooks,
    profiled,
]


@every_optimizer
@pytest.mark.parametrize("use", USES, ids=[use.__name__ for use in USES])
def test_nothing_of_torchs_runs(name, use, torch_is_off_limits):
    """With every function of torch's classes forbidden, all works."""
    use(name, make(ours(name), parameters(name), case_of(name).stateful))
