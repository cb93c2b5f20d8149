"""Parameter groups are checked when they are taken in; a refusal changes nothing."""

import re
from copy import deepcopy

import pytest
import torch
from torch.nn import Parameter

import polyak
from polyak import groups as groups_module
from tests.contract.comparison import (
    assert_nothing_changed,
    assert_same,
    assert_same_training,
    everything,
)
from tests.contract.harness import (
    NAMES,
    case_of,
    every_grouped_optimizer,
    every_optimizer,
    every_separable_optimizer,
    make,
    ours,
    parameters,
    params_of,
    reference,
    takes,
    train,
)


def non_leaf(param):
    return param * 2


def retained(param):
    result = param * 1
    result.retain_grad()
    return result


# What torch refuses, by the way to spoil a group's parameters.
REFUSED = {
    "set": lambda params: set(params),
    "no_tensor": lambda params: [*params, 1.0],
    "string": lambda params: ["weight"],
    "none": lambda params: [None],
    "non_leaf": lambda params: [non_leaf(params[0])],
    "names_missing": lambda params: [("a", params[0]), *params[1:]],
    "name_without_tensor": lambda params: [("a", "b")],
}
ACCEPTED = {
    "list": lambda params: list(params),
    "tuple": lambda params: tuple(params),
    "generator": lambda params: (param for param in params),
    "single": lambda params: params[0],
    "none_yet": lambda params: [],
    "named": lambda params: [(f"p{index}", p) for index, p in enumerate(params)],
    "retained": lambda params: [retained(params[0])],
}


def words_of(call):
    """The type and the words of what a call raises."""
    try:
        call()
    except Exception as error:
        return type(error), str(error)
    raise AssertionError("torch does not refuse this")


@every_optimizer
@pytest.mark.parametrize("spoil", list(REFUSED))
def test_what_torch_refuses_at_construction(name, spoil):
    """The same type of error, whose words begin as torch's do."""
    given = [
        [{"params": REFUSED[spoil](parameters(name)), **case_of(name).stateful}]
        for _ in range(2)
    ]
    kind, words = words_of(lambda: reference(name)(given[0]))
    with pytest.raises(kind, match=re.escape(words)):
        ours(name)(given[1])


@every_optimizer
@pytest.mark.parametrize("spoil", list(ACCEPTED))
def test_what_torch_accepts_at_construction(name, spoil):
    """The group holds the same parameters, as a list, and the same names."""
    actual, expected = (
        kind([{"params": ACCEPTED[spoil](parameters(name))}])
        for kind in (ours(name), reference(name))
    )
    found, due = actual.param_groups[0], expected.param_groups[0]
    assert type(found["params"]) is list
    assert_same(
        [p.detach() for p in found["params"]], [p.detach() for p in due["params"]]
    )
    assert {**found, "params": None} == {**due, "params": None}


@every_optimizer
@pytest.mark.parametrize(
    "params",
    [[], torch.ones(2), {"params": torch.ones(2)}, {1, 2}, [[]], [1.0]],
    ids=["empty", "tensor", "dict", "set", "list_in_list", "number"],
)
def test_what_is_no_list_of_parameters(name, params):
    """Refused at construction; where torch is silent, polyak is not."""
    with pytest.raises((TypeError, ValueError)) as caught:
        ours(name)(params)
    if isinstance(params, torch.Tensor) or params == []:
        kind, words = words_of(lambda: reference(name)(params))
        assert isinstance(caught.value, kind)
        assert str(caught.value).startswith(words)


def adding(name):
    """An optimizer that holds some parameters, and those that it does not hold."""
    first, *rest = parameters(name)
    optimizer = make(ours(name), [first], case_of(name).stateful)
    train(name, optimizer, [first], range(2))
    return optimizer, first, rest


def assert_refused(optimizer, group, kind, words=None):
    """An error, after which the optimizer and the caller's group are as before."""
    before, copy = everything(optimizer), dict(group)
    with pytest.raises(kind, match=words):
        optimizer.add_param_group(group)
    assert_nothing_changed(optimizer, before)
    assert list(group) == list(copy)
    assert all(group[key] is copy[key] for key in copy)


@every_grouped_optimizer
@pytest.mark.parametrize("spoil", list(REFUSED))
def test_a_refused_group_changes_nothing(name, spoil):
    """Neither the optimizer nor the caller's dict."""
    optimizer, _, rest = adding(name)
    group = {"params": REFUSED[spoil](rest)}
    assert_refused(optimizer, group, (TypeError, ValueError))


@every_grouped_optimizer
def test_a_group_is_a_dict(name):
    """TypeError, in torch's words."""
    optimizer, _, rest = adding(name)
    with pytest.raises(TypeError, match="param_group must be a dict"):
        optimizer.add_param_group(rest)


@every_grouped_optimizer
def test_a_parameter_is_in_one_group(name):
    """ValueError, also where other parameters of the group are new."""
    optimizer, first, rest = adding(name)
    words = "some parameters appear in more than one parameter group"
    assert_refused(optimizer, {"params": [*rest, first]}, ValueError, words)


@every_grouped_optimizer
def test_all_groups_have_names_or_none(name):
    """In either order of the groups."""
    optimizer, first, rest = adding(name)
    words = "cannot add param group with names to the optimizer"
    assert_refused(optimizer, {"params": [("new", rest[0])]}, ValueError, words)
    named = ours(name)([("first", first)])
    words = "cannot add param group without names to the optimizer"
    assert_refused(named, {"params": rest}, ValueError, words)
    named.add_param_group({"params": [("new", rest[0])]})
    assert [g["param_names"] for g in named.param_groups] == [["first"], ["new"]]


@every_optimizer
def test_values_out_of_bounds_in_the_first_group(name):
    """Refused for a group as for the whole optimizer."""
    key, value = case_of(name).bounded
    with pytest.raises(ValueError, match=re.escape(str(value))):
        ours(name)([{"params": parameters(name), key: value}])


@every_grouped_optimizer
def test_values_out_of_bounds_in_a_later_group(name):
    """And then nothing changes."""
    key, value = case_of(name).bounded
    optimizer, _, rest = adding(name)
    group = {"params": rest, key: value}
    assert_refused(optimizer, group, ValueError, re.escape(str(value)))


def misspelt(name):
    """A hyperparameter with two letters exchanged, and what must be said to it."""
    key = max(make(ours(name), parameters(name), {}).defaults, key=len)
    wrong = key[:-2] + key[-1] + key[-2]
    return wrong, rf"{name}.*'{wrong}'.*Did you mean '{key}'"


@every_optimizer
def test_a_misspelt_key_is_refused_with_the_nearest(name):
    """A key that no hyperparameter has is an error."""
    key, words = misspelt(name)
    with pytest.raises(ValueError, match=words):
        ours(name)([{"params": parameters(name), key: 1}])
    with pytest.raises(ValueError, match="'weather'"):
        ours(name)([{"params": parameters(name), "weather": 1}])


@every_grouped_optimizer
def test_a_misspelt_key_of_a_later_group(name):
    """And then nothing changes."""
    key, words = misspelt(name)
    optimizer, _, rest = adding(name)
    assert_refused(optimizer, {"params": rest, key: 1}, ValueError, words)


@every_optimizer
def test_keys_of_schedulers_and_libraries_pass(name):
    """What schedulers and model libraries put into groups when they make them."""
    keys = {
        "initial_lr": 0.5,
        "lr_scale": 0.1,
        "max_lr": 1.0,
        "min_lr": 0.0,
        "name": "x",
    }
    optimizer = ours(name)([{"params": parameters(name), **keys}])
    assert {key: optimizer.param_groups[0][key] for key in keys} == keys
    train(name, optimizer, params_of(optimizer), range(2))
    assert optimizer.state_dict()["param_groups"][0]["lr_scale"] == 0.1


@every_optimizer
def test_keys_can_be_allowed(name, monkeypatch):
    """``polyak.allow_group_keys`` lets a key of one's own through."""
    monkeypatch.setattr(groups_module, "_allowed", set(groups_module._allowed))
    with pytest.raises(ValueError, match="allow_group_keys"):
        ours(name)([{"params": parameters(name), "layer": 3}])
    polyak.allow_group_keys("layer", "depth")
    optimizer = ours(name)([{"params": parameters(name), "layer": 3, "depth": 1}])
    assert optimizer.param_groups[0]["layer"] == 3
    train(name, optimizer, params_of(optimizer), range(2))


@every_optimizer
def test_keys_set_later_pass(name):
    """A group is a dict: what is written into it afterwards is its owner's affair."""
    optimizer = make(ours(name), parameters(name), {})
    control = make(ours(name), parameters(name), {})
    optimizer.param_groups[0]["note"] = [1, 2]
    for each in (optimizer, control):
        train(name, each, params_of(each), range(3))
    assert_same_training(optimizer, control)
    assert optimizer.state_dict()["param_groups"][0]["note"] == [1, 2]
    control.load_state_dict(optimizer.state_dict())
    assert control.param_groups[0]["note"] == [1, 2]


@every_grouped_optimizer
def test_a_group_takes_the_defaults_it_does_not_give(name):
    """And only those."""
    optimizer, _, rest = adding(name)
    optimizer.add_param_group({"params": rest, "lr": 0.125})
    first, second = optimizer.param_groups
    assert first["lr"] == optimizer.defaults["lr"]
    assert second["lr"] == 0.125
    for key, value in optimizer.defaults.items():
        if key != "lr":
            assert second[key] is value


@every_separable_optimizer
def test_a_group_added_in_the_middle_trains_as_torchs(name):
    """Its parameters begin at their own first step."""
    pairs = []
    for kind in (ours(name), reference(name)):
        first, *rest = parameters(name)
        optimizer = make(kind, [first], case_of(name).stateful)
        train(name, optimizer, params_of(optimizer), range(2))
        optimizer.add_param_group({"params": rest, "lr": 0.05})
        train(name, optimizer, params_of(optimizer), range(2, 5))
        pairs.append(optimizer)
    assert_same_training(*pairs, case_of(name).ulps * 5)


@every_optimizer
def test_a_required_value_must_be_given(name):
    """``required`` stands for a default that every group must replace."""

    class Demanding(ours(name)):
        def __init__(self, params):
            polyak.Optimizer.__init__(self, params, {**defaults, "lr": polyak.required})

    defaults = make(ours(name), parameters(name), {}).defaults
    words = "didn't specify a value of required optimization parameter lr"
    with pytest.raises(ValueError, match=words):
        Demanding(parameters(name))
    optimizer = Demanding([{"params": parameters(name), "lr": 0.25}])
    assert optimizer.param_groups[0]["lr"] == 0.25
    train(name, optimizer, params_of(optimizer), range(2))


@every_optimizer
def test_duplicates_warn_and_are_stepped_once(name):
    """torch steps them as often as they are listed, and says that this will end."""
    params = parameters(name)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = make(ours(name), [params[0], *params], {})
    control = make(ours(name), parameters(name), {})
    if case_of(name).closure:
        return
    for step in range(3):
        train(name, control, params_of(control), [step])
        for param, other in zip(params, params_of(control), strict=True):
            param.grad = deepcopy(other.grad)
        optimizer.step()
    assert_same(params, params_of(control))


@pytest.mark.parametrize("name", [n for n in NAMES if takes(n, "differentiable")])
def test_non_leaves_are_taken_where_steps_are_differentiable(name):
    """As in torch."""
    param = non_leaf(Parameter(torch.ones(3, 4)))
    for kind in (ours(name), reference(name)):
        kind([param], differentiable=True)
