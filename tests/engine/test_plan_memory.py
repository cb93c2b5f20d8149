"""Parameters whose memory is another one, or lies otherwise, between steps."""

import pytest
import torch

from .support import Run, compared, three


def new_values(param, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(param.shape, generator=generator).to(param.dtype)


@compared()
def test_data_is_other_memory(run):
    """p.data = t: the step writes where the parameter is now."""
    run.steps()
    old = run.params[0].data
    before = old.clone()
    run.params[0].data = new_values(run.params[0])
    run.steps()
    assert torch.equal(old, before)


@compared()
def test_data_is_exchanged(run):
    """Two parameters of one shape may exchange their memory."""
    run.steps()
    run.params[1].data, kept = new_values(run.params[1], 1), run.params[1].data
    run.step()
    run.params[1].data, kept = kept, run.params[1].data
    run.steps()


@compared()
def test_data_has_other_strides(run):
    """The state keeps its layout: the parameter runs eagerly, and rightly."""
    run.steps()
    matrix = run.params[0]
    matrix.data = matrix.data.t().contiguous().t()
    run.steps(2, "kernel and eager")
    matrix.data = matrix.data.contiguous()
    run.steps()


def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 4, 5, generator=generator).requires_grad_(), *three()]


@compared(params=images)
def test_channels_last(run):
    """model.to(memory_format=torch.channels_last) in the middle of training."""
    run.steps()
    image = run.params[0]
    image.data = image.data.to(memory_format=torch.channels_last)
    for layout in ("gradients too", "only the parameter", "gradients too"):
        run.gradients()
        if layout == "gradients too":
            image.grad = image.grad.to(memory_format=torch.channels_last)
        run.step("kernel and eager", gradients=False)


@compared(params=images)
def test_channels_last_from_the_start(run):
    """State is laid out like the parameter: any dense order is as good as another."""
    image = run.params[0]
    image.data = image.data.to(memory_format=torch.channels_last)
    for _ in range(3):
        run.gradients()
        image.grad = image.grad.to(memory_format=torch.channels_last)
        run.step(gradients=False)


@compared()
def test_data_of_another_shape_before_the_first_step(run):
    """Lazy modules get their shape after the optimizer was made."""
    run.params[1].data = torch.ones(2, 5)
    run.steps()
    assert run.state(1)[run.slot].shape == (2, 5)


@compared()
def test_data_of_another_dtype_before_the_first_step(run):
    """model.double() after the optimizer was made."""
    for param in run.params:
        param.data = param.data.double()
    run.steps()
    assert run.state()[run.slot].dtype is torch.float64


@compared(references=["eager"])
def test_data_of_another_dtype_later(run):
    """model.double(), model.bfloat16() in training: the state keeps its dtype."""
    run.steps()
    for dtype in (torch.float64, torch.bfloat16, torch.float32):
        for param in run.params:
            param.grad = None
            param.data = torch.linspace(-1, 1, param.numel(), dtype=dtype).view(
                param.shape
            )
        run.step()
        run.record[-1] = [value.float() for value in run.record[-1] if value.dim()]
        if dtype is torch.bfloat16:
            run.record.pop()  # may be rounded to the other neighbour
        assert run.state()[run.slot].dtype is torch.float32


@pytest.mark.parametrize("engine", ["kernel", "eager"])
def test_data_of_another_shape_later_is_an_error(engine):
    """The state does not fit: nothing is written beyond it."""
    run = Run(engine, "Adam", three(), {"lr": 0.1})
    run.steps()
    slots = [tensor.clone() for tensor in run.state(1).values()]
    run.params[1].data = torch.ones(20)
    with pytest.raises(RuntimeError, match="size"):
        run.step()
    assert all(map(torch.equal, list(run.state(1).values())[1:], slots[1:]))


@compared()
def test_swapped_tensors(run):
    """torch.utils.swap_tensors exchanges what two Python objects stand for."""
    run.steps()
    other = new_values(run.params[0]).requires_grad_()
    torch.utils.swap_tensors(run.params[0], other)
    run.steps()


@compared()
def test_swapped_slots(run):
    """The same, for a state tensor."""
    run.steps()
    other = new_values(run.params[0])
    torch.utils.swap_tensors(run.state()[run.slot], other)
    run.steps()


@compared()
def test_set(run):
    """p.data.set_() gives the tensor another storage."""
    run.steps()
    with torch.no_grad():
        run.params[0].set_(new_values(run.params[0]))
    run.steps()


@compared()
def test_shared_memory(run):
    """share_memory_() moves parameters."""
    run.steps()
    for param in run.params:
        param.data.share_memory_()
    run.steps()


@compared()
def test_in_place_changes(run):
    """load_state_dict of a model copies into its parameters."""
    run.steps()
    with torch.no_grad():
        for param in run.params:
            param.mul_(-2)
    run.steps()


@compared()
def test_flat_parameters(run):
    """Parameters may be slices of one tensor, side by side."""
    flat = torch.linspace(-1, 1, 20)
    for param, start in zip(run.params, (0, 12, 19), strict=True):
        param.data = flat[start : start + param.numel()].view(param.shape)
    run.steps()
    assert torch.equal(run.params[1].detach(), flat[12:19])


# Lazy views as parameters


def complex_pair():
    generator = torch.Generator().manual_seed(0)
    make = {"dtype": torch.complex64, "generator": generator}
    return [torch.randn(size, **make).requires_grad_() for size in (5, 6)]


def conjugate_between_steps(run):
    gradients = [param.detach().clone() for param in run.params]
    for conjugated in (False, True, False):
        for param, gradient in zip(run.params, gradients, strict=True):
            if conjugated:
                param.data = param.data.conj()
            param.grad = gradient
        run.optimizer.step()
        run.record.append(
            [param.detach().resolve_conj().clone() for param in run.params]
        )


@compared("SGD", params=complex_pair)
def test_data_is_lazily_conjugated(run):
    """The conjugate of the parameter's own memory is another parameter."""
    conjugate_between_steps(run)


@compared("Adam", params=complex_pair, references=["eager"])
def test_data_is_lazily_conjugated_where_torch_refuses(run):
    """torch's Adam cannot view such a parameter as real numbers."""
    conjugate_between_steps(run)


@compared()
def test_data_is_lazily_negated(run):
    """The same for a negated view."""
    run.step()
    for param in run.params:
        param.data = torch._neg_view(param.data)
    for _ in range(2):
        run.gradients()
        run.optimizer.step()
        run.record.append(
            [param.detach().resolve_neg().clone() for param in run.params]
        )
