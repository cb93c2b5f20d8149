"""State that is loaded, exchanged, moved and deleted between steps."""

import copy
from collections import OrderedDict, defaultdict

import pytest
import torch

import polyak
from polyak import Slot

from .support import Run, compared, engines, parameter, probe, three


def other_values(tensor):
    return torch.linspace(0.5, 1.5, tensor.numel()).view(tensor.shape)


# Tensors


@compared()
def test_a_slot_is_another_tensor(run):
    """state[p]["exp_avg"] = t."""
    run.steps()
    old = run.state()[run.slot]
    before = old.clone()
    run.state()[run.slot] = other_values(old)
    run.steps()
    assert torch.equal(old, before)


@compared()
def test_a_slot_has_other_memory(run):
    """state[p]["exp_avg"].data = t: the same Python object, elsewhere."""
    run.steps()
    slot = run.state()[run.slot]
    slot.data = other_values(slot)
    run.steps()


@compared()
def test_a_slot_has_another_storage(run):
    """state[p]["exp_avg"].set_(t)."""
    run.steps()
    slot = run.state(1)[run.slot]
    slot.set_(other_values(slot))
    run.steps()


@compared()
def test_a_slot_moves_to_shared_memory(run):
    """share_memory_(), as Hogwild training does."""
    run.steps()
    for index in range(3):
        for value in run.state(index).values():
            value.share_memory_()
    run.steps()


@compared()
def test_a_slot_changes_in_place(run):
    """Scaling the momentum by hand."""
    run.steps()
    run.state()[run.slot].mul_(-3)
    run.steps()


@compared()
def test_slots_change_places(run):
    """Between parameters of one shape, and within one."""
    run.params[0].data = torch.ones(7)
    run.steps()
    a, b = run.state(0), run.state(1)
    a[run.slot], b[run.slot] = b[run.slot], a[run.slot]
    run.steps()
    state = run.optimizer.state
    state[run.params[0]], state[run.params[1]] = b, a
    run.steps()


@compared("Adam")
def test_names_change_places(run):
    """The same tensors in the same order under other names."""
    run.steps()
    state = run.state()
    first, second = state.pop("exp_avg"), state.pop("exp_avg_sq")
    state["exp_avg_sq"], state["exp_avg"] = first.abs() + 1, second
    run.steps()
    second, first = state.pop("exp_avg_sq"), state.pop("exp_avg")
    state["exp_avg"], state["exp_avg_sq"] = second, first.abs() + 1
    run.step()
    state["exp_avg"], state["exp_avg_sq"] = state["exp_avg_sq"], state["exp_avg"].abs()
    run.steps()


@compared("Adam", params=lambda: [torch.ones(4, requires_grad=True)])
def test_names_of_the_same_tensors_change_places(run):
    """Nothing but the keys differs."""
    run.steps()
    state = run.state()
    first, second = state.pop("exp_avg"), state.pop("exp_avg_sq")
    first.abs_()
    state["exp_avg_sq"], state["exp_avg"] = first, second
    run.steps()


@compared(references=["eager"])
def test_a_slot_has_another_dtype(run):
    """Wider or narrower state than the parameter."""
    run.steps()
    for dtype in (torch.float64, torch.float32):
        run.state()[run.slot] = run.state()[run.slot].to(dtype)
        run.step()
    run.record = [[value.float() for value in values] for values in run.record]


@compared()
def test_a_slot_has_other_strides(run):
    """It runs eagerly, and rightly."""
    run.steps()
    slot = run.state()[run.slot]
    run.state()[run.slot] = slot.t().contiguous().t()
    run.steps(2, "kernel and eager")
    run.state()[run.slot] = run.state()[run.slot].contiguous()
    run.steps()


@compared()
def test_slots_are_one_flat_tensor(run):
    """Views side by side, as sharding libraries make them."""
    run.steps()
    flat = torch.linspace(0.5, 1.5, 20)
    for index, start in enumerate((0, 12, 19)):
        param = run.params[index]
        view = flat[start : start + param.numel()].view(param.shape)
        run.state(index)[run.slot] = view
    run.steps()


@compared()
def test_slots_overlap(run):
    """Two parameters with one momentum: updated one after the other."""
    run.params[0].data = torch.ones(7)
    run.steps()
    run.state(0)[run.slot] = run.state(1)[run.slot]
    run.steps(2, "kernel and eager")


@compared(references=["eager"])
def test_a_slot_overlaps_the_parameter(run):
    """Whatever that is good for."""
    run.steps()
    memory = torch.linspace(0.5, 1.5, 12)
    run.params[1].data = memory[:7]
    run.state(1)[run.slot] = memory[7:].new_ones(7)
    run.steps()
    run.params[1].data = memory[:7].clone()
    run.state(1)[run.slot] = run.params[1].data
    run.step("kernel and eager")


@compared()
def test_a_slot_is_a_subclass(run):
    """Such state is for the eager engine."""

    class Plain(torch.Tensor):
        pass

    run.steps()
    run.state()[run.slot] = run.state()[run.slot].as_subclass(Plain)
    run.gradients()
    run.optimizer.step()
    run.record.append([param.detach().clone() for param in run.params])


@pytest.mark.parametrize("kind", [polyak.SGD, torch.optim.SGD])
def test_a_slot_made_in_inference_mode_is_torchs_error(kind):
    """Outside inference mode such a tensor cannot be written, by nobody."""
    param = parameter([1.0, 2.0], [1.0, 1.0])
    optimizer = kind([param], lr=0.1, momentum=0.9)
    optimizer.step()
    with torch.inference_mode():
        optimizer.state[param]["momentum_buffer"] = torch.ones(2)
    with pytest.raises(RuntimeError, match="inference tensor"):
        optimizer.step()


@pytest.mark.parametrize("shape", [(8,), (6,), (7, 1), (1, 7), ()], ids=str)
@pytest.mark.parametrize("engine", ["kernel", "eager"])
def test_a_slot_of_another_shape_is_never_written_beyond(shape, engine):
    """An error, or what broadcasting makes of it; memory beside it stays as it is."""
    run = Run(engine, "Adam", three(), {"lr": 0.1})
    run.steps()
    memory = torch.zeros(100)
    size = torch.Size(shape).numel()
    run.state(1)["exp_avg"] = memory[:size].view(shape)
    try:
        run.step(None)
    except RuntimeError as error:
        assert "size" in str(error) or "shape" in str(error)  # noqa: PT017
    assert not memory[size:].any()


@pytest.mark.parametrize("engine", ["kernel", "eager"])
def test_a_real_slot_of_a_complex_parameter_is_never_written_beyond(engine):
    """It has half as many numbers."""
    param = torch.ones(4, dtype=torch.complex64, requires_grad=True)
    run = Run(engine, "SGD", [param], {"lr": 0.1, "momentum": 0.9})
    param.grad = torch.ones_like(param)
    memory = torch.zeros(100)
    run.optimizer.state[param]["momentum_buffer"] = memory[:4]
    try:
        run.optimizer.step()
    except RuntimeError as error:
        assert "size" in str(error) or "complex" in str(error)  # noqa: PT017
    assert not memory[4:].any()


# Counters


@compared("Adam")
def test_the_step_changes_in_place(run):
    """The bias corrections follow."""
    run.steps()
    run.state()["step"].fill_(100.0)
    run.steps()
    run.state()["step"].add_(-50.0)
    run.steps()
    for index in range(3):
        run.state(index)["step"].zero_()
    run.steps()


@compared("Adam")
def test_the_step_is_another_tensor(run):
    """state[p]["step"] = tensor(7.)."""
    run.steps()
    run.state()["step"] = torch.tensor(7.0)
    run.steps()
    run.state(1)["step"].data = torch.tensor(9.0)
    run.steps()
    run.state(2)["step"] = torch.tensor(11.0, dtype=torch.float64)
    run.gradients()
    run.optimizer.step()
    run.record.append([value.float() for value in run.state(2).values()])


@compared("Adam", references=["eager"])
def test_the_step_is_a_python_number(run):
    """As in checkpoints of torch 1.11 and before; it stays what it is."""
    run.steps()
    run.state()["step"] = 7
    run.state(1)["step"] = 7.0
    run.steps(3, "kernel and eager")
    assert run.state()["step"] == 10
    assert type(run.state()["step"]) is int
    assert type(run.state(1)["step"]) is float


@compared("Adam")
def test_the_step_is_an_integer_tensor(run):
    """It stays one, and counts."""
    run.steps()
    run.state()["step"] = torch.tensor(7)
    run.step("kernel and eager")
    run.step("kernel and eager")
    assert run.state()["step"].dtype is torch.int64


@compared("Adam")
def test_parameters_have_different_steps(run):
    """One kernel, a row of scalars for each step."""
    for index, step in enumerate((1.0, 50.0, 3.0)):
        run.step()
        run.state(index)["step"].fill_(step)
    run.steps(3)
    if run.engine == "kernel":
        assert len(run.optimizer._plan.buckets) == 1


@compared("Adam")
def test_parameters_share_a_step(run):
    """One counter for two parameters is advanced by both, as in torch."""
    run.steps()
    run.state(1)["step"] = run.state(0)["step"]
    run.step("kernel and eager")
    run.step("kernel and eager")


@compared("Adam")
def test_steps_are_views_of_one_tensor(run):
    """0-d views side by side."""
    run.steps()
    counters = torch.full((3,), 2.0)
    for index in range(3):
        run.state(index)["step"] = counters[index]
    run.steps()
    assert counters.tolist() == [4.0] * 3


@compared("Adam")
def test_counters_follow_the_default_dtype(run):
    """float64 where that is the default; float32 and float64 side by side are right."""
    run.step()
    torch.set_default_dtype(torch.float64)
    try:
        run.params.append(torch.ones(3, dtype=torch.float32, requires_grad=True))
        run.groups[0]["params"].append(run.params[-1])
        run.steps()
    finally:
        torch.set_default_dtype(torch.float32)
    run.steps()
    assert run.state(0)["step"].dtype is torch.float32
    assert run.state(3)["step"].dtype is torch.float64


def test_large_steps_are_counted_as_float32_counts():
    """Beyond 2**24 a float32 counter stands still, in torch as here."""
    results = []
    for foreach in (None, False):
        param = parameter([1.0], [1.0])
        optimizer = polyak.Adam([param], foreach=foreach)
        optimizer.step()
        optimizer.state[param]["step"].fill_(2.0**24 - 1)
        for _ in range(3):
            optimizer.step()
        results.append([param.item(), optimizer.state[param]["step"].item()])
        assert engines(optimizer) == ("kernel" if foreach is None else "eager")
    assert results[0] == pytest.approx(results[1])
    assert results[0][1] == 2.0**24


# The dictionaries


@compared()
def test_state_is_loaded(run):
    """load_state_dict in the middle, and back again."""
    run.steps()
    saved = copy.deepcopy(run.optimizer.state_dict())
    run.steps()
    run.optimizer.load_state_dict(copy.deepcopy(saved))  # torch keeps what it is given
    run.steps()
    saved["state"][0][run.slot] *= 2
    run.optimizer.load_state_dict(saved)
    run.steps()


@compared()
def test_state_of_a_parameter_is_deleted(run):
    """It begins anew, the others go on."""
    run.steps()
    del run.optimizer.state[run.params[1]]
    run.steps()


@compared()
def test_all_state_is_deleted(run):
    """clear(), and another defaultdict."""
    run.steps()
    run.optimizer.state.clear()
    run.steps()
    run.optimizer.state = defaultdict(dict)
    run.steps()
    kept = run.optimizer.state
    run.optimizer.state = defaultdict(dict, {key: dict(kept[key]) for key in kept})
    run.steps()


@compared()
def test_state_is_moved_to_another_parameter(run):
    """What libraries do that replace parameters: pop and set."""
    run.steps()
    new = torch.full((7,), 2.0, requires_grad=True)
    state = run.optimizer.state
    state[new] = state.pop(run.params[1])
    run.params[1] = run.groups[0]["params"][1] = new
    run.steps()


@compared()
def test_state_is_put_back(run):
    """Popped and set again: the same tensors, in another order."""
    run.steps()
    state = run.optimizer.state
    state[run.params[0]] = state.pop(run.params[0])
    run.steps()
    state[run.params[1]] = dict(reversed(state.pop(run.params[1]).items()))
    run.gradients()
    run.optimizer.step()
    run.record.append([state[run.params[1]][run.slot].clone()])


@compared()
def test_state_is_another_kind_of_dict(run):
    """Any dictionary will do."""
    run.steps()
    state = run.optimizer.state
    for param in run.params:
        state[param] = OrderedDict(state[param])
    run.steps()


@compared()
def test_state_holds_other_things(run):
    """Entries that no rule knows are left alone."""
    run.steps()
    run.state()["note"] = "hello"
    run.state(1)["history"] = [torch.ones(2)]
    run.optimizer.state["global"] = 5
    run.optimizer.state["more"] = {"count": 1}
    for _ in range(2):
        run.gradients()
        run.optimizer.step()
        run.record.append([param.detach().clone() for param in run.params])
    assert run.state()["note"] == "hello"
    assert run.optimizer.state["global"] == 5


@compared("SGD")
def test_a_deleted_momentum_begins_anew(run):
    """As in torch, its first value is the gradient."""
    run.steps()
    del run.state()[run.slot]
    run.steps()


@compared("SGD", dampening=0.5)
def test_an_absent_momentum_may_be_none(run):
    """torch writes None where it has no momentum yet: that is no zero."""
    run.steps()
    for index in range(3):
        run.state(index)[run.slot] = None
    run.steps()


@compared("SGD", dampening=0.5)
def test_other_entries_do_not_make_the_state_old(run):
    """A note beside the momentum that is to be made."""
    run.state()["note"] = "made by hand"
    for _ in range(2):
        run.gradients()
        run.optimizer.step()
        run.record.append([param.detach().clone() for param in run.params])


@pytest.mark.parametrize("foreach", [None, False])
def test_missing_slots_are_made_again(foreach):
    """A checkpoint without a slot, or a slot that was deleted: it begins as new."""
    param = parameter([1.0, 2.0], [1.0, 1.0])
    optimizer = polyak.Adam([param], foreach=foreach)
    optimizer.step()
    before = optimizer.state[param]["exp_avg_sq"].clone()
    del optimizer.state[param]["exp_avg"]
    optimizer.step()
    torch.testing.assert_close(optimizer.state[param]["exp_avg"], 0.1 * param.grad)
    assert (optimizer.state[param]["exp_avg_sq"] > before).all()
    assert optimizer.state[param]["step"] == 2


def test_state_may_be_made_before_the_first_step():
    """Warm starts: what is there is used."""
    for foreach in (None, False):
        param = parameter([1.0], [0.0])
        optimizer = polyak.SGD([param], lr=1.0, momentum=0.5, foreach=foreach)
        optimizer.state[param]["momentum_buffer"] = torch.ones(1)
        optimizer.step()
        assert param.item() == 0.5


# Numbers among the slots


def number_rule(param, grad, speed, mean, *, lr):
    """A number that grows, and a branch on it."""
    scale = 2.0 if speed > 3 else 1.0
    mean = mean + speed * grad
    return param - lr * scale * mean, speed * 1.5, mean


Numbered = probe(
    number_rule, {"speed": Slot(lambda param, group: 1.0, number=True)}, name="Numbered"
)


def number_run(foreach, change=lambda optimizer, params: None):
    params = [parameter([1.0, 2.0]), parameter([3.0])]
    optimizer, record = Numbered(params, lr=0.5, foreach=foreach), []
    for step in range(6):
        for index, param in enumerate(params):
            param.grad = torch.full_like(param, 0.1 * (step + index))
        optimizer.step()
        record += [param.detach().clone() for param in params]
        record += [optimizer.state[param]["speed"].clone() for param in params]
        if step == 2:
            change(optimizer, params)
    assert engines(optimizer) == ("kernel" if foreach is None else "eager")
    return record


def replace(optimizer, params):
    optimizer.state[params[0]]["speed"] = torch.tensor(0.25)


def fill(optimizer, params):
    optimizer.state[params[0]]["speed"].fill_(0.25)


def delete(optimizer, params):
    del optimizer.state[params[1]]["speed"]


@pytest.mark.parametrize("change", [lambda *_: None, replace, fill, delete])
def test_numbers_among_the_slots(change):
    """They follow the rule, whatever is done to them, as in the eager engine."""
    torch.testing.assert_close(number_run(None, change), number_run(False, change))


def test_a_number_may_be_nan():
    """A number that is no number equals nothing, and is still right."""
    results = []
    for foreach in (None, False):
        param = parameter([1.0], [1.0])
        optimizer = Numbered([param], lr=0.5, foreach=foreach)
        optimizer.step()
        optimizer.state[param]["speed"].fill_(float("nan"))
        optimizer.step()
        optimizer.step()
        results.append([param.detach(), optimizer.state[param]["speed"]])
    torch.testing.assert_close(*results, equal_nan=True)
    assert results[0][0].isnan()


def test_a_number_may_overflow():
    """Beyond float32 it is infinite, as in a tensor."""

    def rule(param, grad, speed):
        return param + 0 * grad, speed * 1e30

    param = parameter([1.0], [1.0])
    slots = {"speed": Slot(lambda param, group: 1e30, number=True)}
    optimizer = probe(rule, slots)([param])
    for _ in range(2):
        optimizer.step()
        assert optimizer.state[param]["speed"] == torch.inf
    assert param.item() == 1.0
