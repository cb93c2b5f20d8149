"""The native look at tensors: it accepts what holds, and reports each change."""

import ctypes
import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import polyak
from polyak.engine import torch_abi
from polyak.engine.table import NONE
from polyak.engine.walk import HOLDS, PART, walk

from .support import engines, parameter, three


def prepared(kind="Adam", count=5):
    """An optimizer, its parameters, and its only bucket, ready to be checked."""
    params = [parameter(torch.ones(4, 3), torch.ones(4, 3)) for _ in range(count)]
    optimizer = getattr(polyak, kind)(params, lr=0.1)
    optimizer.step()
    (bucket,) = optimizer._plan.buckets
    return optimizer, params, bucket


def answer(bucket):
    """What the native check says: -1 (``HOLDS``), or the column that changed."""
    return walk().check(bucket.table.address)


# Reports


def grad_dtype(param, state):
    param.grad_dtype = None
    param.grad = torch.ones(4, 3, dtype=torch.float64)


def grad_strides(param, state):
    param.grad = torch.ones(3, 4).t()


def grad_expanded(param, state):
    param.grad = torch.ones(1).expand(4, 3)


def grad_negated(param, state):
    param.grad = torch._neg_view(param.grad)


def grad_sparse(param, state):
    param.grad = torch.ones(4, 3).to_sparse()


def grad_without_memory(param, state):
    param.grad = torch._efficientzerotensor((4, 3))


def grad_is_param(param, state):
    param.grad = param.data


def grad_is_slot(param, state):
    param.grad = state["exp_avg_sq"]


def grad_begins_in_slot(param, state):
    memory = torch.ones(24)
    state["exp_avg_sq"].data = memory[:12].view(4, 3)
    param.grad = memory[11:23].view(4, 3)


def grad_ends_in_param(param, state):
    memory = torch.ones(24)
    param.data = memory[11:23].view(4, 3)
    param.grad = memory[:12].view(4, 3)


def param_pointer(param, state):
    param.data = torch.ones(4, 3)


def param_shape(param, state):
    param.grad = None
    param.data = torch.ones(3, 4)
    param.grad = torch.ones(3, 4)


def param_dimensions(param, state):
    param.grad = None
    param.data = torch.ones(12)
    param.grad = torch.ones(12)


def param_strides(param, state):
    param.data = param.data.view(3, 4).t()


def param_dtype(param, state):
    param.grad = None
    param.data = torch.ones(4, 3, dtype=torch.float64)
    param.grad = torch.ones(4, 3, dtype=torch.float64)


def param_negated(param, state):
    param.data = torch._neg_view(param.data)


def param_swapped(param, state):
    torch.utils.swap_tensors(param, parameter(torch.ones(4, 3), torch.ones(4, 3)))


def param_on_meta(param, state):
    other = torch.ones(4, 3, device="meta", requires_grad=True)
    other.grad = torch.ones(4, 3, device="meta")
    torch.utils.swap_tensors(param, other)


def param_is_freed(param, state):
    param.data.untyped_storage().resize_(0)


def slot_pointer(param, state):
    state["exp_avg"].data = torch.zeros(4, 3)


def slot_shape(param, state):
    state["exp_avg"].data = state["exp_avg"].data.view(12)


def slot_strides(param, state):
    state["exp_avg_sq"].data = state["exp_avg_sq"].data.view(3, 4).t()


def slot_dtype(param, state):
    state["exp_avg"].data = torch.zeros(4, 3, dtype=torch.float64)


def slot_storage(param, state):
    state["exp_avg"].set_(torch.zeros(4, 3))


def slot_resized(param, state):
    state["exp_avg"].resize_(100)


def step_value(param, state):
    state["step"].fill_(7.0)


def step_nan(param, state):
    state["step"].fill_(float("nan"))


def step_dtype(param, state):
    state["step"].data = state["step"].data.double()


def step_shape(param, state):
    state["step"].data = torch.ones(2)


def slot_without_storage(param, state):
    torch.utils.swap_tensors(state["exp_avg"], torch.ones(4, 3).to_sparse())


REPORTED = [grad_dtype, grad_strides, grad_expanded, grad_negated]
REPORTED += [grad_sparse, grad_without_memory, grad_is_param, grad_is_slot]
REPORTED += [grad_begins_in_slot, grad_ends_in_param]
REPORTED += [param_pointer, param_shape, param_dimensions, param_strides, param_dtype]
REPORTED += [param_negated, param_swapped, param_on_meta, param_is_freed]
REPORTED += [slot_pointer, slot_shape, slot_strides, slot_dtype, slot_storage]
REPORTED += [
    slot_resized,
    slot_without_storage,
    step_value,
    step_nan,
    step_dtype,
    step_shape,
]


@pytest.mark.parametrize("column", [0, 2, 4])
@pytest.mark.parametrize("change", REPORTED, ids=lambda change: change.__name__)
def test_a_change_is_reported(change, column):
    """The answer is the first column that is no longer what the table was made for."""
    optimizer, params, bucket = prepared()
    assert answer(bucket) == -1
    change(params[column], optimizer.state[params[column]])
    assert answer(bucket) == column
    assert not bucket.holds()


def test_the_first_change_is_reported():
    """Of several, the one with the lowest column."""
    _, params, bucket = prepared()
    for column, first in ((4, 4), (1, 1), (3, 1)):
        params[column].grad = torch.ones(3, 4).t()
        assert answer(bucket) == first


def test_tensors_without_gradient_are_left_out():
    """The table holds; where steps are counted, these part from the others."""
    for kind, due in (("Adam", PART), ("SGD", HOLDS)):
        _, params, bucket = prepared(kind)
        for param in params[1:3]:
            param.grad = None
        assert answer(bucket) == due
        assert bucket.holds()
        assert bucket.table.get("waiting") == 2
        found = bucket.table.arrays["pointers"][-1]
        assert (found == NONE).tolist() == [False, True, True, False, False]
        params[4].grad = torch.ones(3, 4).t()
        assert answer(bucket) == 4


def test_buckets_with_leaves_leave_nothing_out():
    """They copy gradients into stacks."""
    _, params, bucket = prepared("Muon")
    params[2].grad = None
    assert answer(bucket) == 2


# What is no change


def grad_moves(param, state):
    param.grad = torch.zeros(4, 3)


def grad_is_a_view(param, state):
    param.grad = torch.ones(100)[7:19].view(4, 3)


def grad_requires_grad(param, state):
    param.grad = torch.ones(4, 3, requires_grad=True)


def param_value(param, state):
    param.data.mul_(2)


def slot_value(param, state):
    state["exp_avg"].mul_(2)


def step_moves(param, state):
    state["step"].data = state["step"].data.clone()


def param_requires_none(param, state):
    param.requires_grad_(False)


ACCEPTED = [grad_moves, grad_is_a_view, grad_requires_grad, param_value]
ACCEPTED += [slot_value, step_moves, param_requires_none]


@pytest.mark.parametrize("change", ACCEPTED, ids=lambda change: change.__name__)
def test_what_is_no_change(change):
    """New gradients, values and counters' addresses are taken in silence."""
    optimizer, params, bucket = prepared()
    for param in params:
        change(param, optimizer.state[param])
    assert answer(bucket) == -1


def test_neighbours_may_touch():
    """A gradient that ends where the parameter begins overlaps nothing."""
    memory = torch.ones(36)
    param = memory[12:24].view(4, 3).requires_grad_()
    optimizer = polyak.SGD([param], lr=0.1)
    param.grad = memory[:12].view(4, 3)
    optimizer.step()
    (bucket,) = optimizer._plan.buckets
    assert answer(bucket) == -1
    param.grad = memory[24:].view(4, 3)
    assert answer(bucket) == -1
    param.grad = memory[1:13].view(4, 3)
    assert answer(bucket) == 0
    param.grad = memory[23:35].view(4, 3)
    assert answer(bucket) == 0


def test_the_check_writes_down_the_gradients():
    """Their addresses are in the table's last row, wherever they are now."""
    _, params, bucket = prepared()
    for _ in range(3):
        kept = [param.grad for param in params]
        for param in params:
            param.grad = torch.ones(4, 3)
        assert answer(bucket) == -1
        addresses = [param.grad.data_ptr() for param in params]
        assert bucket.table.arrays["pointers"][-1].tolist() == addresses
        assert addresses != [grad.data_ptr() for grad in kept]


def test_the_check_changes_no_reference_counts():
    """Looking a million times at a gradient does not keep it alive, or free it."""
    _, params, bucket = prepared()
    before = [param.grad._use_count() for param in params]
    for _ in range(100):
        answer(bucket)
    assert [param.grad._use_count() for param in params] == before


# Any tensors

dtypes = st.sampled_from(
    [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128]
)
sizes = st.lists(st.sampled_from([0, 1, 1, 2, 3, 5]), max_size=4).map(tuple)


@st.composite
def dense(draw):
    """A tensor whose numbers lie side by side, in any order of its dimensions."""
    dtype, shape = draw(dtypes), draw(sizes)
    order = draw(st.permutations(range(len(shape))))
    made = torch.ones([shape[axis] for axis in order], dtype=dtype)
    return made.permute([order.index(axis) for axis in range(len(shape))])


@given(st.lists(dense(), min_size=1, max_size=6), st.data())
def test_any_tensors(tensors, data):
    """The check accepts all that is dense, and sees what happens to one of them."""
    params = [tensor.requires_grad_() for tensor in tensors]
    for param in params:
        param.grad = torch.empty_like(param)
        param.grad.fill_(1)
    optimizer = polyak.SGD(params, lr=0.5, momentum=0.5)
    optimizer.step()
    assert engines(optimizer) == "kernel"
    assert all((param == 0.5).all() for param in params)
    buckets = optimizer._plan.buckets
    assert {answer(bucket) for bucket in buckets} == {-1}

    index = data.draw(st.integers(0, len(params) - 1))
    change = data.draw(st.sampled_from(["grad", "data", "slot", "stride"]))
    param, full = params[index], params[index].numel() > 0
    if change == "grad":
        param.grad = torch._neg_view(param.grad)
    elif change == "data":
        param.data = param.data.clone()
    elif change == "slot":
        slot = optimizer.state[param]["momentum_buffer"]
        slot.data = slot.data.clone()
    else:
        param.grad = torch.ones((*param.shape, 2), dtype=param.dtype)[..., 0]
        full = param.grad.stride() != param.stride() and param.numel() > 1
    seen = {
        id(bucket.members[answer(bucket)].param)
        for bucket in buckets
        if answer(bucket) >= 0
    }
    if full or change == "grad":
        assert seen == {id(param)}


# Without the native functions


def test_symbols_are_available():
    """On the builds of torch that are tested, steps are native."""
    assert torch_abi.symbols() is not None


def test_handles_are_confirmed():
    """The address is that of the tensor inside the Python object, or none is given."""
    for tensor in (torch.ones(2), torch.nn.Parameter(torch.ones(3)), torch.ones(())):
        assert torch_abi.handle(tensor) is not None


def test_dtype_codes_differ():
    """Each dtype has its number."""
    kinds = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    assert len({torch_abi.dtype_code(kind) for kind in kinds}) == 4


def test_counters_of_versions_are_found():
    """What is read ahead before they are advanced is where torch keeps them."""
    tensor = torch.ones(3)
    offset = torch_abi.functions()["version_offset"]
    counter = ctypes.c_size_t.from_address(tensor._cdata + offset).value
    before = ctypes.string_at(counter, 24)
    torch.autograd.graph.increment_version(tensor)
    assert ctypes.string_at(counter, 24) != before


def test_everything_runs_eagerly_without_symbols(monkeypatch):
    """On another build of torch the results are torch's, at the eager engine's pace."""
    monkeypatch.setattr(torch_abi, "symbols", functools.cache(lambda: None))
    results = []
    for library in (polyak, torch.optim):
        params = three()
        optimizer = library.Adam(params, lr=0.1, weight_decay=0.1, foreach=False)
        for group in optimizer.param_groups:
            group["foreach"] = None if library is polyak else False
        for step in range(3):
            for param in params:
                param.grad = torch.full_like(param, 0.5 - step)
            optimizer.step()
        if library is polyak:
            assert engines(optimizer) == "eager"
            assert "does not export" in optimizer._plan.eager[0].reason
        results.append([param.detach() for param in params])
    torch.testing.assert_close(*results)


def test_one_missing_export_is_enough(monkeypatch):
    """If torch renames a function, none is used."""
    exports = [*torch_abi._EXPORTS, ("other", "torch_cpu", ("_ZN5torch5otherEv",))]
    monkeypatch.setattr(torch_abi, "_EXPORTS", exports)
    assert torch_abi._exports.__wrapped__() is None
