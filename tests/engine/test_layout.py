"""How tensors lie in memory, against counting every address."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyak.engine.fitness import Places, overlapping
from polyak.engine.layout import dense, memory, same_layout, span

MEMORY = torch.zeros(2000)


@st.composite
def tensors(draw):
    """Any strided view of one memory: gaps, repetitions, ones, none at all."""
    shape = draw(st.lists(st.sampled_from([0, 1, 1, 2, 2, 3, 4]), max_size=4))
    if draw(st.booleans()):  # the strides of some contiguous order, or any
        order = draw(st.permutations(range(len(shape))))
        strides, stride = [0] * len(shape), 1
        for axis in order:
            strides[axis], stride = stride, stride * max(1, shape[axis])
    else:
        strides = [draw(st.sampled_from([0, 1, 2, 3, 4, 6, 12, 24])) for _ in shape]
    return MEMORY.as_strided(shape, strides, draw(st.integers(0, 40)))


def addresses(tensor):
    """The address of every number, in the order of the tensor."""
    grid = torch.zeros(tensor.shape, dtype=torch.int64)
    for axis, (size, stride) in enumerate(
        zip(tensor.shape, tensor.stride(), strict=True)
    ):
        shape = [-1 if other == axis else 1 for other in range(tensor.dim())]
        grid = grid + (torch.arange(size) * stride).view(shape)
    return [tensor.data_ptr() + 4 * offset for offset in grid.flatten().tolist()]


@given(tensors())
def test_dense_is_each_number_once_without_gaps(tensor):
    """As many addresses as numbers, side by side."""
    found = set(addresses(tensor))
    gapless = not found or max(found) - min(found) == 4 * (len(found) - 1)
    assert dense(tensor) == (gapless and len(found) == tensor.numel())


@given(tensors())
def test_span_is_from_the_first_to_the_last(tensor):
    """Of nothing it is nothing."""
    start, end = span(tensor)
    found = addresses(tensor)
    assert start == tensor.data_ptr()
    assert (start, end) == (min(found), max(found) + 4) if found else start == end


def overlap(a, b):
    places = Places()
    return places.of(a).overlaps(places.of(b))


@given(tensors(), tensors())
def test_tensors_that_share_a_number_overlap(a, b):
    """Tensors that lie within each other's gaps are taken to overlap as well."""
    if set(addresses(a)) & set(addresses(b)):
        assert overlap(a, b)
        assert overlap(b, a)
    if overlap(a, b) and dense(a) and dense(b) and a.numel() and b.numel():
        assert set(addresses(a)) & set(addresses(b))


@given(tensors(), tensors())
def test_same_layout_is_the_same_order(a, b):
    """The n-th number is at the same distance from the first in both."""
    if a.shape == b.shape and a.numel():
        distances = [[at - x.data_ptr() for at in addresses(x)] for x in (a, b)]
        assert same_layout(a, b) == (distances[0] == distances[1])
    elif a.shape != b.shape:
        assert not same_layout(a, b)


def test_real_and_complex_lie_differently():
    """A complex number takes the place of two."""
    assert not same_layout(torch.ones(3), torch.ones(3, dtype=torch.complex64))
    assert same_layout(torch.ones(3), torch.ones(3, dtype=torch.float64))


@given(st.lists(st.lists(tensors(), max_size=2), max_size=6))
def test_overlapping_parameters_are_found(owned):
    """All whose tensors overlap another's, or each other, and no others."""
    owners = [(torch.zeros(1), written) for written in owned]
    flat = [(owner, tensor) for owner, written in owners for tensor in written]
    due = set()
    for i, (owner, tensor) in enumerate(flat):
        for other, another in flat[i + 1 :]:
            if tensor.numel() and another.numel() and overlap(tensor, another):
                due |= {owner, other}
    found = overlapping(owners, Places())
    assert due <= found
    if all(tensor.numel() for _, tensor in flat):
        assert found == due


@pytest.mark.parametrize("make", [torch.ones, torch.zeros])
def test_memory(make):
    """The address of the storage, where there is one."""
    tensor = make(10)
    assert memory(tensor) == memory(tensor[3:]) == tensor.data_ptr()
    assert memory(torch._efficientzerotensor(2)) == 0
    assert memory(torch.ones(2, device="meta")) == 0
    assert memory(torch.ones(2).to_sparse()) == 0
