"""``Slot(per=...)``: state of a row or a column, wherever state goes."""

import copy

import pytest
import torch
from torch.func import grad, vmap

import polyak
from polyak import Slot
from polyak.functional import transform

from .support import engines, state_of

SLOTS = {"rows": Slot(per="row"), "columns": Slot(per="column")}


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        ((3, 4), (3, 1), (1, 4)),
        ((2, 3, 4), (2, 3, 1), (2, 1, 4)),
        ((5, 2, 3, 4), (5, 2, 3, 1), (5, 2, 1, 4)),
        ((4,), (1,), (4,)),
        ((), (), ()),
        ((0, 3), (0, 1), (1, 3)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_shapes_and_dtypes(shape, rows, columns, dtype):
    """The other of the last two dimensions has size 1; rows of pairs are real."""
    param = torch.zeros(shape, dtype=dtype)
    found = {name: slot.begin(param, {}) for name, slot in SLOTS.items()}
    assert found["rows"].shape == rows
    assert found["columns"].shape == columns
    assert found["columns"].dtype is dtype
    real = torch.float32 if dtype.is_complex else dtype
    assert found["rows"].dtype is real
    assert all((value == 0).all() for value in found.values())


def test_a_value_to_begin_with_has_the_slots_shape():
    """The function is given what has the shape; a complex one comes as pairs."""
    seen = []

    def ones(param, group):
        seen.append(tuple(param.shape))
        return torch.ones_like(param)

    for dtype in (torch.float32, torch.complex64):
        param = torch.zeros(3, 4, dtype=dtype)
        rows = Slot(ones, per="row").begin(param, {})
        columns = Slot(ones, per="column").begin(param, {})
        assert (rows == 1).all()
        assert columns.shape == (1, 4)
    assert seen == [(3, 1), (1, 4), (3, 1), (1, 4, 2)]


def trained(kind, shape=(3, 4), steps=2, dtype=torch.float32, **options):
    generator = torch.Generator().manual_seed(0)
    param = torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
    optimizer = kind([param], lr=0.1, **options)
    for _ in range(steps):
        param.grad = torch.randn(shape, generator=generator, dtype=dtype)
        optimizer.step()
    return optimizer, param


@pytest.mark.parametrize("name", ["row_var", "col_var"])
def test_a_checkpoint_of_another_shape_is_refused(name):
    """The error says what is due."""
    optimizer, _ = trained(polyak.Adafactor)
    saved = optimizer.state_dict()
    saved["state"][0][name] = torch.zeros(3, 4)
    due = r"\(3, 1\)" if name == "row_var" else r"\(1, 4\)"
    with pytest.raises(ValueError, match=rf"{name} of shape \(3, 4\).*is {due}"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_a_checkpoint_goes_on(dtype):
    """Saved, loaded into another optimizer and into a copy."""
    source, param = trained(polyak.Adafactor, dtype=dtype)
    target, other = trained(polyak.Adafactor, steps=0, dtype=dtype)
    twin, second = copy.deepcopy((source, param))
    other.data.copy_(param.data)
    target.load_state_dict(copy.deepcopy(source.state_dict()))
    runs = []
    for optimizer, owned in ((source, param), (target, other), (twin, second)):
        owned.grad = torch.ones_like(owned)
        optimizer.step()
        runs.append(state_of(optimizer, [owned]))
        assert engines(optimizer) == "kernel"
    assert all(map(torch.equal, runs[0], runs[1]))
    assert all(map(torch.equal, runs[0], runs[2]))


def test_transforms_under_grad_and_vmap():
    """As a function it steps alike, for each of a batch, and has derivatives."""
    steps = transform(polyak.Adafactor, lr=0.1)
    weights = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))
    weights = weights.double()

    def after(weight):
        state = steps.init({"w": weight})
        return steps.update({"w": weight}, {"w": weight.cos()}, state)[0]["w"]

    batched = vmap(after)(weights)
    for weight, found in zip(weights, batched, strict=True):
        param = weight.clone().requires_grad_()
        param.grad = weight.cos()
        polyak.Adafactor([param], lr=0.1).step()
        torch.testing.assert_close(found, param.detach())
    slope = grad(lambda weight: after(weight).sum())(weights[0])
    direction, h = torch.ones_like(slope), 1e-6
    ahead, behind = (after(weights[0] + s * h * direction).sum() for s in (1, -1))
    torch.testing.assert_close(
        slope.sum(), (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_transforms_of_empty_parameters(shape, dtype):
    """Means of nothing are not kept."""
    steps = transform(polyak.Adafactor)
    params = {"w": torch.zeros(shape, dtype=dtype)}
    state = steps.init(params)
    for step in (1, 2):
        params, state = steps.update(params, params, state)
        assert params["w"].shape == shape
        assert state["w"]["step"] == step
        assert (state["w"]["row_var"] == 0).all()
        assert (state["w"]["col_var"] == 0).all()


# Complex parameters: torch's Adafactor refuses them; ours takes their pairs.


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 5), (7,), (300, 500)], ids=str)
def test_complex_adafactor_is_that_of_pairs(shape, foreach):
    """A matrix is twice as wide; so is a vector."""
    optimizer, param = trained(
        polyak.Adafactor, shape, 3, torch.complex128, foreach=foreach
    )
    assert engines(optimizer) == ("kernel" if foreach is None else "eager")
    generator = torch.Generator().manual_seed(0)
    kind, drawn = torch.complex128, []
    for _ in range(4):
        value = torch.randn(shape, generator=generator, dtype=kind)
        drawn.append(torch.view_as_real(value).flatten(-2))
    twin = drawn[0].clone().requires_grad_()
    pairs = torch.optim.Adafactor([twin], lr=0.1)
    for gradient in drawn[1:]:
        twin.grad = gradient
        pairs.step()
    found = torch.view_as_real(param.detach()).flatten(-2)
    torch.testing.assert_close(found, twin.detach(), rtol=1e-9, atol=1e-9)
    for name in optimizer.state[param].keys() - {"step"}:
        value = optimizer.state[param][name]
        if value.is_complex():
            value = torch.view_as_real(value).flatten(-2)
        torch.testing.assert_close(value, pairs.state[twin][name])
