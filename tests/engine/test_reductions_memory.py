"""What kernels with sums may touch, and state that others replace between steps."""

import re

import pytest
import torch

import polyak
from polyak.engine import jit

from .support import assert_close, engines, state_of, why_eager

GUARD = 7.0
SHAPES = [(3, 4), (2, 3, 5), (300, 500), (4, 40_000), (1, 1)]
SHAPES += [(13, 1, 1), (17, 1, 2), (8, 3, 1), (5, 2, 2, 2), (9, 3, 3), (21, 5, 7)]


def framed(shape, values=None):
    """A contiguous tensor in the middle of a larger one, and that one."""
    count = torch.Size(shape).numel()
    frame = torch.full((count + 2,), GUARD)
    view = frame[1:-1].view(shape)
    view.copy_(torch.zeros(shape) if values is None else values)
    return view, frame


def gradients(params, step):
    generator = torch.Generator().manual_seed(step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator, dtype=param.dtype)


def matrices(shapes=((3, 4), (2, 3, 5), (6,)), foreach=None):
    """An Adafactor with state, and its parameters."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=generator) for shape in shapes]
    params = [param.requires_grad_() for param in params]
    optimizer = polyak.Adafactor(params, lr=0.1, weight_decay=0.1, foreach=foreach)
    gradients(params, 0)
    optimizer.step()
    return optimizer, params


def test_memory_around_tensors_is_untouched():
    """Parameters, gradients and small slots lie among other numbers."""
    params, frames = [], []
    generator = torch.Generator().manual_seed(0)
    for shape in SHAPES:
        view, frame = framed(shape, torch.randn(shape, generator=generator))
        params.append(view.requires_grad_())
        frames.append(frame)
    optimizer = polyak.Adafactor(params, lr=0.1)
    optimizer.init_state()
    for param in params:
        state = optimizer.state[param]
        for name in state.keys() - {"step"}:
            state[name], frame = framed(state[name].shape, state[name])
            frames.append(frame)
    for _ in range(2):
        for param in params:
            values = torch.randn(param.shape, generator=generator)
            param.grad, frame = framed(param.shape, values)
            frames.append(frame)
        optimizer.step()
    assert all(frame[0] == GUARD and frame[-1] == GUARD for frame in frames)


def replaced_by_a_copy(state):
    state["row_var"] = state["row_var"].clone()


def changed_in_place(state):
    state["col_var"].mul_(2)


def replaced_by_zeros(state):
    state["row_var"] = torch.zeros_like(state["row_var"])


def of_another_dtype(state):
    state["row_var"] = state["row_var"].double()


def with_gaps(state):
    wide = torch.zeros(*state["row_var"].shape[:-1], 2)
    wide[..., :1] = state["row_var"]
    state["row_var"] = wide[..., :1]


@pytest.mark.parametrize(
    ("change", "engine"),
    [
        (replaced_by_a_copy, "kernel"),
        (changed_in_place, "kernel"),
        (replaced_by_zeros, "kernel"),
        (of_another_dtype, "kernel"),
        (with_gaps, "kernel and eager"),
    ],
)
def test_state_that_is_replaced(change, engine):
    """The next step sees it, as the eager engine does."""
    records = []
    for foreach in (None, False):
        optimizer, params = matrices(foreach=foreach)
        change(optimizer.state[params[0]])
        for step in (1, 2):
            gradients(params, step)
            optimizer.step()
        due = "eager" if foreach is False else engine
        assert engines(optimizer) == due, why_eager(optimizer)
        records.append(state_of(optimizer, params))
    assert_close(*records)


def test_a_slot_of_another_shape_is_left_to_torch():
    """A full tensor where a row's is due: rules take whatever broadcasts."""
    optimizer, params = matrices()
    state = optimizer.state[params[0]]
    state["row_var"] = state["row_var"].expand(3, 4).contiguous()
    gradients(params, 1)
    optimizer.step()
    assert "a state of each row is real, of shape (3, 4)" in str(why_eager(optimizer))
    assert state["row_var"].shape == (3, 4)


@pytest.mark.parametrize("foreach", [None, False])
def test_loading_goes_on(foreach):
    """Bit for bit, by either engine."""
    source, params = matrices(foreach=foreach)
    target, others = matrices(foreach=foreach)
    gradients(params, 5)
    source.step()
    with torch.no_grad():
        for other, param in zip(others, params, strict=True):
            other.copy_(param)
    target.load_state_dict(source.state_dict())
    for optimizer, owned in ((source, params), (target, others)):
        gradients(owned, 6)
        optimizer.step()
    assert all(map(torch.equal, state_of(source, params), state_of(target, others)))


def test_parameters_whose_columns_come_first_run_eagerly():
    """Their rows do not follow each other in memory."""
    param = torch.randn(4, 3).t().requires_grad_()
    optimizer = polyak.Adafactor([param])
    param.grad = torch.randn(3, 4)
    optimizer.step()
    assert engines(optimizer) == "eager"
    assert "not contiguous" in why_eager(optimizer)[0]


def test_rows_that_move_in_memory_are_found():
    """``param.data`` may be another tensor, of other strides, at any time."""
    optimizer, params = matrices(((3, 4),))
    twin, others = matrices(((3, 4),), foreach=False)
    assert engines(optimizer) == "kernel"
    for param in (*params, *others):
        param.data = param.data.t().contiguous().t()
    gradients(params, 1)
    gradients(others, 1)
    optimizer.step()
    twin.step()
    assert engines(optimizer) == "eager"
    assert_close(state_of(optimizer, params), state_of(twin, others))


@pytest.mark.parametrize(
    ("shape", "share"), [((1000, 1000), 0.03), ((64, 64, 3, 3), 1e-3)], ids=str
)
def test_what_is_kept_between_passes_takes_little_memory(shape, share):
    """A few numbers a row and a column, or of many small matrices a chunk."""
    param = torch.ones(shape).requires_grad_()
    optimizer = polyak.Adafactor([param])
    gradients([param], 0)
    optimizer.step()
    memory = optimizer._plan.buckets[0].table.arrays["memory"]
    assert 0 < memory.size < share * param.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_passes_are_vectorised(dtype):
    """In all of them the loop over a row takes several columns at once."""
    param = torch.ones(64, 64, dtype=dtype).requires_grad_()
    optimizer = polyak.Adafactor([param])
    gradients([param], 0)
    optimizer.step()
    ir = optimizer._plan.buckets[0].kernel.ir
    text = str(jit._optimized(ir, jit._machine()))
    kind = "float" if dtype is torch.float32 else "double"
    functions = re.findall(r"^define .*?^}", text, re.DOTALL | re.MULTILINE)
    passes = [found for found in functions if "@pass" in found.partition("\n")[0]]
    assert len(passes) == 3
    for found in passes:
        assert re.search(rf"fmul [a-z ]*<\d+ x {kind}>", found)
