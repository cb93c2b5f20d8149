"""State of rows and columns in files, other optimizers, summaries and ``Mixed``."""

import copy

import pytest
import torch

import polyak
from polyak import Slot

from .support import assert_close, engines, probe, random_gradients, state_of

SHAPES = [(3, 4), (2, 3, 5)]


def rule(param, grad, row_var, columns, *, lr, first):
    square = grad.square().mean(-1, keepdim=True)
    row_var = square if first else 0.5 * row_var + 0.5 * square
    columns = columns + grad.mean(-2, keepdim=True)
    update = grad / (row_var.sqrt() + 1) + columns
    return param - lr * update, row_var, columns


SLOTS = {"row_var": Slot(per="row"), "columns": Slot(per="column")}
Beginning = probe(rule, SLOTS, name="Beginning")


def parameters():
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=generator) for shape in SHAPES]
    return [param.requires_grad_() for param in drawn]


def stepped(kind, steps, **options):
    params = parameters()
    optimizer = kind(params, lr=0.1, **options)
    for step in range(steps):
        random_gradients(params, step)
        optimizer.step()
    return optimizer, params


def test_the_first_step_is_another():
    """A rule may branch on ``first``, in each engine."""
    runs = []
    for foreach in (None, False):
        for steps in (1, 3):
            optimizer, params = stepped(Beginning, steps, foreach=foreach)
            assert engines(optimizer) == ("kernel" if foreach is None else "eager")
            runs.append(state_of(optimizer, params))
    once, thrice, *due = runs
    assert_close([once, thrice], due)
    random_gradients(params, 0)
    square = params[0].grad.square().mean(-1, keepdim=True)
    assert_close(once[2], square)


@pytest.mark.parametrize("steps", [0, 2])
def test_a_summary_counts_what_there_is(steps):
    """Before the first step too."""
    optimizer, params = stepped(polyak.Adafactor, steps)
    summary = str(polyak.summary(optimizer))
    optimizer.init_state()
    sizes = {
        name: sum(optimizer.state[param][name].nbytes for param in params)
        for name in ("row_var", "col_var")
    }
    assert sizes == {"row_var": 12 + 24, "col_var": 16 + 40}
    for name, size in sizes.items():
        assert f"{name} {size} bytes" in summary


def test_a_file_goes_on(tmp_path):
    """Bit for bit."""
    source, params = stepped(polyak.Adafactor, 2)
    polyak.save(tmp_path / "run", optimizer=source)
    target, others = stepped(polyak.Adafactor, 0)
    polyak.load(tmp_path / "run", optimizer=target)
    for param, other in zip(params, others, strict=True):
        other.data.copy_(param.data)
    for optimizer, owned in ((source, params), (target, others)):
        random_gradients(owned, 5)
        optimizer.step()
        assert engines(optimizer) == "kernel"
    for param, other in zip(params, others, strict=True):
        assert torch.equal(param, other)
        for name in ("row_var", "col_var", "step"):
            assert torch.equal(source.state[param][name], target.state[other][name])


def test_conversion_keeps_slots_of_one_name():
    """They keep their shape, and the step after is done by a kernel."""
    source, params = stepped(polyak.Adafactor, 2)
    target, others = stepped(Beginning, 0)
    target.load_state_dict(
        polyak.convert_state(source.state_dict(), to=Beginning), strict=False
    )
    for param, other in zip(params, others, strict=True):
        assert target.state[other].keys() == {"row_var"}
        assert torch.equal(
            target.state[other]["row_var"], source.state[param]["row_var"]
        )
    random_gradients(others, 0)
    target.step()
    assert engines(target) == "kernel"
    assert target.state[others[1]]["columns"].shape == (2, 1, 5)
    with pytest.raises(ValueError, match="shares no slot"):
        polyak.convert_state(source.state_dict(), to="AdamW")


def test_beside_another_optimizer():
    """In ``Mixed`` each takes the step it takes alone; a checkpoint goes on."""

    def both(params):
        return polyak.Adafactor(params[:1], lr=0.1), polyak.AdamW(params[1:], lr=0.1)

    mixed_params, alone_params, loaded_params = (parameters() for _ in range(3))
    mixed, alone = polyak.Mixed(*both(mixed_params)), both(alone_params)
    for step in range(3):
        for params in (mixed_params, alone_params):
            random_gradients(params, step)
        mixed.step()
        for optimizer in alone:
            optimizer.step()
    assert engines(mixed) == "kernel"
    assert all(map(torch.equal, mixed_params, alone_params))
    loaded = polyak.Mixed(*both(loaded_params))
    loaded.load_state_dict(copy.deepcopy(mixed.state_dict()))
    for param, other in zip(mixed_params, loaded_params, strict=True):
        other.data.copy_(param.data)
    for optimizer, params in ((mixed, mixed_params), (loaded, loaded_params)):
        random_gradients(params, 7)
        optimizer.step()
    assert all(map(torch.equal, mixed_params, loaded_params))
