"""Parameters that have no gradient in a step are left out of it, in the same plan."""

import random

import pytest
import torch

import polyak
from polyak.engine import team
from polyak.engine.plan import Plan

from .support import assert_close, engines, parameter, random_gradients, state_of

SHAPES = [(3,), (4, 5), (), (70, 3), (2, 3, 4), (0,), (65, 2)]
KINDS = {
    "SGD": {},
    "SGD_momentum": {"momentum": 0.9, "weight_decay": 0.1},
    "Adam": {"amsgrad": True},
    "AdamW": {},
    "Adamax": {},
    "NAdam": {},
    "RAdam": {},
    "Adagrad": {"lr_decay": 0.1},
    "Adadelta": {},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Rprop": {},
    "ASGD": {"t0": 3},
    "Adafactor": {},
    "Muon": {},
}


def tensors(dtype=torch.float32, shapes=SHAPES):
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def some_gradients(params, step, share=0.6):
    """Give some parameters a gradient, the others none, by the number of the step."""
    random_gradients(params, step)
    chance = random.Random(step)
    for param in params:
        if chance.random() > share:
            param.grad = None


def made(library, name, params, apart=False, **more):
    kind, _, _ = name.partition("_")
    groups = [{"params": params[:3]}, {"params": params[3:], "lr": 0.02}]
    options = {"lr": 0.01, **KINDS[name], **more}
    return getattr(library, kind)(groups if apart else params, **options)


def compare(name, steps=25, shapes=SHAPES):
    """With kernels, and in the reference: torch's, or the eager engine."""
    library, apart = torch.optim, True
    if name == "Muon":  # torch computes with fewer bits
        shapes = [shape for shape in shapes if len(shape) == 2]
        library, apart = polyak, False
    if name == "Adafactor":  # torch divides by the size
        shapes = [shape for shape in shapes if shape != (0,)]
    ours, theirs = tensors(shapes=shapes), tensors(shapes=shapes)
    optimizer = made(polyak, name, ours, apart=apart)
    reference = made(library, name, theirs, apart=apart)
    for group in reference.param_groups:
        group["fused"] = False
    for step in range(steps):
        for params in (ours, theirs):
            some_gradients(params, step)
        optimizer.step()
        reference.step()
    assert engines(optimizer) == "kernel"
    found, expected = state_of(optimizer, ours), state_of(reference, theirs)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_any_gradients_may_be_missing(name):
    """Steps, counters and state are those of torch."""
    compare(name)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("name", ["SGD_momentum", "AdamW", "Adafactor"])
def test_a_team_leaves_them_out(name, threads, monkeypatch):
    """Also tensors that several threads share, in several passes."""
    monkeypatch.setattr(team, "SERIAL_BYTES", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        compare(name, 8, [(300, 257), (5,), (3, 3, 200), (70_000,), (1, 9)])
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def plans(monkeypatch):
    """The plans that are made."""
    found, make = [], Plan.__init__

    def init(plan, optimizer):
        found.append(plan)
        make(plan, optimizer)

    monkeypatch.setattr(Plan, "__init__", init)
    return found


@pytest.mark.parametrize("name", sorted({*KINDS} - {"ASGD", "RAdam", "Muon"}))
def test_the_plan_is_kept(name, plans):
    """Once every parameter has its state. Two rules have branches, Muon has leaves."""
    params = tensors()
    optimizer = made(polyak, name, params, apart=True)
    for step in range(2):
        random_gradients(params, step)
        optimizer.step()
    known = len(plans)
    for step in range(2, 20):
        some_gradients(params, step)
        optimizer.step()
    for param in params:
        param.grad = None
    optimizer.step()
    assert len(plans) <= known + 1


def test_a_new_plan_knows_those_that_wait(plans):
    """It is made while some have no gradient, and serves them when they have one."""
    params = tensors()
    optimizer = made(polyak, "Adam", params)
    random_gradients(params, 0)
    optimizer.step()
    params[1].grad = None
    params[0].data = params[0].data.clone()
    optimizer.step()
    known = len(plans)
    random_gradients(params, 1)
    optimizer.step()
    assert len(plans) == known
    assert [optimizer.state[p]["step"].item() for p in params] == [3, 2, *[3] * 5]


def test_steps_that_part_come_together():
    """Those with equal steps share a row of scalars, however they came by them."""
    params = tensors(shapes=[(2,)] * 40)
    optimizer = made(polyak, "Adam", params)
    random_gradients(params, 0)
    optimizer.step()
    steps = torch.ones(len(params))
    for step in range(1, 30):
        some_gradients(params, step, share=0.3)
        steps += torch.tensor([param.grad is not None for param in params])
        optimizer.step()
        (bucket,) = optimizer._plan.buckets
        assert bucket.table.get("rows") == len(steps.unique())
    found = [optimizer.state[param]["step"].item() for param in params]
    assert found == steps.tolist()


def test_nothing_of_them_is_written():
    """No version advances; state and parameter are as they were, bit for bit."""
    params = tensors()
    optimizer = made(polyak, "AdamW", params, ema_decay=0.9)
    for step in range(6):
        random_gradients(params, step)
        optimizer.step()
    left_out = params[1]
    before = state_of(optimizer, [left_out])
    held = [left_out, *optimizer.state[left_out].values()]
    versions = [tensor._version for tensor in held]
    left_out.grad = None
    for _ in range(3):
        optimizer.step()
    assert [tensor._version for tensor in held] == versions
    assert all(map(torch.equal, before, state_of(optimizer, [left_out])))


@pytest.mark.parametrize("name", ["SGD_momentum", "Adam", "Adafactor"])
def test_a_norm_is_that_of_the_gradients_there_are(name):
    """Clipping, and the search for what is not finite, read no others."""
    ends = []
    for is_inside in (True, False):
        params = tensors()
        inside = {"clip_grad_norm": 0.5, "nonfinite": "raise"} if is_inside else {}
        optimizer = made(polyak, name, params, **inside)
        for step in range(12):
            some_gradients(params, step)
            if not is_inside:
                torch.nn.utils.clip_grad_norm_(params, 0.5)
            optimizer.step()
        ends.append(state_of(optimizer, params))
    for x, y in zip(*ends, strict=True):
        assert_close(x, y)


def test_an_infinite_gradient_beside_them_leaves_all_counters():
    """A step that is left out advances nobody."""
    params = tensors()
    optimizer = made(polyak, "Adam", params, nonfinite="skip")
    for step in range(4):
        random_gradients(params, step)
        optimizer.step()
    params[0].grad = None
    params[1].grad.fill_(torch.inf)
    optimizer.step()
    params[1].grad.fill_(1.0)
    optimizer.step()
    found = [optimizer.state[param]["step"].item() for param in params]
    assert found == [4, *[5] * 6]


def test_in_custody_as_well():
    """State of parameters that wait is not looked at, and a change of it is seen."""
    params = tensors()
    optimizer = made(polyak, "AdamW", params)
    for step in range(8):
        some_gradients(params, step)
        optimizer.step()
    assert optimizer._custody.keeper is optimizer._plan
    waiting = next(param for param in params if param.grad is None)
    optimizer.state[waiting]["step"].fill_(100)
    optimizer.step()
    random_gradients(params, 9)
    optimizer.step()
    assert optimizer.state[waiting]["step"].item() == 101


def test_without_counters_native_code_does_it_alone(monkeypatch):
    """Nothing parts, so Python is not asked."""
    params = tensors()
    optimizer = made(polyak, "SGD", params)
    for step in range(6):
        some_gradients(params, step)
        optimizer.step()
    monkeypatch.setattr(Plan, "holds", lambda *_: pytest.fail("Python was asked"))
    for step in range(6, 12):
        some_gradients(params, step)
        optimizer.step()


def test_those_that_never_had_one_stay_apart():
    """They have no state; the others' is in custody all the same."""
    params = tensors()
    optimizer = made(polyak, "Adam", params)
    for step in range(6):
        random_gradients(params[1:], step)
        optimizer.step()
    assert optimizer._custody.keeper is optimizer._plan
    before = params[0].detach().clone()
    random_gradients(params, 6)
    optimizer.step()
    found = [optimizer.state[param]["step"].item() for param in params]
    assert found == [1, *[7] * 6]
    assert not torch.equal(params[0], before)


def test_state_that_was_made_before_waits_apart(plans):
    """Its first step is another than those that follow: it is in no plan of theirs."""
    params = tensors()
    optimizer = made(polyak, "SGD_momentum", params)
    optimizer.init_state()
    for step in range(3):
        random_gradients(params[1:], step)
        optimizer.step()
    known = len(plans)
    for step in range(3, 6):
        random_gradients(params[1:], step)
        optimizer.step()
    assert len(plans) == known
    before = params[0].detach().clone()
    random_gradients(params, 6)
    optimizer.step()
    buffer = params[0].grad + 0.1 * before  # the first one, not a tenth of it
    assert_close(params[0].detach(), before - 0.01 * buffer)


def test_memory_that_moves_meanwhile():
    """A parameter that waits may be given other memory, and other numbers."""
    params = tensors()
    optimizer = made(polyak, "SGD_momentum", params)
    for step in range(3):
        random_gradients(params, step)
        optimizer.step()
    params[1].grad = None
    optimizer.step()
    params[1].data = torch.full_like(params[1], 7.0)
    optimizer.step()
    assert (params[1] == 7).all()
    buffer = optimizer.state[params[1]]["momentum_buffer"].clone()
    params[1].grad = torch.zeros_like(params[1])
    optimizer.step()
    assert_close(params[1].detach(), 7 - 0.01 * (0.9 * buffer + 0.1 * 7))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_another_kind_of_gradient_comes_back():
    """A sparse one runs eagerly; what native code expected was a dense one."""
    ours, theirs = (parameter(torch.ones(4, 2), torch.ones(4, 2)) for _ in range(2))
    pairs = [(polyak.Adagrad([ours], lr=0.1), ours)]
    pairs.append((torch.optim.Adagrad([theirs], lr=0.1), theirs))
    for optimizer, param in pairs:
        optimizer.step()
        param.grad = None
        optimizer.step()
        param.grad = torch.eye(4, 2).to_sparse()
        optimizer.step()
        param.grad = None
        optimizer.step()
        param.grad = torch.ones(4, 2)
        optimizer.step()
    assert_close(ours.detach(), theirs.detach())
