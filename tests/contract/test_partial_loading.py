"""Checkpoints that fit in part: what is loaded, what stays, and what is reported."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import polyak
from tests.contract.comparison import (
    assert_nothing_changed,
    assert_same,
    assert_same_training,
    everything,
)
from tests.contract.harness import (
    case_of,
    every_given_gradients,
    every_optimizer,
    every_separable_optimizer,
    ours,
    parameters,
    params_of,
    train,
)

LABELS = ("a", "b", "c")


def labelled(name, labels=LABELS):
    """As many named parameters as the optimizer is tested with."""
    return list(zip(labels, parameters(name), strict=False))


def trained(name, params, steps=3, **arguments):
    """An optimizer of polyak's after some steps."""
    optimizer = ours(name)(params, **{**case_of(name).stateful, **arguments})
    train(name, optimizer, params_of(optimizer), range(steps))
    return optimizer


def states(optimizer):
    """The state of each parameter, by its name."""
    return {
        name: optimizer.state.get(param)
        for group in optimizer.param_groups
        for name, param in zip(group["param_names"], group["params"], strict=True)
    }


def saved(optimizer):
    """A state dict that does not change."""
    return deepcopy(optimizer.state_dict())


def shape_changed(state_dict, key):
    """One slot of a parameter gets another shape."""
    values = state_dict["state"][key]
    slot = next(k for k, v in values.items() if isinstance(v, Tensor) and v.dim())
    values[slot] = torch.zeros(*values[slot].shape, 2)
    return slot


# By name


@every_given_gradients
def test_what_both_have_is_loaded_by_name(name):
    """A parameter less there and another here: the rest is loaded bit for bit."""
    source = trained(name, labelled(name))
    shared = list(zip(("a", "b"), parameters(name), strict=False))
    other = trained(name, [("x", parameters(name)[0]), *shared], steps=5)
    stays = deepcopy(states(other)["x"])
    report = other.load_state_dict(saved(source), strict=False)
    now, due = states(other), states(source)
    assert_same(now["a"], due["a"])
    assert_same(now["b"], due["b"])
    assert_same(now["x"], stays)
    assert report.missing == ["x"]
    assert report.unexpected == list(LABELS[2 : len(due)])
    assert report.mismatched == []
    train(name, other, params_of(other), range(5, 7))


@every_given_gradients
def test_the_state_of_unmatched_parameters_is_untouched(name):
    """Every bit and every object of it, as if nothing had been loaded."""
    source = trained(name, labelled(name, ("x", "y", "z")))
    other = trained(name, labelled(name), steps=5)
    before = everything(other)
    report = other.load_state_dict(
        saved(source), strict=False, match="name", hyperparams="current"
    )
    assert_nothing_changed(other, before)
    assert report.missing == list(states(other))
    assert report.unexpected == list(states(source))


@every_given_gradients
def test_a_shape_that_differs_is_reported_and_left_out(name):
    """The parameter keeps its state, whole; the others are loaded."""
    source = trained(name, labelled(name))
    other = trained(name, labelled(name), steps=5)
    state_dict, stays = saved(source), deepcopy(states(other)["a"])
    slot = shape_changed(state_dict, 0)
    report = other.load_state_dict(state_dict, strict=False)
    assert_same(states(other)["a"], stays)
    assert_same(states(other)["b"], states(source)["b"])
    assert (report.missing, report.unexpected) == ([], [])
    [said] = report.mismatched
    assert f"{slot} of shape" in said
    assert "parameter 'a'" in said
    assert "Nothing was loaded" not in said


@every_optimizer
def test_a_strict_load_reports_nothing(name):
    """Where all fits; and says so."""
    source = trained(name, labelled(name))
    for strict in (True, False):
        other = trained(name, labelled(name), steps=1)
        report = other.load_state_dict(saved(source), strict=strict)
        assert report == polyak.checkpoint.LoadReport([], [], [])
        assert str(report) == "everything fits"
        assert_same(other.state_dict(), source.state_dict())


def test_a_report_says_what_did_not_fit():
    """A line for each kind that is there."""
    report = polyak.checkpoint.LoadReport(["head.weight"], [], ["b: reason"])
    assert str(report) == "missing: head.weight\nmismatched: b: reason"


@every_given_gradients
def test_strict_refuses_what_differs_by_name(name):
    """With the names of both sides, and nothing changes."""
    source = trained(name, labelled(name))
    other = trained(name, labelled(name, ("a", "x", "c")))
    before = everything(other)
    with pytest.raises(ValueError, match=r"lacks parameters \['x'\].*has \['b'\]"):
        other.load_state_dict(saved(source))
    assert_nothing_changed(other, before)


# Groups


@every_separable_optimizer
@pytest.mark.parametrize("with_names", [True, False], ids=["named", "unnamed"])
def test_a_group_added_before_saving(name, with_names):
    """Fine-tuning adds one; a run of one group loads its part, one of two all."""

    def build(groups, lr=0.1):
        pairs = labelled(name)
        entries = pairs if with_names else [param for _, param in pairs]
        first = ours(name)(entries[:1], lr=lr, **case_of(name).stateful)
        if groups == 2:
            first.add_param_group({"params": entries[1:], "lr": 0.5})
        return first

    source = build(2)
    train(name, source, params_of(source), range(3))
    state_dict = saved(source)

    two = build(2, lr=0.7)
    two.load_state_dict(state_dict)
    assert_same(two.state_dict(), state_dict)

    one = build(1, lr=0.7)
    before = everything(one)
    with pytest.raises(ValueError, match="loaded state dict"):
        one.load_state_dict(state_dict)
    assert_nothing_changed(one, before)

    report = one.load_state_dict(state_dict, strict=False)
    [param], [trained_param, *rest] = params_of(one), params_of(source)
    assert_same(one.state[param], source.state[trained_param])
    assert one.param_groups[0]["lr"] == 0.1
    unnamed = [f"parameter {index} of group 1" for index in range(len(rest))]
    expected = list(LABELS[1 : len(rest) + 1]) if with_names else unnamed
    assert (report.missing, report.unexpected) == ([], expected)


@every_separable_optimizer
def test_a_group_that_the_checkpoint_lacks_keeps_its_state(name):
    """By position: two groups here, one there."""
    source = trained(name, parameters(name)[:1])
    other = trained(
        name,
        [{"params": [param], "lr": 0.5} for param in parameters(name)[:2]],
        steps=5,
    )
    first, second = params_of(other)
    stays = deepcopy(other.state[second])
    report = other.load_state_dict(saved(source), strict=False)
    assert_same(other.state[first], source.state[params_of(source)[0]])
    assert_same(other.state[second], stays)
    assert other.param_groups[1]["lr"] == 0.5
    assert other.param_groups[0]["lr"] == source.param_groups[0]["lr"]
    assert report.missing == ["parameter 0 of group 1"]


@every_given_gradients
def test_sizes_that_differ_are_reported_by_position(name):
    """The parameters that both groups have are loaded, in their order."""
    source = trained(name, parameters(name))
    other = trained(name, parameters(name)[:1], steps=5)
    report = other.load_state_dict(saved(source), strict=False)
    assert_same(other.state[params_of(other)[0]], source.state[params_of(source)[0]])
    count = len(params_of(source))
    assert report.unexpected == [f"parameter {at} of group 0" for at in range(1, count)]

    back = trained(name, parameters(name), steps=5)
    stays = [deepcopy(back.state.get(param)) for param in params_of(back)[1:]]
    report = back.load_state_dict(saved(other), strict=False)
    assert_same([back.state.get(param) for param in params_of(back)[1:]], stays)
    assert report.missing == [f"parameter {at} of group 0" for at in range(1, count)]


@every_separable_optimizer
def test_hyperparameters_follow_the_names(name):
    """Groups in another order: what a group has stays with its parameters."""
    pairs, others = labelled(name), labelled(name)
    source = trained(
        name,
        [{"params": pairs[:1], "lr": 0.25}, {"params": pairs[1:], "lr": 0.125}],
    )
    other = ours(name)(
        [{"params": others[1:]}, {"params": others[:1]}], **case_of(name).stateful
    )
    other.load_state_dict(saved(source))
    assert [group["lr"] for group in other.param_groups] == [0.125, 0.25]
    assert_same(states(other), dict(reversed_by_group(source)))
    assert other.param_groups[0]["param_names"] == [label for label, _ in others[1:]]


def reversed_by_group(optimizer):
    """The state of each parameter by its name, the last group's first."""
    by_name = states(optimizer)
    for group in reversed(optimizer.param_groups):
        for name in group["param_names"]:
            yield name, by_name[name]


def decayed(groups, **arguments):
    """AdamW on groups of names, each with a weight decay of its own."""
    return polyak.AdamW(
        [
            {
                "params": [(name, Parameter(torch.ones(3))) for name in names],
                "weight_decay": decay,
            }
            for names, decay in groups
        ],
        **arguments,
    )


def test_groups_that_split_take_what_their_parameters_had():
    """One group became two: both have the decay of the one."""
    source = decayed([(("a", "b", "c"), 0.3)])
    other = decayed([(("c",), 0.0), (("a", "b"), 0.1)])
    other.load_state_dict(source.state_dict())
    assert [group["weight_decay"] for group in other.param_groups] == [0.3, 0.3]


def test_groups_that_merged_are_refused_where_they_differ():
    """One group cannot have both; without strict it keeps its own, and says so."""
    source = decayed([(("a",), 0.3), (("b",), 0.0)])
    other = decayed([(("a", "b"), 0.1)])
    before = everything(other)
    with pytest.raises(ValueError, match=r"group 0 are in 2 groups.*'current'"):
        other.load_state_dict(source.state_dict())
    assert_nothing_changed(other, before)
    report = other.load_state_dict(source.state_dict(), strict=False)
    assert other.param_groups[0]["weight_decay"] == 0.1
    assert "group 0 are in 2 groups" in report.mismatched[0]


@pytest.mark.parametrize("kept", ["current", {"weight_decay"}], ids=str)
def test_groups_that_merged_load_where_the_difference_is_not_wanted(kept):
    """It is not asked whether groups agree in what is not loaded."""
    source = decayed([(("a",), 0.3), (("b",), 0.0)], lr=0.5)
    other = decayed([(("a", "b"), 0.1)], lr=0.25)
    report = other.load_state_dict(source.state_dict(), hyperparams=kept)
    assert report.mismatched == []
    assert other.param_groups[0]["weight_decay"] == 0.1
    assert other.param_groups[0]["lr"] == (0.25 if kept == "current" else 0.5)


def test_groups_that_merged_may_differ_in_how_they_are_computed():
    """``foreach`` and its like are not loaded."""
    source = decayed([(("a",), 0.3), (("b",), 0.3)])
    source.param_groups[0]["foreach"] = False
    other = decayed([(("a", "b"), 0.1)])
    other.load_state_dict(source.state_dict())
    assert other.param_groups[0]["weight_decay"] == 0.3


def test_groups_that_merged_and_agree_load():
    """Tensors and tuples are compared by their values."""
    source = decayed([(("a",), 0.3), (("b",), 0.3)], lr=torch.tensor(0.5))
    source.param_groups[1]["lr"] = torch.tensor(0.5)
    source.param_groups[1]["betas"] = list(source.param_groups[1]["betas"])
    other = decayed([(("a", "b"), 0.1)])
    other.load_state_dict(source.state_dict())
    assert other.param_groups[0]["lr"] == torch.tensor(0.5)


# How parameters are found


def test_match_by_position_ignores_the_names():
    """And keeps those of the optimizer."""
    source = trained("Adam", labelled("Adam"))
    shuffled = ("c", "a", "b")
    other = trained("Adam", labelled("Adam", shuffled), steps=0)
    other.load_state_dict(saved(source), match="position")
    for param, trained_param in zip(params_of(other), params_of(source), strict=True):
        assert_same(other.state[param], source.state[trained_param])
    assert tuple(other.param_groups[0]["param_names"]) == shuffled


def test_match_by_name_needs_names_on_both_sides():
    """And says which side has none; nothing changes."""
    with_names = trained("Adam", labelled("Adam"))
    without = trained("Adam", parameters("Adam"))
    for optimizer, source, who in (
        (with_names, without, "checkpoint"),
        (without, with_names, "optimizer"),
    ):
        before = everything(optimizer)
        with pytest.raises(ValueError, match=f"the {who} has none"):
            optimizer.load_state_dict(saved(source), match="name")
        assert_nothing_changed(optimizer, before)


def test_names_for_some_parameters_are_no_names():
    """A state dict written by hand: found by position, or refused."""
    source = trained("Adam", labelled("Adam"))
    state_dict = saved(source)
    state_dict["param_groups"][0]["param_names"].pop()
    other = trained("Adam", labelled("Adam"), steps=1)
    with pytest.raises(ValueError, match="the checkpoint has none"):
        other.load_state_dict(state_dict, match="name")
    other.load_state_dict(state_dict)
    for param, trained_param in zip(params_of(other), params_of(source), strict=True):
        assert_same(other.state[param], source.state[trained_param])


def test_names_that_occur_twice_are_refused():
    """By name; and "auto" goes by position."""
    source = trained("Adam", labelled("Adam", ("a", "a", "b")))
    other = trained("Adam", labelled("Adam"), steps=1)
    with pytest.raises(ValueError, match="some occur twice"):
        other.load_state_dict(saved(source), match="name")
    other.load_state_dict(saved(source))
    for param, trained_param in zip(params_of(other), params_of(source), strict=True):
        assert_same(other.state[param], source.state[trained_param])


def test_match_by_name_does_not_fall_back_to_position():
    """Where all names are others, as after a model was wrapped."""
    source = trained("Adam", labelled("Adam", ("x", "y", "z")))
    other = trained("Adam", labelled("Adam"))
    before = everything(other)
    with pytest.raises(ValueError, match="lacks parameters"):
        other.load_state_dict(saved(source), match="name")
    assert_nothing_changed(other, before)


def test_an_unknown_way_to_match_is_refused():
    """With those that there are."""
    optimizer = trained("Adam", parameters("Adam"))
    with pytest.raises(ValueError, match="'auto', 'name' or 'position', got 'names'"):
        optimizer.load_state_dict(saved(optimizer), match="names")


# Hyperparameters


@every_optimizer
def test_current_hyperparameters_stay(name):
    """All of them; the state is the checkpoint's."""
    source = trained(name, parameters(name), lr=0.25)
    source.param_groups[0]["initial_lr"] = 0.75
    other = trained(name, parameters(name), steps=5, lr=0.5)
    groups = deepcopy([{**g, "params": 0} for g in other.param_groups])
    other.load_state_dict(saved(source), hyperparams="current")
    assert_same([{**g, "params": 0} for g in other.param_groups], groups)
    assert_same(other.state_dict()["state"], source.state_dict()["state"])
    train(name, other, params_of(other), range(5, 7))


@every_optimizer
@pytest.mark.parametrize("names", [{"lr"}, ["lr"], ("lr", "initial_lr")], ids=str)
def test_named_hyperparameters_stay(name, names):
    """The others become the checkpoint's."""
    source = trained(name, parameters(name), lr=0.25)
    source.param_groups[0]["initial_lr"] = 0.75
    other = trained(name, parameters(name), lr=0.5)
    other.load_state_dict(saved(source), hyperparams=names)
    assert other.param_groups[0]["lr"] == 0.5
    assert other.param_groups[0].get("initial_lr") == (
        None if "initial_lr" in names else 0.75
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"lr_"}, "'lr_'.* Did you mean 'lr'"),
        ({"weight_decya"}, "Did you mean 'weight_decay'"),
        ("lr", "got 'lr'"),
        (None, "got None"),
    ],
    ids=str,
)
def test_unknown_hyperparameters_are_refused(wrong, words):
    """With the nearest that there is; nothing changes."""
    optimizer = trained("Adam", parameters("Adam"))
    before = everything(optimizer)
    with pytest.raises(ValueError, match=words):
        optimizer.load_state_dict(
            saved(trained("Adam", parameters("Adam"), steps=5)), hyperparams=wrong
        )
    assert_nothing_changed(optimizer, before)


# What else could go wrong


@pytest.mark.parametrize("lacking", ["state", "param_groups"])
@pytest.mark.parametrize("strict", [True, False])
def test_what_is_no_state_dict_is_refused(lacking, strict):
    """Also where parts are allowed to be missing."""
    optimizer = trained("Adam", parameters("Adam"))
    state_dict = saved(optimizer)
    del state_dict[lacking]
    before = everything(optimizer)
    with pytest.raises(ValueError, match=f"lacks {lacking}"):
        optimizer.load_state_dict(state_dict, strict=strict)
    assert_nothing_changed(optimizer, before)


@pytest.mark.parametrize("strict", [True, False])
def test_another_optimizers_state_is_not_loaded(strict):
    """Refused, or reported for each parameter, with the way to convert it."""
    source = trained("Adam", labelled("Adam"))
    optimizer = trained("SGD", labelled("SGD"))
    before = everything(optimizer)
    if strict:
        with pytest.raises(ValueError, match="convert_state"):
            optimizer.load_state_dict(saved(source), hyperparams="current")
    else:
        report = optimizer.load_state_dict(
            saved(source), hyperparams="current", strict=False
        )
        assert len(report.mismatched) == 3
    assert_nothing_changed(optimizer, before)


def test_what_was_not_updated_yet_stays_so():
    """State of ``init_state`` that a partial load left alone begins as new state."""
    arguments = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    source = polyak.SGD([("a", Parameter(torch.ones(3)))], **arguments)
    other, control = (
        polyak.SGD(
            [(name, Parameter(torch.ones(3))) for name in ("a", "b")], **arguments
        )
        for _ in range(2)
    )
    other.init_state()
    other.load_state_dict(source.state_dict(), strict=False)
    train("SGD", other, params_of(other), range(2))
    train("SGD", control, params_of(control), range(2))
    assert_same_training(other, control)


def test_a_note_of_another_kind_is_replaced():
    """State that belongs to no parameter, a number here and a dict there."""
    source = trained("Adam", parameters("Adam"))
    source.state["note"] = {"curve": [torch.ones(2)]}
    optimizer = trained("Adam", parameters("Adam"))
    optimizer.state["note"] = 3
    optimizer.load_state_dict(source.state_dict())
    assert_same(optimizer.state["note"], source.state["note"])
    optimizer.state["note"]["curve"][0].zero_()
    assert source.state["note"]["curve"][0].sum() == 2


def test_what_is_loaded_in_inference_mode_can_be_trained():
    """State made there would be of a kind that no step can update."""
    source = trained("Adam", parameters("Adam"))
    optimizer = trained("Adam", parameters("Adam"), steps=0)
    with torch.inference_mode():
        optimizer.load_state_dict(source.state_dict())
    assert_same(optimizer.state_dict(), source.state_dict())
    train("Adam", optimizer, params_of(optimizer), range(3, 5))


def test_a_state_dict_of_the_optimizer_itself_may_be_rearranged():
    """Its tensors are the live ones, which are written to one after the other."""
    optimizer = trained("Adam", [Parameter(torch.ones(3) * i) for i in (1, 2, 3)])
    before = [deepcopy(optimizer.state[param]) for param in params_of(optimizer)]
    state_dict = optimizer.state_dict()
    first, second, third = (state_dict["state"][index] for index in range(3))
    state_dict["state"] = {0: second, 1: third, 2: first}
    optimizer.load_state_dict(state_dict)
    now = [optimizer.state[param] for param in params_of(optimizer)]
    assert_same(now, [before[1], before[2], before[0]])
