"""Parameters that are exchanged, moved and changed between steps, and odd ones."""

import warnings

import pytest
import torch
from torch import nn

import polyak

from .support import Run, compared, engines, parameter, probe, three, why_eager


def new_values(param, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(param.shape, generator=generator).to(param.dtype)


# Other memory


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


# Other parameters in the groups


@compared()
def test_a_parameter_is_replaced(run):
    """group["params"][i] = p: the new one has a state of its own."""
    run.steps()
    run.params[1] = run.groups[0]["params"][1] = torch.ones(7, requires_grad=True)
    run.steps()
    assert float(run.state(1).get("step", 2)) == 2


@compared()
def test_a_parameter_is_replaced_by_a_larger_one(run):
    """Nothing of the old one's size is kept."""
    run.steps()
    run.params[1] = run.groups[0]["params"][1] = torch.ones(70, requires_grad=True)
    run.steps()


@compared()
def test_the_list_is_another_one(run):
    """group["params"] = [...]: as long, longer, shorter, and in another order."""
    run.steps()
    a, b, c = run.params
    d = torch.ones(5, requires_grad=True)
    for params in ([a, d, c], [a, b, c, d], [c, a], [a, c], [a, b, c]):
        run.groups[0]["params"] = params
        run.params = [*params, *(p for p in (a, b, c, d) if p not in set(params))]
        run.steps()


@compared()
def test_the_list_is_changed_in_place(run):
    """append, pop, insert, reverse."""
    run.steps()
    params = run.groups[0]["params"]
    params.append(torch.ones(5, requires_grad=True))
    run.params.append(params[-1])
    run.steps()
    params.insert(0, params.pop())
    run.steps()
    params.reverse()
    run.steps()
    params.pop()
    run.steps()
    params.clear()
    run.step("")


@compared()
def test_a_parameter_moves_to_another_group(run):
    """It gets that group's hyperparameters and keeps its state."""
    extra = torch.ones(3, requires_grad=True)
    run.optimizer.add_param_group({"params": [extra], "lr": 0.01})
    run.params.append(extra)
    run.steps()
    first, second = (group["params"] for group in run.groups)
    second.insert(0, first.pop())  # the order of all parameters is as before
    run.steps()
    second.append(first.pop(0))
    run.steps()


@compared()
def test_groups_are_added(run):
    """Unfreezing layers in the middle of training."""
    run.steps()
    for lr in (0.5, 0.1):
        param = torch.ones(7, requires_grad=True)
        run.optimizer.add_param_group({"params": [param], "lr": lr})
        run.params.append(param)
        run.steps()
    if run.engine == "kernel":
        assert len(run.optimizer._plan.buckets) == 1


@compared()
def test_groups_are_removed_and_reordered(run):
    """param_groups is a list, and may be changed and replaced like one."""
    for lr in (0.5, 0.01):
        run.params.append(torch.ones(7, requires_grad=True))
        run.optimizer.add_param_group({"params": [run.params[-1]], "lr": lr})
    run.steps()
    run.groups.reverse()
    run.steps()
    run.groups[0], run.groups[1] = run.groups[1], run.groups[0]
    run.steps()
    run.groups.pop()
    run.steps()
    run.optimizer.param_groups = [dict(group) for group in run.groups[::-1]]
    run.steps()


@compared()
def test_groups_exchange_their_parameters(run):
    """Lists of one length."""
    run.params.append(torch.ones(3, requires_grad=True))
    run.optimizer.add_param_group({"params": [run.params[-1]] * 1, "lr": 0.5})
    run.groups[0]["params"] = run.params[:1]
    run.steps()
    first, second = run.groups
    first["params"], second["params"] = second["params"], first["params"]
    run.steps()
    first["lr"], second["lr"] = second["lr"], first["lr"]
    run.steps()


# Odd parameters


def views():
    memory = torch.linspace(-1, 1, 12)
    return [memory[:8].requires_grad_(), memory[4:].detach().requires_grad_()]


@compared(params=views, references=["eager", "torch"])
def test_overlapping_parameters(run):
    """Views of one storage are updated one after the other."""
    run.steps(3, "eager")


@compared()
def test_parameters_begin_to_overlap(run):
    """The same, where kernels ran before."""
    run.steps()
    run.params[1].data = run.params[0].data.view(-1)[2:9]
    run.steps(2, "kernel and eager")
    run.params[1].data = run.params[1].data.clone()
    run.steps(2, None)


@compared()
def test_parameters_begin_to_share_all_memory(run):
    """Tied weights that are two parameters."""
    run.params[1].data = torch.ones(12)
    run.steps()
    run.params[1].data = run.params[0].data.view(-1)
    run.steps(2, "kernel and eager")


def test_a_parameter_listed_twice_is_updated_once():
    """As the warning says."""
    once, twice = parameter([1.0, 2.0], [1.0, 1.0]), parameter([1.0, 2.0], [1.0, 1.0])
    alone = polyak.Adam([once], lr=0.1)
    with pytest.warns(UserWarning, match="duplicate"):
        optimizer = polyak.Adam([twice, twice], lr=0.1)
    for _ in range(3):
        alone.step()
        optimizer.step()
    assert torch.equal(once, twice)
    assert engines(optimizer) == "kernel"


def test_an_expanded_parameter_is_an_error():
    """All its numbers are one: torch's error."""
    param = torch.ones(1).expand(5).requires_grad_()
    param.grad = torch.ones(5)
    with pytest.raises(RuntimeError, match="single memory location"):
        polyak.SGD([param], lr=0.1).step()


def shapes():
    made = [torch.tensor(1.0), torch.ones(0), torch.ones(0, 3), torch.ones(1, 1, 1)]
    made += [torch.ones(1, 5)[:, 2:3], torch.ones(3, 1, 2).transpose(0, 1)]
    return [tensor.requires_grad_() for tensor in made]


@compared(params=shapes)
def test_small_shapes(run):
    """0-d, empty, and ones in every direction."""
    run.steps(3)


@compared(params=lambda: [torch.ones(0, requires_grad=True)] * 1)
def test_only_empty_parameters(run):
    """Steps are counted, nothing else happens."""
    run.steps(3)


def gaps():
    square = torch.linspace(-1, 1, 48).view(8, 6)
    made = [square[::2, ::2], square.clone().t(), square.clone()[:, :3], square[1, ::3]]
    return [tensor.detach().requires_grad_() for tensor in (*made, *three())]


@compared(params=gaps)
def test_parameters_with_gaps(run):
    """What is not dense runs eagerly; what lies between is left alone."""
    square = run.params[0]._base
    run.steps(3, "kernel and eager")
    assert square is None or square[1, 1] == torch.linspace(-1, 1, 48)[7]


def test_memory_in_the_gaps_is_left_alone():
    """Neither engine writes between the numbers of a parameter."""
    frame = torch.zeros(6, 8)
    param = frame[1::2, 2:6:2].requires_grad_()
    param.grad = torch.ones(3, 2)
    optimizer = polyak.SGD([param], lr=1.0)
    optimizer.step()
    assert frame.sum() == -6
    assert why_eager(optimizer)


@compared(params=lambda: [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))])
def test_nn_parameters(run):
    """What modules hold."""
    run.steps()


class Plain(torch.Tensor):
    """A subclass that changes nothing."""


class Marked(nn.Parameter):
    """A subclass of Parameter."""


def subclasses():
    plain = torch.ones(3).as_subclass(Plain).requires_grad_()
    return [plain, Marked(torch.ones(2, 2)), *three()]


@compared(params=subclasses)
def test_tensor_subclasses(run):
    """They run eagerly: only Python knows what they do."""
    run.steps(2, "kernel and eager")
    assert type(run.params[0]) is Plain
    if run.engine == "kernel":
        assert len(why_eager(run.optimizer)) == 2
        assert "tensor subclass" in why_eager(run.optimizer)[0]


def test_inference_tensors():
    """A parameter made in inference mode can be stepped there, as in torch."""
    for kind in (polyak.SGD, torch.optim.SGD):
        with torch.inference_mode():
            param = torch.ones(3)
            param.grad = torch.ones(3)
            optimizer = kind([param], lr=0.1, momentum=0.9)
            optimizer.step()
            optimizer.step()
            torch.testing.assert_close(param, torch.full((3,), 1 - 0.1 - 0.19))


def test_a_step_in_inference_mode_of_ordinary_parameters():
    """The result is the same, in every step."""
    results = []
    for inside in (False, True):
        param = parameter([1.0, 2.0], [1.0, -1.0])
        optimizer = polyak.Adam([param], lr=0.1)
        optimizer.step()
        with torch.inference_mode(inside):
            optimizer.step()
        optimizer.step()
        results.append(param.detach().clone())
    assert torch.equal(*results)


def test_meta_tensors_run_eagerly():
    """A parameter without data, beside one with data."""
    meta = torch.ones(3, device="meta").requires_grad_()
    meta.grad = torch.ones(3, device="meta")
    param, twin = parameter([1.0], [1.0]), parameter([1.0], [1.0])
    optimizer, alone = polyak.Adam([meta, param]), polyak.Adam([twin])
    for _ in range(3):
        optimizer.step()
        alone.step()
    assert engines(optimizer) == "kernel and eager"
    assert "meta" in why_eager(optimizer)[0]
    assert torch.equal(param, twin)


@pytest.mark.parametrize("layout", ["sparse", "mkldnn"])
def test_other_layouts_do_not_crash(layout):
    """Tensors that are not strided are for the eager engine, which may refuse them."""
    param = torch.ones(3, 4)
    param = param.to_sparse() if layout == "sparse" else param.to_mkldnn()
    param.requires_grad_()
    param.grad = param.detach().clone()
    optimizer = polyak.SGD([param], lr=0.1)
    try:
        optimizer.step()
    except (RuntimeError, NotImplementedError):
        return
    assert engines(optimizer) == "eager"


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.int32, torch.bool, torch.complex32], ids=str
)
@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_dtypes_without_kernels_do_not_crash(dtype):
    """They are for the eager engine, which may refuse them with torch's error."""
    param = torch.ones(3).to(dtype)
    param.grad = torch.ones(3).to(dtype)
    optimizer = polyak.SGD([param], lr=0.5)
    try:
        optimizer.step()
    except (RuntimeError, NotImplementedError, TypeError):
        return
    assert engines(optimizer) == "eager"


def test_many_kinds_at_once():
    """Each dtype has its bucket; what has none runs eagerly; all are right."""
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.complex64]
    params = [parameter(torch.ones(5), torch.ones(5), dtype) for dtype in dtypes * 2]
    params += [parameter(torch.ones(4, 4), torch.ones(4, 4))[::2, ::2].detach()]
    params[-1].grad = torch.ones(2, 2)
    optimizer = polyak.SGD(params, lr=0.5)
    optimizer.step()
    optimizer.step()
    assert len(optimizer._plan.buckets) == 4
    assert len(optimizer._plan.eager) == 1
    assert all((param == 0).all() for param in params)


def test_a_device_that_changes_makes_another_plan():
    """A parameter that becomes meta is not written through its old memory."""

    def rule(param, grad, *, lr):
        return param - lr * grad

    param = parameter([1.0, 2.0], [1.0, 1.0])
    optimizer = probe(rule)([param], lr=0.5)
    optimizer.step()
    other = torch.ones(2, device="meta").requires_grad_()
    torch.utils.swap_tensors(param, other)
    param.grad = torch.ones(2, device="meta")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer.step()
    assert engines(optimizer) == "eager"
    assert other.tolist() == [0.5, 1.5]
