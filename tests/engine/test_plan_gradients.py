"""Gradients that come, go, move and change between steps: those of now are used."""

import warnings

import pytest
import torch

import polyak

from .support import Run, compared, engines, parameter, three


@compared()
def test_gradients_appear_and_vanish(run):
    """Parameters without gradient are left out, state included, and taken up again."""
    for missing in ([0], [0, 1], [], [1], [], [2]):
        run.gradients()
        for index in missing:
            run.params[index].grad = None
        run.step(gradients=False)


@compared()
def test_no_gradients_at_all(run):
    """A step without any gradient changes nothing, before others and after them."""
    for engine in ("", "kernel"):  # which has nothing to do, but knows the state
        run.optimizer.zero_grad()
        run.step(engine, gradients=False)
        run.step()


@compared()
def test_gradients_of_backward_move(run):
    """After zero_grad(set_to_none=True) autograd puts gradients elsewhere."""
    kept = []
    for _ in range(5):
        run.optimizer.zero_grad(set_to_none=True)
        loss = sum((param - 1).square().sum() for param in run.params)
        loss.backward()
        run.step(gradients=False)
        kept.append([param.grad for param in run.params])  # their memory is not reused


@compared()
def test_gradients_accumulate_in_place(run):
    """zero_grad(set_to_none=False) and in-place changes keep the memory."""
    run.step()
    for _ in range(3):
        run.optimizer.zero_grad(set_to_none=False)
        for param in run.params:
            param.grad += 0.5
        run.step(gradients=False)
        for param in run.params:
            param.grad.mul_(-2)
        run.step(gradients=False)


@compared()
def test_gradient_changes_its_strides(run):
    """A gradient laid out otherwise than the parameter is read as it lies."""
    matrix = run.params[0]
    for engine in ("kernel", "kernel and eager", "kernel and eager", "kernel"):
        run.gradients()
        if "eager" in engine:
            matrix.grad = matrix.grad.t().contiguous().t()
        run.step(engine, gradients=False)


@compared()
def test_gradient_is_expanded(run):
    """A gradient may repeat one number, as that of sum() does."""
    for value in (1.0, -2.0):
        run.gradients()
        run.params[0].grad = torch.tensor(value).expand(4, 3)
        run.params[1].grad = torch.tensor([value]).expand(7)
        run.step("kernel and eager", gradients=False)
        run.step()


@compared()
def test_gradients_are_views_of_a_buffer(run):
    """Communication buffers hold all gradients side by side."""
    run.step()
    for offset in (0, 1, 5):
        buffer = torch.linspace(-1, 1, 20 + offset)
        for param, start in zip(run.params, (0, 12, 19), strict=True):
            view = buffer[offset + start : offset + start + param.numel()]
            param.grad = view.view(param.shape)
        run.step(gradients=False)


@compared()
def test_gradient_has_gaps(run):
    """A gradient may be a slice of a larger tensor."""
    run.step()
    run.gradients()
    run.params[0].grad = torch.linspace(0, 1, 48).view(8, 6)[::2, ::2]
    run.step("kernel and eager", gradients=False)
    run.step()


@compared()
def test_gradient_is_shared(run):
    """Two parameters may have one gradient tensor."""
    run.step()
    run.params[0].grad = torch.ones(4, 3)
    run.params[2].grad = run.params[0].grad[1, 1]
    run.step(gradients=False)


@compared()
def test_gradient_is_the_parameter(run):
    """p.grad = p.data: what was before the step is meant, not what is half written."""
    for index in (1, 0):
        run.gradients()
        run.params[index].grad = run.params[index].data
        run.step("kernel and eager", gradients=False)
    run.step()


@compared()
def test_gradient_becomes_the_parameter(run):
    """The same, where a kernel ran before."""
    run.steps()
    run.gradients()
    run.params[1].grad = run.params[1].data
    run.step("kernel and eager", gradients=False)
    run.step()


@compared(references=["eager"])
def test_gradient_overlaps_the_parameter(run):
    """A gradient that begins within the parameter's memory."""
    memory = torch.linspace(-1, 1, 10)
    run.params[1].data = memory[:7]
    run.step()
    run.gradients()
    run.params[1].grad = memory[3:]
    run.step("kernel and eager", gradients=False)
    run.step()


@compared()
def test_gradient_is_the_state(run):
    """p.grad = state[p]["exp_avg"] is read before it is written."""
    run.steps()
    run.gradients()
    run.params[0].grad = run.state()[run.slot]
    run.step("kernel and eager", gradients=False)
    run.step()


@compared()
def test_gradient_requires_a_gradient(run):
    """backward(create_graph=True) leaves gradients that are part of a graph."""
    for _ in range(2):
        run.optimizer.zero_grad()
        loss = sum((param**3).sum() for param in run.params)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*create_graph", UserWarning)
            loss.backward(create_graph=True)
        assert run.params[0].grad.requires_grad
        run.step(gradients=False)


def complex_pair():
    generator = torch.Generator().manual_seed(0)
    make = {"dtype": torch.complex64, "generator": generator}
    return [torch.randn(size, **make).requires_grad_() for size in (5, 6)]


def complex_gradients(run, lazily):
    run.count += 1
    generator = torch.Generator().manual_seed(run.count)
    for param in run.params:
        gradient = torch.randn(param.shape, dtype=param.dtype, generator=generator)
        param.grad = gradient.conj() if lazily else gradient.conj().resolve_conj()


@compared(params=complex_pair)
def test_gradient_is_lazily_conjugated(run):
    """A conjugated view has the memory of what it conjugates."""
    for lazily in (False, True, True, False):
        complex_gradients(run, lazily)
        run.step("eager" if lazily else "kernel", gradients=False)


@compared()
def test_gradient_is_lazily_negated(run):
    """The imaginary part of a conjugated view is negated when read."""
    for lazily in (False, True, False):
        run.gradients()
        if lazily:
            for param in run.params:
                param.grad = torch._neg_view(param.grad)
        run.step("eager" if lazily else "kernel", gradients=False)


@compared()
def test_gradient_is_a_part_of_complex_numbers(run):
    """x.imag of a conjugated tensor: negated, with gaps."""
    run.step()
    run.gradients()
    numbers = torch.complex(torch.linspace(0, 1, 7), torch.linspace(-1, 1, 7))
    run.params[1].grad = numbers.conj().imag
    run.step("kernel and eager", gradients=False)


@compared(references=["eager"])
def test_gradient_changes_its_dtype(run):
    """With ``grad_dtype`` gradients may be wider than parameters."""
    for param in run.params:
        param.grad_dtype = None
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float32):
        run.gradients()
        for param in run.params:
            param.grad = param.grad.to(dtype)
        run.step(gradients=False)


def test_a_real_gradient_of_a_complex_parameter_is_not_read_as_complex():
    """It holds half as many numbers."""
    param = torch.ones(4, dtype=torch.complex64, requires_grad=True)
    param.grad_dtype = None
    param.grad = torch.ones(4)
    optimizer = polyak.SGD([param], lr=0.5)
    try:
        optimizer.step()
    except RuntimeError:
        assert param.tolist() == [1] * 4
    else:
        assert param.tolist() == [0.5] * 4


def sparse(values, rows, size):
    return torch.sparse_coo_tensor([rows], values, size, check_invariants=True)


@compared("SGD", momentum=0.0, weight_decay=0.0)
def test_gradients_become_sparse_and_dense(run):
    """An embedding's gradient may be sparse in one step and dense in the next."""
    for rows in (None, [0, 2], [1, 1], None, [3]):
        run.gradients()
        if rows is not None:
            matrix = run.params[0]
            matrix.grad = sparse(matrix.grad[: len(rows)], rows, (4, 3))
        run.step("kernel" if rows is None else "kernel and eager", gradients=False)


@compared("Adam")
def test_a_sparse_gradient_is_refused_at_any_step(run):
    """The refusal changes nothing, and the next step works."""
    for _ in range(2):
        run.gradients()
        dense = run.params[0].grad
        run.params[0].grad = dense.to_sparse()
        with pytest.raises(RuntimeError, match="does not support sparse"):
            run.optimizer.step()
        run.params[0].grad = dense
        run.step(gradients=False)


@compared("SGD", params=lambda: [parameter(torch.ones(0)), parameter(torch.ones(3))])
def test_gradient_is_empty(run):
    """Nothing is done with nothing."""
    run.steps(3)


@compared()
def test_gradient_without_memory_is_zero(run):
    """torch's zero tensors have no data at all."""
    for engine in ("kernel and eager", "kernel", "kernel and eager"):
        run.gradients()
        if "eager" in engine:
            run.params[0].grad = torch._efficientzerotensor((4, 3))
        run.step(engine, gradients=False)


@compared(references=["eager"])
def test_gradient_is_of_a_wrapper_subclass(run):
    """A subclass with tensors inside has no memory of its own."""
    two_tensor = pytest.importorskip("torch.testing._internal.two_tensor")
    for engine in ("kernel", "kernel and eager", "kernel"):
        run.gradients()
        if "eager" in engine:
            grad = run.params[0].grad
            run.params[0].grad = two_tensor.TwoTensor(grad, grad.clone())
        run.step(engine, gradients=False)


class Plain(torch.Tensor):
    """A subclass that changes nothing."""


@compared()
def test_gradient_is_of_a_plain_subclass(run):
    """A subclass whose memory is a tensor's, at the first step and at a later one."""
    for wrapped in (True, False, True):
        run.gradients()
        for param in run.params:
            param.grad = param.grad.as_subclass(Plain) if wrapped else param.grad
        run.optimizer.step()
        run.record.append([param.detach().clone() for param in run.params])


@compared()
def test_gradient_was_made_in_inference_mode(run):
    """Such tensors can be read like any other."""
    for inside in (True, False, True):
        with torch.inference_mode(inside):
            run.gradients()
        run.optimizer.step()
        run.record.append([param.detach().clone() for param in run.params])


@compared(params=lambda: [torch.ones(3), torch.ones(2)])
def test_gradient_of_what_requires_none(run):
    """A tensor that requires no gradient may be given one."""
    run.steps(3)
    assert not run.params[0].requires_grad


@compared()
def test_the_closure_makes_the_gradients(run):
    """The gradients of a step are those after its closure."""

    def closure():
        run.optimizer.zero_grad()
        loss = sum((param - 2).square().sum() for param in run.params)
        loss.backward()
        return loss

    losses = []
    for _ in range(3):
        losses.append(run.optimizer.step(closure).detach())
        run.record.append(
            [losses[-1], *(param.detach().clone() for param in run.params)]
        )
    assert losses[0] > losses[1] > losses[2]


def test_steps_within_backward():
    """Each parameter is stepped, and its gradient freed, as soon as it has one."""
    results = []
    for within in (True, False):
        params = three()
        optimizers = {param: polyak.Adam([param], lr=0.1) for param in params}

        def finish(param, optimizers=optimizers):
            optimizers[param].step()
            param.grad = None

        if within:
            for param in params:
                param.register_post_accumulate_grad_hook(finish)
        for _ in range(3):
            sum((param**3).sum() for param in params).backward()
            if not within:
                for param in params:
                    finish(param)
        assert {engines(optimizer) for optimizer in optimizers.values()} == {"kernel"}
        results.append([param.detach() for param in params])
    torch.testing.assert_close(*results, rtol=0, atol=0)


@compared("SGD")
def test_two_optimizers_of_the_same_parameters(run):
    """Each finds what the other left."""
    other = run.new_optimizer(run.params[:2])
    other.param_groups[0]["momentum"] = 0.1
    for _ in range(3):
        run.step()
        other.step()


def test_an_error_in_the_closure_changes_nothing():
    """The step has not begun."""
    run = Run("kernel", "Adam", three(), {"lr": 0.1})
    run.steps()
    before = run.record[-1]

    def closure():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run.optimizer.step(closure)
    run.optimizer.zero_grad()
    run.step(gradients=False)
    torch.testing.assert_close(run.record[-1], before, rtol=0, atol=0)
    run.step()
    assert engines(run.optimizer) == "kernel"
