"""Mixed: checkpoints, copies, and frameworks that reach into an optimizer."""

import copy
import pickle

import pytest
import torch
from torch.distributed.checkpoint import state_dict as dcp
from torch.nn import Parameter

import polyak
from tests.test_mixed import (
    ADAMW,
    MUON,
    SGD,
    STEPS,
    assert_same,
    every_mixture,
    give_gradients,
    mixed,
    params_of,
    shares,
    states_of,
    trained,
    vector,
)

MORE = range(STEPS, STEPS + 3)
SLOTS = [["momentum_buffer"]] * 2 + [["step", "exp_avg", "exp_avg_sq"]] * 2


def named(order):
    """Mixed of named parameters, with the optimizers in this order."""
    kinds = {"SGD": SGD, "AdamW": ADAMW}
    params = dict(zip(kinds, shares(kinds), strict=True))
    return polyak.Mixed(
        *(
            kinds[kind](
                [(f"{kind}.{i}", param) for i, param in enumerate(params[kind])]
            )
            for kind in order
        )
    )


def assert_continues(optimizer, other):
    """Both do the same from here, and share nothing."""
    trained(other, MORE)
    after = [param.detach().clone() for param in params_of(other)]
    trained(optimizer, MORE)
    assert_same([param.detach() for param in params_of(optimizer)], after)
    assert_same(states_of(optimizer), states_of(other))


def take_values(optimizer, source):
    with torch.no_grad():
        for param, value in zip(params_of(optimizer), params_of(source), strict=True):
            param.copy_(value)


# State dicts


@every_mixture
def test_a_checkpoint_resumes_the_run(kinds):
    """Bit for bit, in a fresh optimizer, through a file."""
    optimizer, fresh = trained(mixed(kinds, ema_decay=0.9)), mixed(kinds, ema_decay=0.5)
    optimizer.param_groups[1]["lr"] = 0.03
    take_values(fresh, optimizer)
    fresh.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    assert fresh.param_groups[1]["lr"] == 0.03
    assert_continues(fresh, optimizer)


def test_a_state_dict_has_torchs_layout():
    """One of all parameters; each group names its algorithm."""
    state_dict = trained(mixed()).state_dict()
    sgd, adamw = state_dict["param_groups"]
    assert (sgd["optimizer"], sgd["params"]) == ("SGD", [0, 1])
    assert (adamw["optimizer"], adamw["params"]) == ("AdamW", [2, 3])
    assert [list(state_dict["state"][index]) for index in range(4)] == SLOTS


def test_checkpoints_of_torch_can_be_joined():
    """Their groups name no algorithm: they are taken by their place."""
    first, second = shares("ab")
    theirs = [
        torch.optim.SGD(first, lr=0.5, momentum=0.9),
        torch.optim.AdamW(second, lr=0.25),
    ]
    for step in range(2):
        give_gradients([*first, *second], STEPS + step)
        for each in theirs:
            each.step()
    sgd, adamw = (each.state_dict() for each in theirs)
    adamw["param_groups"][0]["params"] = [2, 3]
    state = {**sgd["state"], **{2 + k: v for k, v in adamw["state"].items()}}
    groups = [*sgd["param_groups"], *adamw["param_groups"]]
    optimizer = mixed()
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25]
    assert [group["optimizer"] for group in optimizer.param_groups] == ["SGD", "AdamW"]
    moments = [optimizer.state[param]["exp_avg"] for param in params_of(optimizer)[2:]]
    assert_same(moments, [theirs[1].state[param]["exp_avg"] for param in second])


def test_a_group_of_another_algorithm_is_not_loaded():
    """Nothing is, and the error says of which."""
    source, optimizer = trained(mixed((ADAMW, SGD))), trained(mixed((SGD, ADAMW)))
    before, groups = copy.deepcopy((states_of(optimizer), optimizer.param_groups))
    with pytest.raises(ValueError, match=r"group of AdamW where .* has one of SGD"):
        optimizer.load_state_dict(source.state_dict())
    assert_same(states_of(optimizer), before)
    for group, kept in zip(optimizer.param_groups, groups, strict=True):
        assert {**group, "params": None} == {**kept, "params": None}


@pytest.mark.parametrize("order", [("SGD", "AdamW"), ("AdamW", "SGD")])
def test_names_are_found_in_any_order(order):
    """Each parameter gets its own state, and each group its own values."""
    source, optimizer = trained(named(("SGD", "AdamW"))), named(order)
    source.param_groups[0]["lr"] = 0.7
    optimizer.load_state_dict(source.state_dict())
    groups = {group["optimizer"]: group for group in optimizer.param_groups}
    expected = {group["optimizer"]: group for group in source.param_groups}
    for kind, group in groups.items():
        for param, original in zip(
            group["params"], expected[kind]["params"], strict=True
        ):
            assert_same(optimizer.state[param], source.state[original])
        assert group["lr"] == expected[kind]["lr"]


@pytest.mark.parametrize(
    ("index", "name", "value"), [(0, "momentum", -1.0), (1, "betas", (0.9, 1.5))]
)
def test_values_out_of_their_bounds_are_not_loaded(index, name, value):
    """Each algorithm checks its own groups."""
    optimizer, state_dict = mixed(), mixed().state_dict()
    state_dict["param_groups"][index][name] = value
    with pytest.raises(ValueError, match=r"momentum|beta"):
        optimizer.load_state_dict(state_dict)
    assert optimizer.param_groups[index][name] != value


def test_state_of_another_algorithm_is_not_loaded():
    """Each tells by its slots what is its own, where the groups do not say it."""
    optimizer, state_dict = mixed(), trained(mixed((ADAMW, SGD))).state_dict()
    for group, own in zip(
        state_dict["param_groups"], optimizer.param_groups, strict=True
    ):
        del group["optimizer"]
        group["lr"] = own["lr"]
    with pytest.raises(ValueError, match=r"(SGD|AdamW) has none of these"):
        optimizer.load_state_dict(state_dict)
    assert not optimizer.state


@pytest.mark.parametrize(("index", "slot"), [(0, "momentum_buffer"), (2, "exp_avg")])
def test_state_of_another_shape_is_not_loaded(index, slot):
    """Each algorithm checks the state of its own parameters."""
    optimizer, state_dict = mixed(), trained(mixed()).state_dict()
    state_dict["state"][index][slot] = torch.zeros(7)
    with pytest.raises(ValueError, match=f"{slot} of shape"):
        optimizer.load_state_dict(state_dict)
    assert not optimizer.state


def test_constants_of_an_algorithm_are_not_loaded():
    """AdamW stays what it is, whatever an old checkpoint says."""
    optimizer, state_dict = mixed(), mixed().state_dict()
    state_dict["param_groups"][1]["decoupled_weight_decay"] = False
    optimizer.load_state_dict(state_dict)
    assert optimizer.param_groups[1]["decoupled_weight_decay"] is True


def test_loading_keeps_the_objects():
    """Schedulers and wrappers hold them."""
    optimizer = trained(mixed())
    groups, state = optimizer.param_groups, optimizer.state
    each = [*groups]
    optimizer.load_state_dict(trained(mixed()).state_dict())
    assert optimizer.param_groups is groups
    assert optimizer.state is state
    assert all(new is old for new, old in zip(groups, each, strict=True))


def test_state_can_be_made_before_the_first_step():
    """Of every algorithm; the steps are the same with and without."""
    optimizer, expected = mixed((SGD, ADAMW)), trained(mixed((SGD, ADAMW)))
    optimizer.init_state()
    assert [list(state) for state in states_of(optimizer)] == SLOTS
    trained(optimizer)
    assert_same(params_of(optimizer), params_of(expected))


def test_state_made_before_mixing_is_new_still():
    """The first momentum is the gradient, not a share of it."""
    first, second = shares("ab")
    sgd = SGD(first, dampening=0.5)
    sgd.init_state()
    optimizer = polyak.Mixed(sgd, ADAMW(second))
    give_gradients([*first, *second], STEPS)
    optimizer.step()
    assert_same(optimizer.state[first[0]]["momentum_buffer"], first[0].grad)


# Copies


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)),
}


@every_mixture
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_goes_on_by_itself(kinds, copied):
    """It has parameters and state of its own."""
    optimizer = trained(mixed(kinds, clip_grad_norm=0.5))
    other = copied(optimizer)
    assert other.clip_grad_norm == 0.5
    before = [param.detach().clone() for param in params_of(optimizer)]
    trained(other, MORE)
    assert_same([param.detach() for param in params_of(optimizer)], before)
    assert_continues(optimizer, trained(copied(optimizer), []))
    assert_same(params_of(optimizer), params_of(other))


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_can_be_loaded_into_and_grow(copied):
    """Its parts look at its own groups and state."""
    optimizer = mixed()
    other, w = copied(optimizer), vector()
    other.load_state_dict(trained(mixed()).state_dict())
    other.add_param_group({"params": [w], "optimizer": "SGD"})
    w.grad = torch.ones(2)
    other.step()
    assert "momentum_buffer" in other.state[w]
    assert len(optimizer.param_groups) == 2
    assert not optimizer.state


def test_a_copy_of_model_and_optimizer_keeps_the_link():
    """The optimizer's parameters are the model's."""
    model = torch.nn.Linear(3, 2)
    optimizer = polyak.Mixed(MUON([model.weight]), ADAMW([model.bias]))
    model, optimizer = copy.deepcopy((model, optimizer))
    before = model.weight.detach().clone()
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    assert params_of(optimizer)[0] is model.weight
    assert not torch.equal(model.weight, before)


# Frameworks


def test_parameters_may_be_replaced_in_the_groups():
    """As accelerate does, between construction and the first step, and later."""
    optimizer, expected = mixed(), mixed()
    for steps in (range(2), range(2, STEPS)):
        for group in optimizer.param_groups:
            for index, param in enumerate(group["params"]):
                group["params"][index] = new = Parameter(param.detach().clone())
                if param in optimizer.state:
                    optimizer.state[new] = optimizer.state.pop(param)
        trained(optimizer, steps)
        trained(expected, steps)
    assert_same(params_of(optimizer), params_of(expected))
    assert_same(states_of(optimizer), states_of(expected))


def test_state_and_groups_may_be_replaced():
    """By other objects of the same content."""
    optimizer, expected = trained(mixed()), trained(mixed(), range(STEPS + 3))
    optimizer.state = copy.copy(optimizer.state)
    optimizer.param_groups = [dict(group) for group in optimizer.param_groups]
    trained(optimizer, MORE)
    assert_same(params_of(optimizer), params_of(expected))
    assert_same(states_of(optimizer), states_of(expected))


def test_a_wrapper_with_the_same_attributes_steps():
    """Lightning makes one: a class of its own, around the attributes."""
    optimizer, expected = trained(mixed()), trained(mixed(), range(STEPS + 3))
    kind = type("LightningMixed", (polyak.Mixed,), {"__init__": lambda self: None})
    wrapper = kind()
    wrapper.__dict__.update(vars(optimizer))
    trained(wrapper, MORE)
    assert_same(params_of(optimizer), params_of(expected))
    assert_same(states_of(optimizer), states_of(expected))


def test_distributed_checkpoints_go_round():
    """torch's, before the first step and after, by the names in the model."""
    models = [torch.nn.Linear(3, 2) for _ in "ab"]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [
        polyak.Mixed(SGD([model.weight]), ADAMW([model.bias])) for model in models
    ]
    for step in range(2):
        saved = dcp.get_optimizer_state_dict(models[0], optimizers[0])
        dcp.set_optimizer_state_dict(models[1], optimizers[1], saved)
        for each in optimizers:
            give_gradients(params_of(each), STEPS + step)
            each.step()
        assert_same(params_of(optimizers[1]), params_of(optimizers[0]))
        assert_same(states_of(optimizers[1]), states_of(optimizers[0]))
