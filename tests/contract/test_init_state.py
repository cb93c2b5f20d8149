"""State made before the first step is what the first step would make."""

import io
from copy import deepcopy

import pytest
import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.nn import Parameter

import polyak
from tests.contract.comparison import assert_nothing_changed, assert_same, everything
from tests.contract.harness import (
    advance,
    argument_sets,
    case_of,
    give_gradients,
    make,
    optimizers,
    ours,
    parameters,
    params_of,
    train,
)

every_rule = optimizers(lambda case: not case.closure)
RULES = list(every_rule.args[1])


def cases():
    """Each optimizer with a rule, with each set of arguments, and with dampening."""
    for name in RULES:
        for set_name, arguments in argument_sets(name).items():
            yield pytest.param(name, arguments, id=f"{name}-{set_name}")
    dampened = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    yield pytest.param("SGD", dampened, id="SGD-dampened")
    yield pytest.param("SGD", {**dampened, "ema_decay": 0.9}, id="SGD-averaged")


every_case = pytest.mark.parametrize(("name", "arguments"), list(cases()))


def give_all_gradients(name, optimizer):
    """A gradient for every parameter."""
    for param in params_of(optimizer):
        give_gradients(name, [param], 0)


@every_case
def test_the_state_is_that_of_a_first_step(name, arguments):
    """The same keys in the same order, shapes, dtypes and layouts; counters are 0."""
    made, stepped = (make(ours(name), parameters(name), arguments) for _ in range(2))
    values = deepcopy(params_of(made))
    made.init_state()
    assert_same(params_of(made), values)
    give_all_gradients(name, stepped)
    stepped.step()
    for param, other in zip(params_of(made), params_of(stepped), strict=True):
        state, due = made.state.get(param, {}), stepped.state.get(other, {})
        assert list(state) == list(due)
        for key, value in state.items():
            if isinstance(due[key], int):
                assert value == 0
                continue
            alike = torch.empty_like(due[key]).copy_(value)
            assert_same(value, alike)
        if "step" in state:
            assert state["step"] == 0


@every_case
def test_training_goes_on_as_without(name, arguments):
    """Bit for bit, also where parameters get their first gradient late."""
    made, control = (make(ours(name), parameters(name), arguments) for _ in range(2))
    made.init_state()
    for step in range(6):
        for optimizer in (made, control):
            params = params_of(optimizer)
            advance(name, optimizer, params, step)
            params[0].grad = None
        assert_same(params_of(made), params_of(control))
    late = params_of(control)[-1]
    assert late in control.state or not control.state


def test_the_first_gradient_may_come_late():
    """SGD's dampening spares the first one, whenever that is."""
    arguments = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    made, control = (polyak.SGD(parameters("SGD"), **arguments) for _ in range(2))
    made.init_state()
    for step in range(5):
        for optimizer in (made, control):
            for index, param in enumerate(params_of(optimizer)):
                give_gradients("SGD", [param], step)
                if step < index:
                    param.grad = None
            optimizer.step()
        assert_same(params_of(made), params_of(control))


@every_rule
def test_twice_is_once(name):
    """And state that is there stays: after a step, nothing is made anew."""
    optimizer = make(ours(name), parameters(name), case_of(name).stateful)
    optimizer.init_state()
    before = everything(optimizer)
    optimizer.init_state()
    assert_nothing_changed(optimizer, before)

    give_all_gradients(name, optimizer)
    optimizer.step()
    before = everything(optimizer)
    optimizer.init_state()
    assert_nothing_changed(optimizer, before)


@every_rule
def test_frozen_parameters_get_none(name):
    """Until they are trainable."""
    optimizer = make(ours(name), parameters(name), case_of(name).stateful)
    frozen, *rest = params_of(optimizer)
    frozen.requires_grad_(False)
    optimizer.init_state()
    assert set(optimizer.state) == set(rest)
    frozen.requires_grad_(True)
    optimizer.init_state()
    assert set(optimizer.state) == {frozen, *rest}


@every_rule
def test_a_copy_is_as_fresh(name):
    """A deepcopy of an optimizer with initial state trains as one without does."""
    arguments = {**case_of(name).stateful}
    if name == "SGD":
        arguments["dampening"] = 0.5
    made, control = (make(ours(name), parameters(name), arguments) for _ in range(2))
    made.init_state()
    copy = deepcopy(made)
    for optimizer in (copy, control):
        train(name, optimizer, params_of(optimizer), range(3))
    assert_same(params_of(copy), params_of(control))


def test_state_made_in_inference_mode_can_be_trained():
    """It is of the usual kind."""
    optimizer = polyak.Adam(parameters("Adam"))
    with torch.inference_mode():
        optimizer.init_state()
    train("Adam", optimizer, params_of(optimizer), range(2))


# Distributed checkpoints, which do a step of their own on an optimizer without state


class Model(torch.nn.Module):
    """The parameters that an optimizer is tested with."""

    def __init__(self, name):
        super().__init__()
        self.weights = torch.nn.ParameterList(parameters(name))


def pair(kind, name, **arguments):
    """A model and its optimizer."""
    model = Model(name)
    return model, kind(model.parameters(), **{**case_of(name).stateful, **arguments})


def steps_in(state_dict):
    """The step counters of a checkpoint."""
    return [
        float(values["step"])
        for values in state_dict["state"].values()
        if "step" in values
    ]


@every_rule
def test_a_distributed_checkpoint_leaves_a_fresh_optimizer_fresh(name):
    """Nothing moves, counters are 0, and training is that of the control."""
    model, optimizer = pair(ours(name), name)
    _, control = pair(ours(name), name)
    values, rate = deepcopy(params_of(optimizer)), optimizer.param_groups[0]["lr"]
    state_dict = get_optimizer_state_dict(model, optimizer)
    assert_same(params_of(optimizer), values)
    assert optimizer.param_groups[0]["lr"] == rate
    assert optimizer.steps == 0
    assert len(state_dict["state"]) == len(values)
    assert not any(steps_in(state_dict))
    control.init_state()
    assert_same(
        list(state_dict["state"].values()),
        list(control.state_dict()["state"].values()),
    )
    for each in (optimizer, control):
        train(name, each, params_of(each), range(5))
    assert_same(params_of(optimizer), params_of(control))


@every_rule
def test_a_group_has_its_own_rate_after_a_distributed_checkpoint(name):
    """Also where the state begins with the rate, and nobody asks for the state."""
    optimizer, control = (
        ours(name)([{"params": parameters(name), "lr": 0.25}], lr=0.5) for _ in "ab"
    )
    for param in params_of(optimizer):
        param.grad = torch.zeros_like(param)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert not optimizer.steps
    optimizer.param_groups[0]["lr"] = 0.25
    for each in (optimizer, control):
        train(name, each, params_of(each), range(3))
    assert_same(params_of(optimizer), params_of(control))


def test_a_distributed_checkpoint_spares_the_first_gradient():
    """SGD's dampening begins after it."""
    arguments = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    model, optimizer = pair(polyak.SGD, "SGD", **arguments)
    _, control = pair(polyak.SGD, "SGD", **arguments)
    get_optimizer_state_dict(model, optimizer)
    for each in (optimizer, control):
        train("SGD", each, params_of(each), range(3))
    assert_same(params_of(optimizer), params_of(control))


def test_torch_corrupts_a_fresh_optimizer():
    """torch's failure: the checkpoint and the run both count a step that was none."""
    model, optimizer = pair(torch.optim.Adam, "Adam", lr=0.1)
    _, control = pair(torch.optim.Adam, "Adam", lr=0.1)
    state_dict = get_optimizer_state_dict(model, optimizer)
    assert steps_in(state_dict) == [1.0, 1.0, 1.0]
    for each in (optimizer, control):
        train("Adam", each, params_of(each), range(1))
    first, expected = params_of(optimizer)[0], params_of(control)[0]
    assert (first - expected).abs().max() > 0.01


@every_rule
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("flat", [False, True])
def test_distributed_checkpoints_continue(name, steps, flat):
    """Into an optimizer that has done no step, through a file of torch's."""
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, source = pair(ours(name), name)
    train(name, source, params_of(source), range(steps))
    file = io.BytesIO()
    torch.save(get_optimizer_state_dict(model, source, options=options), file)
    file.seek(0)

    reading, other = pair(ours(name), name)
    with torch.no_grad():
        for param, trained in zip(params_of(other), params_of(source), strict=True):
            param.copy_(trained)
    # Parameters that never got a gradient have none in the file.
    if flat and steps:
        source.init_state()
    set_optimizer_state_dict(reading, other, torch.load(file), options=options)
    for each in (source, other):
        train(name, each, params_of(each), range(steps, steps + 3))
    assert_same(params_of(other), params_of(source))


# What is and what is not such a step


def test_a_rate_of_zero_is_a_step_where_gradients_are_not():
    """A warm-up may begin at 0: it counts."""
    optimizer = polyak.Adam(parameters("Adam"), lr=0.0)
    give_all_gradients("Adam", optimizer)
    optimizer.step()
    assert {state["step"].item() for state in optimizer.state.values()} == {1.0}
    assert optimizer.steps == 1


def test_gradients_of_zero_are_a_step_where_the_rate_is_not():
    """Weight decay moves the parameters."""
    param = Parameter(torch.ones(3))
    optimizer = polyak.AdamW([param], lr=0.1, weight_decay=0.5)
    param.grad = torch.zeros(3)
    optimizer.step()
    assert_same(param.detach(), torch.full((3,), 0.95))
    assert optimizer.state[param]["step"] == 1


def test_a_step_without_gradients_makes_no_state():
    """Whatever the rate."""
    optimizer = polyak.Adam(parameters("Adam"), lr=0.0)
    optimizer.step()
    assert not optimizer.state
    assert optimizer.steps == 1


def test_only_the_first_step_can_be_such_a_step():
    """Later ones count, with a rate of 0 and gradients of 0 too; also of a copy."""
    param = Parameter(torch.ones(3))
    optimizer = polyak.Adam([param])
    param.grad = torch.ones(3)
    optimizer.step()
    copied, copy = deepcopy((param, optimizer))
    for each, its in ((param, optimizer), (copied, copy)):
        its.param_groups[0]["lr"] = 0.0
        each.grad = torch.zeros(3)
        its.step()
        assert its.state[each]["step"] == 2
