"""State tensors that are exchanged, moved and changed between steps."""

import pytest
import torch

import polyak

from .support import Run, compared, parameter, three


def other_values(tensor):
    return torch.linspace(0.5, 1.5, tensor.numel()).view(tensor.shape)


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
