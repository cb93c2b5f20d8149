"""Loading a state dict changes all that it should, in place, or nothing at all."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from tests.contract.comparison import (
    assert_nothing_changed,
    assert_same,
    assert_same_training,
    containers,
    everything,
    tensors_in,
)
from tests.contract.harness import (
    case_of,
    every_given_gradients,
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


def trained(name, steps=3, **arguments):
    """An optimizer after some steps."""
    arguments = {**case_of(name).stateful, **arguments}
    optimizer = make(ours(name), parameters(name), arguments)
    train(name, optimizer, params_of(optimizer), range(steps))
    return optimizer


def wrong_shape(state):
    """The last state tensor that is no number gets another shape."""
    for values in reversed(state["state"].values()):
        for key, value in reversed(values.items()):
            if isinstance(value, Tensor) and value.dim():
                values[key] = torch.zeros(*value.shape, 2)
                return
    raise AssertionError("there is no state tensor to make wrong")


def too_many_groups(state):
    state["param_groups"].append(deepcopy(state["param_groups"][0]))


def too_few_groups(state):
    state["param_groups"].pop()


def too_few_parameters(state):
    state["param_groups"][-1]["params"].pop()


def out_of_bounds(name):
    key, value = case_of(name).bounded

    def spoil(state):
        state["param_groups"][-1][key] = value

    return spoil


DAMAGE = {
    "wrong_shape": lambda name: wrong_shape,
    "too_many_groups": lambda name: too_many_groups,
    "too_few_groups": lambda name: too_few_groups,
    "too_few_parameters": lambda name: too_few_parameters,
    "out_of_bounds": out_of_bounds,
}


@every_optimizer
@pytest.mark.parametrize("damage", list(DAMAGE))
def test_what_cannot_be_loaded_changes_nothing(name, damage):
    """ValueError, with every bit and every object as before."""
    optimizer = trained(name)
    state = deepcopy(trained(name, steps=5).state_dict())
    DAMAGE[damage](name)(state)
    before = everything(optimizer)
    with pytest.raises(ValueError):  # noqa: PT011 - the words differ by the damage
        optimizer.load_state_dict(state)
    assert_nothing_changed(optimizer, before)


@every_optimizer
def test_size_errors_have_torchs_words(name):
    """They begin as torch's do; ours add the numbers."""
    for damage in (too_many_groups, too_few_parameters):
        state = deepcopy(trained(name).state_dict())
        damage(state)
        with pytest.raises(ValueError, match="loaded state dict") as expected:
            make(reference(name), parameters(name), {}).load_state_dict(deepcopy(state))
        with pytest.raises(ValueError, match="loaded state dict") as actual:
            make(ours(name), parameters(name), {}).load_state_dict(state)
        assert str(actual.value).startswith(str(expected.value))


@every_optimizer
def test_a_wrong_shape_is_named(name):
    """The error says which slot of which parameter, and both shapes."""
    optimizer = ours(name)(
        [(f"layer.{i}", p) for i, p in enumerate(parameters(name))],
        **case_of(name).stateful,
    )
    train(name, optimizer, params_of(optimizer), range(2))
    state = deepcopy(optimizer.state_dict())
    wrong_shape(state)
    with pytest.raises(ValueError, match=r"shape.*layer\.\d"):
        optimizer.load_state_dict(state)


@every_optimizer
def test_loading_is_in_place(name):
    """Lists, dicts and fitting tensors stay the objects that others may hold."""
    optimizer, source = trained(name), trained(name, steps=5)
    before = containers(optimizer)
    optimizer.load_state_dict(source.state_dict())
    now = containers(optimizer)
    assert len(now) == len(before)
    assert all(a is b for a, b in zip(now, before, strict=True))
    assert_same(optimizer.state_dict(), source.state_dict())


@every_given_gradients
def test_fitting_tensors_stay_the_same_objects(name):
    """Including the step counters; LBFGS keeps histories, which grow."""
    optimizer, source = trained(name), trained(name, steps=5)
    held = list(tensors_in(list(optimizer.state.values())))
    optimizer.load_state_dict(source.state_dict())
    now = list(tensors_in(list(optimizer.state.values())))
    assert len(now) == len(held)
    assert all(a is b for a, b in zip(now, held, strict=True))


@every_optimizer
def test_nothing_is_shared_with_the_source(name):
    """Neither optimizer's steps show in the other, nor in the dict between them."""
    source = trained(name, lr=torch.tensor(0.01))
    optimizer = trained(name, steps=0)
    state = source.state_dict()
    copy = deepcopy(state)
    optimizer.load_state_dict(state)
    theirs = {t.data_ptr() for t in tensors_in(state) if t.numel()}
    ours_ = {t.data_ptr() for t in tensors_in(optimizer.state_dict()) if t.numel()}
    assert theirs.isdisjoint(ours_)
    assert_same(state, copy)
    train(name, optimizer, params_of(optimizer), range(3, 6))
    assert_same(source.state_dict(), copy)


@every_optimizer
def test_loading_twice_gives_the_same(name):
    """A state dict is not used up or changed by loading it."""
    source, optimizer = trained(name), trained(name, steps=0)
    state = source.state_dict()
    for _ in range(2):
        optimizer.load_state_dict(state)
        assert_same(optimizer.state_dict(), source.state_dict())
        train(name, optimizer, params_of(optimizer), range(2))


@every_optimizer
def test_loading_an_empty_state_begins_anew(name):
    """State that the checkpoint does not have is dropped."""
    fresh, optimizer = trained(name, steps=0), trained(name)
    optimizer.load_state_dict(fresh.state_dict())
    with torch.no_grad():
        for param, other in zip(params_of(optimizer), params_of(fresh), strict=True):
            param.copy_(other)
    for each in (optimizer, fresh):
        train(name, each, params_of(each), range(3))
    assert_same_training(optimizer, fresh)


@every_optimizer
def test_state_keeps_its_dtype(name):
    """Float32 state of bfloat16 parameters is loaded as it is, and stays so."""
    case = case_of(name)
    optimizer = make(ours(name), parameters(name, dtype=torch.bfloat16), case.stateful)
    train(name, optimizer, params_of(optimizer), range(2))
    state = deepcopy(optimizer.state_dict())
    widened = []
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.dtype is torch.bfloat16:
                values[key] = value.float() + 2**-20
                widened.append((index, key))
    assert widened
    optimizer.load_state_dict(state)
    assert_same(optimizer.state_dict()["state"], state["state"])
    if case.closure:
        return
    train(name, optimizer, params_of(optimizer), range(2, 4))
    for index, key in widened:
        value = optimizer.state_dict()["state"][index][key]
        assert value.dtype is torch.float32, key


@every_optimizer
def test_flags_of_the_implementation_stay_those_of_this_run(name):
    """``foreach``, ``fused``, ``capturable`` and ``differentiable`` are not loaded."""
    flags = [
        flag
        for flag in ("foreach", "fused", "capturable", "differentiable")
        if takes(name, flag)
    ]
    state = deepcopy(trained(name).state_dict())
    for flag in flags:
        live = trained(name, **{flag: False})
        for saved in (True, None):
            state["param_groups"][0][flag] = saved
            live.load_state_dict(deepcopy(state))
            assert live.param_groups[0][flag] is False
        del state["param_groups"][0][flag]
        live.load_state_dict(deepcopy(state))
        assert live.param_groups[0][flag] is False


@every_optimizer
def test_hyperparameters_become_the_checkpoints(name):
    """Every other value of a group is loaded; what the checkpoint lacks stays."""
    optimizer = trained(name, lr=0.5)
    state = deepcopy(trained(name, lr=0.25).state_dict())
    state["param_groups"][0]["initial_lr"] = 0.75
    optimizer.load_state_dict(deepcopy(state))
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert optimizer.param_groups[0]["initial_lr"] == 0.75
    optimizer.param_groups[0]["lr"] = 0.125
    del state["param_groups"][0]["lr"]
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.125
    train(name, optimizer, params_of(optimizer), range(2))


@every_optimizer
def test_a_learning_rate_tensor_of_the_checkpoint_is_copied(name):
    """A tensor ``lr`` is loaded as a tensor, which is not the checkpoint's."""
    optimizer = trained(name, steps=0)
    source = trained(name, lr=torch.tensor(0.25))
    optimizer.load_state_dict(source.state_dict())
    optimizer.param_groups[0]["lr"].fill_(0.5)
    assert source.param_groups[0]["lr"].item() == 0.25


@every_optimizer
def test_state_that_belongs_to_no_parameter_is_kept(name):
    """As torch does, for what subclasses put there."""
    source, optimizer = trained(name), trained(name, steps=0)
    source.state["note"] = {"best": 0.5, "curve": [1, 2]}
    optimizer.load_state_dict(source.state_dict())
    assert optimizer.state["note"] == {"best": 0.5, "curve": [1, 2]}
    train(name, optimizer, params_of(optimizer), range(2))
    assert optimizer.state_dict()["state"]["note"] == {"best": 0.5, "curve": [1, 2]}


def named(name, order, prefix="layer", kind=None):
    """An optimizer on named parameters, in some order."""
    params = parameters(name)
    pairs = [
        (f"{prefix}.{index}", params[index]) for index in order if index < len(params)
    ]
    return (kind or ours(name))(pairs, **case_of(name).stateful)


@every_optimizer
def test_names_are_saved_and_loaded_as_in_torch(name):
    """``param_names`` is in the groups of the state dict and survives a checkpoint."""
    order = range(3)
    for saves_names in (True, False):
        for has_names in (True, False):
            groups = []
            for kind in (ours(name), reference(name)):
                source = (
                    named(name, order, "old", kind)
                    if saves_names
                    else kind(parameters(name))
                )
                other = (
                    named(name, order, "new", kind)
                    if has_names
                    else kind(parameters(name))
                )
                other.load_state_dict(source.state_dict())
                groups.append(other.state_dict()["param_groups"])
            # A key that is new to a live group comes last: dicts change in place.
            actual, expected = ([dict(sorted(g.items())) for g in x] for x in groups)
            assert_same(actual, expected)


@every_given_gradients
def test_state_finds_its_parameter_by_name(name):
    """The same names in another order: each keeps its own state and its own name."""
    source, shuffled = named(name, (0, 1, 2)), named(name, (2, 1, 0))
    names = list(shuffled.param_groups[0]["param_names"])
    train(name, source, params_of(source), range(3))
    shuffled.load_state_dict(source.state_dict())
    assert shuffled.param_groups[0]["param_names"] == names
    for param, trained_param in zip(
        reversed(params_of(shuffled)), params_of(source), strict=True
    ):
        assert_same(shuffled.state.get(param), source.state.get(trained_param))


@every_separable_optimizer
def test_state_finds_its_parameter_by_name_in_its_group(name):
    """The parameters of a group are its own; their order in it does not matter."""
    params = parameters(name)
    labels = [f"layer.{index}" for index in range(len(params))]
    pairs = list(zip(labels, params, strict=True))
    others = list(zip(labels, parameters(name), strict=True))
    source, other = (
        ours(name)(groups, **case_of(name).stateful)
        for groups in (
            [{"params": pairs[:1]}, {"params": pairs[:0:-1], "lr": 0.5}],
            [{"params": others[:1]}, {"params": others[1:]}],
        )
    )
    train(name, source, params, range(3))
    other.load_state_dict(source.state_dict())
    for (_, param), trained_param in zip(others, params, strict=True):
        assert_same(other.state.get(param), source.state.get(trained_param))
    assert [group["lr"] for group in other.param_groups][1] == 0.5


@every_optimizer
def test_wholly_other_names_load_by_position(name):
    """As in torch: the model was renamed, and the checkpoint's names are taken."""
    source = named(name, range(3), "old")
    train(name, source, params_of(source), range(3))
    other = named(name, range(3), "new")
    other.load_state_dict(source.state_dict())
    assert_same(other.state_dict(), source.state_dict())


@every_optimizer
def test_names_that_agree_in_part_are_refused(name):
    """Nobody can know which parameter is which: ValueError, and nothing changes."""
    source, other = (
        ours(name)(list(zip(labels, parameters(name), strict=False)))
        for labels in (("a", "b", "c"), ("a", "x", "y"))
    )
    train(name, source, params_of(source), range(3))
    train(name, other, params_of(other), range(1))
    before = everything(other)
    with pytest.raises(ValueError, match=r"'b'|'x'"):
        other.load_state_dict(source.state_dict())
    assert_nothing_changed(other, before)
