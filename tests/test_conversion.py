"""Checkpoints of one optimizer for another: what the two share, bit for bit."""

from copy import deepcopy

import pytest
import torch
from torch.nn import Parameter

import polyak
from polyak.optimizers import all_optimizers
from tests.contract.comparison import assert_same
from tests.contract.harness import (
    NAMES,
    case_of,
    ours,
    parameters,
    params_of,
    reference,
    train,
)

# What each can continue from, with the slots that the two share.
ADAMS = {"step", "exp_avg", "exp_avg_sq"}
SHARED = {
    **{
        (source, target): ADAMS
        for source in ("Adam", "AdamW", "NAdam", "RAdam", "SparseAdam")
        for target in ("Adam", "AdamW", "RAdam", "SparseAdam")
    },
    ("NAdam", "NAdam"): ADAMS | {"mu_product"},
    ("RMSprop", "Adadelta"): {"step", "square_avg"},
    ("Adadelta", "RMSprop"): {"step", "square_avg"},
}


def trained(name, steps=3, **arguments):
    """An optimizer after some steps."""
    arguments = {**case_of(name).stateful, **arguments}
    optimizer = ours(name)(parameters(name), **arguments)
    train(name, optimizer, params_of(optimizer), range(steps))
    return optimizer


def on_two(kind, **arguments):
    """An optimizer on one parameter of two numbers, in float64."""
    param = Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    return kind([param], **arguments), param


GRADIENTS = [
    torch.tensor(pair, dtype=torch.float64)
    for pair in ((0.5, -1.0), (0.25, 2.0), (-1.5, 0.75), (1.0, 0.125))
]


def advance(optimizer, param, gradients):
    """A step for each gradient."""
    for gradient in gradients:
        param.grad = gradient.clone()
        optimizer.step()


def moved(optimizer, param, to, **arguments):
    """Another optimizer that goes on from here, and its parameter."""
    target = Parameter(param.detach().clone())
    other = to([target], **arguments)
    other.load_state_dict(polyak.convert_state(optimizer.state_dict(), to=to))
    return other, target


# Every pair


@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("source", NAMES)
def test_every_pair_shares_what_it_should_or_is_refused(source, target):
    """Shared slots are bit for bit those of the source, and load."""
    optimizer = trained(source)
    state_dict = optimizer.state_dict()
    before = deepcopy(state_dict)
    own = source == target != "LBFGS"
    if not own and (source, target) not in SHARED:
        with pytest.raises(ValueError, match=f"{target} (shares|needs|has no rule)"):
            polyak.convert_state(state_dict, to=target)
        assert_same(optimizer.state_dict(), before)
        return

    converted = polyak.convert_state(state_dict, to=target)
    assert_same(optimizer.state_dict(), before)
    other = ours(target)([Parameter(p.detach().clone()) for p in params_of(optimizer)])
    other.load_state_dict(converted)
    for param, old in zip(params_of(other), params_of(optimizer), strict=True):
        state = dict(other.state[param])
        due = optimizer.state[old]
        keys = due.keys() if own else SHARED[source, target]
        assert state.keys() == keys
        assert_same(
            {key: torch.as_tensor(state[key], dtype=due_of(due[key])) for key in state},
            {key: torch.as_tensor(due[key]) for key in state},
        )


def due_of(value):
    """The dtype that a value has as a tensor."""
    return torch.as_tensor(value).dtype


@pytest.mark.parametrize("name", [name for name in NAMES if name != "LBFGS"])
def test_to_itself_continues_the_run(name):
    """Bit for bit, ``momentum_buffer`` and ``prev`` too."""
    source = trained(name)
    other = ours(name)(
        [Parameter(param.detach().clone()) for param in params_of(source)],
        **case_of(name).stateful,
    )
    other.load_state_dict(polyak.convert_state(source.state_dict(), to=name))
    for optimizer in (source, other):
        train(name, optimizer, params_of(optimizer), range(3, 6))
    assert_same(params_of(other), params_of(source))


# The next step, by its formula


def test_adam_to_adamw():
    """AdamW's step from Adam's averages and counter; its decay is its own."""
    adam, param = on_two(polyak.Adam, lr=0.1, weight_decay=0.5)
    advance(adam, param, GRADIENTS[:2])
    other, target = moved(adam, param, polyak.AdamW)
    m, v = (adam.state[param][key].clone() for key in ("exp_avg", "exp_avg_sq"))
    gradient = GRADIENTS[2]
    m = 0.9 * m + 0.1 * gradient
    v = 0.999 * v + 0.001 * gradient**2
    update = m / (1 - 0.9**3) / ((v / (1 - 0.999**3)).sqrt() + 1e-8)
    expected = param.detach() * (1 - 0.1 * 0.5) - 0.1 * update
    advance(other, target, [gradient])
    assert_same(target.detach(), expected, 4)


def test_adamw_to_radam_decays_as_before():
    """The decoupled decay is a hyperparameter of RAdam too, and is kept."""
    adamw, param = on_two(polyak.AdamW, lr=0.1, weight_decay=0.5)
    advance(adamw, param, GRADIENTS[:2])
    other, target = moved(adamw, param, polyak.RAdam)
    m = adamw.state[param]["exp_avg"].clone()
    gradient = GRADIENTS[2]
    m = 0.9 * m + 0.1 * gradient
    # The third step is among the first five, which RAdam does not rectify.
    expected = param.detach() * (1 - 0.1 * 0.5) - 0.1 * m / (1 - 0.9**3)
    advance(other, target, [gradient])
    assert_same(target.detach(), expected, 4)


def test_rmsprop_to_adadelta():
    """Adadelta's step from the mean square; the mean of its updates begins at 0."""
    rmsprop, param = on_two(polyak.RMSprop, lr=0.1, momentum=0.9, eps=0.5)
    advance(rmsprop, param, GRADIENTS[:2])
    other, target = moved(rmsprop, param, polyak.Adadelta, rho=0.75)
    mean_square = rmsprop.state[param]["square_avg"].clone()
    gradient = GRADIENTS[2]
    mean_square = 0.75 * mean_square + 0.25 * gradient**2
    update = 0.5**0.5 / (mean_square + 0.5).sqrt() * gradient
    advance(other, target, [gradient])
    assert_same(target.detach(), param.detach() - 0.1 * update, 4)
    assert other.state[target]["step"] == 3


def test_sgds_average_goes_with_it():
    """``param_ema`` is of all; the averages of the gradients begin anew."""
    sgd, param = on_two(polyak.SGD, lr=0.1, momentum=0.9, ema_decay=0.75)
    advance(sgd, param, GRADIENTS[:2])
    average = sgd.state[param]["param_ema"].clone()
    other, target = moved(sgd, param, polyak.Adam)
    assert list(other.state[target]) == ["param_ema"]
    control = polyak.Adam([Parameter(param.detach().clone())], lr=0.1)
    [begins] = params_of(control)
    for optimizer, each in ((other, target), (control, begins)):
        advance(optimizer, each, GRADIENTS[2:3])
    assert_same(target.detach(), begins.detach())
    average = average + 0.25 * (target.detach() - average)
    assert_same(other.state[target]["param_ema"], average, 4)


# Hyperparameters


def test_hyperparameters_that_both_have_are_kept():
    """The others are as the optimizer is built."""
    source = trained(
        "RMSprop", lr=0.25, weight_decay=0.5, eps=1e-3, momentum=0.9, alpha=0.5
    )
    source.param_groups[0].update(initial_lr=0.75, name="all", lr_scale=0.5)
    [group] = polyak.convert_state(source.state_dict(), to="Adadelta")["param_groups"]
    flags = {"foreach", "maximize", "capturable", "differentiable"}
    assert {key: group[key] for key in group.keys() - flags} == {
        "params": [0, 1, 2],
        "lr": 0.25,
        "weight_decay": 0.5,
        "eps": 1e-3,
        "initial_lr": 0.75,
        "name": "all",
        "lr_scale": 0.5,
    }
    other = polyak.Adadelta(parameters("Adadelta"), rho=0.125)
    other.load_state_dict(polyak.convert_state(source.state_dict(), to=polyak.Adadelta))
    assert other.param_groups[0]["rho"] == 0.125
    assert other.param_groups[0]["lr"] == 0.25


def test_adamw_stays_adamw():
    """Adam says ``decoupled_weight_decay=False``, which AdamW does not take over."""
    other, _ = moved(*on_two(polyak.Adam), polyak.AdamW)
    assert other.param_groups[0]["decoupled_weight_decay"] is True


def test_amsgrads_largest_mean_square_goes_where_it_is_known():
    """To AdamW, and not to RAdam."""
    source = trained("Adam", amsgrad=True)
    adamw = polyak.convert_state(source.state_dict(), to="AdamW")
    radam = polyak.convert_state(source.state_dict(), to="RAdam")
    assert "max_exp_avg_sq" in adamw["state"][0]
    assert adamw["param_groups"][0]["amsgrad"] is True
    assert "max_exp_avg_sq" not in radam["state"][0]


def test_groups_and_names_stay():
    """Several groups, with names, are found by name on the other side."""
    pairs = list(zip("ab", parameters("Adam"), strict=False))
    source = polyak.Adam([{"params": pairs[:1], "lr": 0.5}, {"params": pairs[1:]}])
    train("Adam", source, params_of(source), range(2))
    others = list(zip("ab", parameters("Adam"), strict=False))
    other = polyak.AdamW([{"params": others[1:]}, {"params": others[:1]}])
    other.load_state_dict(polyak.convert_state(source.state_dict(), to="AdamW"))
    for (_, param), (_, old) in zip(others, pairs, strict=True):
        assert_same(other.state[param]["exp_avg"], source.state[old]["exp_avg"])
    assert [group["lr"] for group in other.param_groups] == [1e-3, 0.5]


# How it is asked


@pytest.mark.parametrize("to", ["adamw", "AdamW", polyak.AdamW], ids=str)
def test_the_other_is_a_class_or_its_name(to):
    """In any case."""
    state_dict = trained("Adam").state_dict()
    due = polyak.convert_state(state_dict, to=polyak.AdamW)
    assert_same(polyak.convert_state(state_dict, to=to), due)


def test_an_unknown_name_is_refused():
    """With the nearest that there is."""
    with pytest.raises(ValueError, match="Did you mean 'adamw'"):
        polyak.convert_state(trained("Adam").state_dict(), to="adanw")


def test_a_class_of_ones_own():
    """Its slots are found by their names."""

    class Averaging(polyak.Optimizer):
        def __init__(self, params, lr=0.1):
            super().__init__(params, dict(lr=lr))

        @staticmethod
        def rule(param, grad, exp_avg, *, lr):
            exp_avg = 0.5 * (exp_avg + grad)
            return param - lr * exp_avg, exp_avg

    adam, param = on_two(polyak.Adam, lr=0.5)
    advance(adam, param, GRADIENTS[:1])
    other, target = moved(adam, param, Averaging)
    advance(other, target, GRADIENTS[1:2])
    average = 0.5 * (0.1 * GRADIENTS[0] + GRADIENTS[1])
    assert_same(target.detach(), param.detach() - 0.5 * average, 4)


@pytest.mark.parametrize("source", ["Adam", "RMSprop"])
def test_torchs_checkpoints_convert(source):
    """Also those with integer steps."""
    optimizer = reference(source)(parameters(source))
    train(source, optimizer, params_of(optimizer), range(3))
    state_dict = deepcopy(optimizer.state_dict())
    for values in state_dict["state"].values():
        values["step"] = int(values["step"])
    target = {"Adam": polyak.RAdam, "RMSprop": polyak.Adadelta}[source]
    other = target(parameters(source))
    other.load_state_dict(polyak.convert_state(state_dict, to=target))
    for param, old in zip(params_of(other), params_of(optimizer), strict=True):
        assert_same(other.state[param]["step"], optimizer.state[old]["step"])
    train(source, other, params_of(other), range(3, 5))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "LBFGS"])
def test_without_state_there_is_nothing_to_refuse(name):
    """Before the first step, every optimizer goes to every other."""
    fresh = polyak.SGD(parameters(name), lr=0.25, momentum=0.9)
    other = all_optimizers()[name](parameters(name))
    other.load_state_dict(polyak.convert_state(fresh.state_dict(), to=name))
    assert other.param_groups[0]["lr"] == 0.25
    assert not other.state
