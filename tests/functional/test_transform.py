"""transform(): a step as a function gives the bits of the class's eager step."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

import polyak
from polyak.functional import transform
from tests.contract.comparison import assert_same, same_bits, tensors_in
from tests.contract.harness import (
    DENSE,
    NAMES,
    argument_sets,
    case_of,
    give_gradients,
    make,
    ours,
    parameters,
    params_of,
)

STEPS = 5
RULED = [name for name in NAMES if hasattr(ours(name), "rule")]
DTYPES = (torch.float32, torch.complex64, torch.bfloat16)
every_rule = pytest.mark.parametrize("name", RULED)


def cases(dtypes=DTYPES):
    """Each optimizer with a rule, with each dtype and each set of arguments."""
    for name in RULED:
        for dtype in dtypes:
            if dtype.is_complex and not case_of(name).complex:
                continue
            for set_name, arguments in argument_sets(name).items():
                label = f"{name}-{str(dtype)[6:]}-{set_name}"
                yield pytest.param(name, dtype, arguments, id=label)


def eager(name, params, arguments):
    """The class, made to run eagerly."""
    optimizer = make(ours(name), params, arguments)
    for group in optimizer.param_groups:
        group["foreach"] = False
    return optimizer


def by_name(values):
    """A dict of them, in the order of their names."""
    return {f"p{index}": value for index, value in enumerate(values)}


def detached(params):
    """The values of parameters, by name."""
    return by_name(param.detach().clone() for param in params)


def state_of(optimizer):
    """The state of a class by name, its counters as tensors."""
    states = [dict(optimizer.state.get(p, {})) for p in params_of(optimizer)]
    for state in states:
        if isinstance(state.get("step"), int):
            state["step"] = torch.tensor(float(state["step"]))
    return by_name(states)


def assert_same_values(actual, expected):
    """The same bits, whatever the layout: a function makes tensors of its own."""
    assert list(actual) == list(expected)
    for name, value in expected.items():
        if isinstance(value, Tensor):
            made = torch.empty_like(value, requires_grad=False).copy_(actual[name])
            assert actual[name].dtype == value.dtype
            assert_same(made, value.detach(), where=name)
        else:
            assert_same_values(actual[name], value)


def assert_steps_of_the_class(name, arguments, params, steps=STEPS):
    """Do the same steps with the functions and with the class."""
    opt = transform(ours(name), **deepcopy(arguments))
    values = detached(params)
    state = opt.init(values)
    optimizer = eager(name, params, arguments)
    for step in range(steps):
        give_gradients(name, params, step)
        grads = by_name(param.grad for param in params)
        optimizer.step()
        values, state = opt.update(values, grads, state)
        assert_same_values(values, detached(params))
        started = {key: held for key, held in state_of(optimizer).items() if held}
        assert_same_values({key: state[key] for key in started}, started)


@pytest.mark.parametrize(("name", "dtype", "arguments"), list(cases()))
def test_steps_are_those_of_the_class(name, dtype, arguments):
    """Bit for bit: every argument set and layout, and parameters without gradient."""
    assert_steps_of_the_class(name, arguments, parameters(name, DENSE, dtype))


@every_rule
def test_an_average_is_that_of_the_class(name):
    """``ema_decay`` is a stage of the functions too."""
    assert_steps_of_the_class(name, {"ema_decay": 0.9}, parameters(name))


@every_rule
def test_clipped_values_are_those_of_the_class(name):
    """``clip_grad_value`` is a stage of the functions too."""
    assert_steps_of_the_class(name, {"clip_grad_value": 0.1}, parameters(name))


def test_clipped_norms_are_those_of_the_class():
    """``clip_grad_norm`` is a stage of the functions too, of all gradients as one."""
    params = parameters("Adagrad")
    optimizer = eager("Adagrad", params, {"clip_grad_norm": 0.5})
    opt = transform(polyak.Adagrad, clip_grad_norm=0.5)
    values = detached(params)
    give_gradients("Adagrad", params, 0)
    optimizer.step()
    values, _ = opt.update(values, by_name(p.grad for p in params), opt.init(values))
    assert_same(list(values.values()), [p.detach() for p in params], ulps=2)


@every_rule
def test_the_state_is_one_that_the_class_goes_on_from(name):
    """Put into a state dict, it is the checkpoint that the class would have made."""
    params = parameters(name)
    opt, optimizer = transform(ours(name)), eager(name, params, {})
    values, state = detached(params), opt.init(detached(params))
    for step in range(STEPS):
        give_gradients(name, params, step)
        grads = by_name(param.grad for param in params)
        values, state = opt.update(values, grads, state)
        if step == 2:
            state_dict = optimizer.state_dict()
            state_dict["state"] = dict(enumerate(state.values()))
            optimizer.load_state_dict(state_dict)
            for param, value in zip(params, values.values(), strict=True):
                param.data.copy_(value)
        elif step > 2:
            optimizer.step()
    assert_same_values(values, detached(params))


@every_rule
def test_nothing_given_is_written_to_or_kept(name):
    """Inputs keep their bits, and the results share no memory with them or another."""
    params = parameters(name)
    give_gradients(name, params, 0)
    opt = transform(ours(name), ema_decay=0.5)
    values, grads = detached(params), by_name(param.grad for param in params)
    state = opt.init(values)
    for _ in range(2):
        given = [*tensors_in([values, state])]
        before = deepcopy([*given, *grads.values()])
        new_values, new_state = opt.update(values, grads, state)
        unchanged = zip(before, [*given, *grads.values()], strict=True)
        assert all(same_bits(a, b) for a, b in unchanged)
        made = [*tensors_in([new_values, new_state])]
        dense = [grad for grad in grads.values() if not grad.is_sparse]
        homes = [t.untyped_storage().data_ptr() for t in (*given, *made, *dense)]
        assert len(set(homes)) == len(homes)
        values, state = new_values, new_state


def test_parameters_without_gradient_stay_as_they_are():
    """And so does their state."""
    opt = transform(polyak.AdamW)
    params = {"w": torch.ones(2), "b": torch.zeros(2)}
    state = opt.init(params)
    new, after = opt.update(params, {"w": torch.ones(2), "b": None}, state)
    assert torch.equal(new["b"], params["b"])
    assert (new["w"] != params["w"]).all()
    assert (after["b"]["step"], after["w"]["step"]) == (0, 1)


def test_any_tree_of_tensors_will_do():
    """Its form is that of the gradients, the results and the state."""
    opt = transform(polyak.SGD, lr=0.5, momentum=0.9)
    params = {"layers": [torch.ones(2), (torch.zeros(3),)]}
    grads = {"layers": [torch.ones(2), (torch.ones(3),)]}
    params, state = opt.update(params, grads, opt.init(params))
    assert params["layers"][1][0].tolist() == [-0.5] * 3
    assert state["layers"][0]["momentum_buffer"].tolist() == [1.0] * 2


def test_the_order_of_names_does_not_matter():
    """Gradients and state are found by name."""
    opt = transform(polyak.Adagrad, lr=0.1)
    params = {"a": torch.ones(2), "b": torch.ones(2)}
    grads = {"b": torch.full((2,), 2.0), "a": torch.full((2,), 1.0)}
    state = opt.init(dict(reversed(params.items())))
    new, after = opt.update(params, grads, state)
    assert list(new) == list(after) == ["a", "b"]
    assert after["b"]["sum"].tolist() == [4.0, 4.0]


def test_a_hyperparameter_may_be_given_for_one_step():
    """It counts in that step, and the others are what they were."""
    opt = transform(polyak.SGD, lr=0.5)
    params, grads = {"w": torch.ones(1)}, {"w": torch.ones(1)}
    params, state = opt.update(params, grads, opt.init(params), lr=0.25)
    params, _ = opt.update(params, grads, state)
    assert params["w"].item() == 0.25


def test_a_stage_may_begin_at_any_step():
    """The state that it keeps is made there."""
    opt = transform(polyak.SGD, lr=1.0)
    params, grads = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    _, state = opt.update(params, grads, opt.init(params), ema_decay=0.75)
    assert state["w"]["param_ema"].item() == -0.25


def test_a_model_is_trained():
    """With functional_call and torch.func.grad, as the class trains it."""
    torch.manual_seed(0)
    model, x = torch.nn.Linear(3, 2), torch.randn(5, 3)
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    opt = transform(polyak.AdamW, lr=0.1)
    optimizer = polyak.AdamW(model.parameters(), lr=0.1)
    state = opt.init(params)

    def loss(params):
        return functional_call(model, params, (x,)).square().sum()

    for _ in range(3):
        params, state = opt.update(params, torch.func.grad(loss)(params), state)
        optimizer.zero_grad()
        loss(dict(model.named_parameters())).backward()
        optimizer.step()
    for name, param in model.named_parameters():
        torch.testing.assert_close(params[name], param.detach())


def test_it_shows_what_it_is():
    """The optimizer and its hyperparameters."""
    assert repr(transform(polyak.SGD, lr=0.5)).startswith("transform(SGD, lr=0.5, ")
