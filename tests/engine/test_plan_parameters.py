"""Odd parameters: overlapping, empty, with gaps, of other classes and devices."""

import warnings

import pytest
import torch
from torch import nn

import polyak

from .support import compared, engines, parameter, probe, three, why_eager


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
    run.steps()


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


def in_order(param):
    param.data = param.data.contiguous()


def on_the_cpu(param):
    torch.utils.swap_tensors(param, torch.ones(3, 4).requires_grad_())


@pytest.mark.parametrize(
    ("data", "change"),
    [
        (torch.ones(4, 3).t(), in_order),
        (torch.ones(6, 4)[::2], in_order),
        (torch.ones(3, 4, device="meta"), on_the_cpu),
    ],
    ids=["transposed", "sliced", "meta"],
)
def test_a_reason_to_run_eagerly_may_pass(data, change):
    """The same object can become another tensor, for which there is a kernel."""

    def rule(param, grad, *, lr):
        return param - lr * (grad - grad.mean(-1, keepdim=True))

    param = data.requires_grad_()
    optimizer = probe(rule)([param], lr=0.5)
    for due in ("eager", "eager", "kernel"):
        if due == "kernel":
            plan = optimizer._plan
            param.grad = None
            change(param)
        param.grad = torch.ones_like(param)
        optimizer.step()
        assert engines(optimizer) == due
    assert optimizer._plan is not plan
    assert torch.allclose(param, torch.ones_like(param))


@pytest.mark.parametrize("options", [{}, {"foreach": False}], ids=str)
def test_a_plan_of_the_eager_engine_is_kept(options):
    """While nothing about its tensors is another."""
    param = torch.ones(6, 4)[::2].requires_grad_()
    optimizer = polyak.Adam([param], **options)
    plans = set()
    for step in range(3):
        param.grad = torch.full((3, 4), float(step))
        optimizer.step()
        plans.add(id(optimizer._plan))
    assert len(plans) == 1


def test_a_slot_that_is_put_in_order():
    """The state may be the reason as well."""
    param = torch.ones(3, 4).requires_grad_()
    param.grad = torch.ones(3, 4)
    optimizer = polyak.SGD([param], momentum=0.9)
    optimizer.init_state()
    optimizer.step()
    buffer = optimizer.state[param]["momentum_buffer"]
    buffer.data = buffer.data.t().contiguous().t()
    optimizer.step()
    assert engines(optimizer) == "eager"
    buffer.data = buffer.data.contiguous()
    optimizer.step()
    assert engines(optimizer) == "kernel"
