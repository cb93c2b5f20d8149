"""Stacks: parameters that are alike take one step, and it is that of each alone.

Whether kernels run around the leaves, or the eager engine runs the rule.
"""

import pytest
import torch

import polyak
from polyak.engine import around, stacks

from . import support
from .support import engines, parameter, random_gradients, state_of

CALLS = []


@polyak.leaf
def unit(x):
    """x over its norm: of one parameter, not of all in the stack."""
    CALLS.append(tuple(x.shape))
    return x / torch.linalg.vector_norm(x)


@polyak.leaf
def unit_by_item(x):
    """What vmap cannot serve: it looks at a value."""
    CALLS.append(tuple(x.shape))
    return x / x.norm().item()


def rule(param, grad, buffer, *, step, lr):
    buffer = 0.5 * buffer + grad
    return param - lr / step * unit(buffer), buffer


def rule_by_item(param, grad, buffer, *, step, lr):
    buffer = 0.5 * buffer + grad
    return param - lr / step * unit_by_item(buffer), buffer


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


@pytest.fixture(params=["around", "eager"], autouse=True)
def way(request):
    """Who makes the stacks."""
    return request.param


@pytest.fixture
def probe(way):
    """Classes whose rule runs in this way."""

    def make(rule):
        kind = support.probe(rule)

        def build(params, **arguments):
            return kind(params, fused=None if way == "around" else False, **arguments)

        return build

    return make


def matrices(count=5, shape=(3, 4), dtype=torch.float32):
    rng = torch.Generator().manual_seed(1)
    return [
        torch.randn(shape, dtype=dtype, generator=rng).requires_grad_()
        for _ in range(count)
    ]


def calls_of(kind, params, steps=1, **arguments):
    """How often the last of some steps calls a leaf."""
    optimizer = kind(params, **{"lr": 0.5, **arguments})
    for step in range(steps):
        random_gradients(params, step)
        if step == steps - 1:
            CALLS.clear()
        optimizer.step()
    return len(CALLS)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str
)
def test_a_step_is_that_of_each_alone(dtype, maximize, probe):
    """In every dtype; whoever is stacked with whom."""
    together, apart = matrices(dtype=dtype), matrices(dtype=dtype)
    kind = probe(rule)
    optimizers = [kind(together, lr=0.5, maximize=maximize)]
    optimizers += [kind([param], lr=0.5, maximize=maximize) for param in apart]
    for step in range(3):
        random_gradients(together, step)
        random_gradients(apart, step)
        CALLS.clear()
        for optimizer in optimizers:
            optimizer.step()
    assert len(CALLS) == 1 + len(apart)
    alone = [
        v for o, p in zip(optimizers[1:], apart, strict=True) for v in state_of(o, [p])
    ]
    stacked = [v for p in together for v in state_of(optimizers[0], [p])]
    torch.testing.assert_close(stacked, alone)


def test_only_what_is_alike_is_stacked(probe):
    """Shapes, dtypes and groups tell parameters apart."""
    shapes = [(3, 4), (3, 4), (4, 3), (4, 3), (7,)]
    params = [torch.ones(shape, requires_grad=True) for shape in shapes]
    params += matrices(2, dtype=torch.float64)
    assert calls_of(probe(rule), params, steps=2) == 4
    groups = [{"params": matrices(2), "lr": lr} for lr in (0.1, 0.2)]
    optimizer = probe(rule)(groups, lr=0.5)
    for group in groups:
        random_gradients(group["params"], 0)
    CALLS.clear()
    optimizer.step()
    assert len(CALLS) == 2


def test_the_way_is_the_one_that_is_named(way, probe):
    """Or the tests here would run one of them twice."""
    params = matrices(2)
    random_gradients(params, 0)
    optimizer = probe(rule)(params, lr=0.5)
    optimizer.step()
    assert engines(optimizer) == {"around": "kernel", "eager": "eager"}[way]


def test_a_stack_has_a_limited_size(monkeypatch, probe):
    """In bytes of its parameters; a large one is alone."""
    for module in (around, stacks):
        monkeypatch.setattr(module, "BYTES", 2 * 48)
    assert calls_of(probe(rule), matrices(5), steps=2) == 3
    monkeypatch.setattr(around, "BYTES", 47)
    monkeypatch.setattr(stacks, "LARGEST", 47)
    assert calls_of(probe(rule), matrices(5), steps=2) == 5


def test_for_loops_are_for_loops(probe):
    """``foreach=False`` asks for one parameter at a time."""
    assert calls_of(probe(rule), matrices(5), steps=2, foreach=False) == 5


def test_steps_that_differ_are_taken_apart(probe):
    """A parameter that joined later has its own step, and then its own numbers."""
    params, expected = matrices(3), matrices(3)
    optimizer = probe(rule)(params, lr=0.5)
    singles = [probe(rule)([param], lr=0.5) for param in expected]
    for step in range(3):
        for each in (params, expected):
            random_gradients(each, step)
            if step == 0:
                each[2].grad = None
        optimizer.step()
        for single in singles:
            single.step()
    assert [int(optimizer.state[p]["step"]) for p in params] == [3, 3, 2]
    torch.testing.assert_close(params, expected)


def test_a_leaf_that_vmap_refuses_is_called_for_each(probe):
    """Once found out, it is not tried again."""
    params, expected = matrices(4), matrices(4)
    kind = probe(rule_by_item)
    assert calls_of(kind, params, steps=1) == 1 + 4
    assert calls_of(kind, matrices(4), steps=2) == 4
    for param in expected:
        calls_of(kind, [param], steps=0)
    singles = [kind([param], lr=0.5) for param in expected]
    random_gradients(expected, 0)
    for single in singles:
        single.step()
    torch.testing.assert_close(params, expected)


def test_an_error_of_a_leaf_is_raised(probe):
    """It is not taken for a refusal of vmap."""

    @polyak.leaf
    def wrong(x):
        return x @ torch.zeros(2, 2)

    def failing(param, grad, *, lr):
        return param - lr * wrong(grad)

    params = matrices(3)
    random_gradients(params, 0)
    before = [param.detach().clone() for param in params]
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        probe(failing)(params, lr=0.1).step()
    assert all(map(torch.equal, params, before))


def test_other_errors_pass(probe):
    """Nothing but RuntimeError can be vmap's."""

    @polyak.leaf
    def wrong(x):
        raise KeyError("a fault of its own")

    def failing(param, grad, *, lr):
        return param - lr * wrong(grad)

    params = matrices(3)
    random_gradients(params, 0)
    with pytest.raises(KeyError, match="a fault of its own"):
        probe(failing)(params, lr=0.1).step()


def test_overlapping_parameters_take_turns(probe):
    """The second sees what the first has written, as it does without stacks."""
    memory = torch.ones(6)
    params = [memory[:4].requires_grad_(), memory[2:].requires_grad_()]
    for param in params:
        param.grad = torch.tensor([3.0, 0.0, 0.0, 4.0])
    probe(rule)(params, lr=0.5).step()
    expected = torch.tensor([0.7, 1.0, 0.7, 0.6, 1.0, 0.6])
    torch.testing.assert_close(memory, expected)


def test_unlike_gradients_are_taken_one_by_one(probe):
    """A tensor subclass among the gradients does not stop the others."""

    class Other(torch.Tensor):
        pass

    params, expected = matrices(3), matrices(3)
    for each in (params, expected):
        random_gradients(each, 0)
    params[1].grad = params[1].grad.as_subclass(Other)
    probe(rule)(params, lr=0.5).step()
    probe(rule)(expected, lr=0.5).step()
    torch.testing.assert_close(params, expected)


def test_autograd_is_told_of_each_parameter(probe):
    """A graph that needs the old value fails, as after any write."""
    params = matrices(2)
    losses = [(param * param).sum() for param in params]
    random_gradients(params, 0)
    probe(rule)(params, lr=0.5).step()
    for loss in losses:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_no_warning_of_vmaps_reaches_the_user(recwarn, probe):
    """torch has no batching rule for some operations, and loops over the stack."""

    @polyak.leaf
    def clamped(x):
        return x.clone().clamp_(-0.5, 0.5)

    def clamping(param, grad, *, lr):
        return param - lr * clamped(grad)

    params = [parameter([1.0, 2.0], [3.0, 0.25]) for _ in range(2)]
    probe(clamping)(params, lr=1.0).step()
    assert [param.tolist() for param in params] == [[0.5, 1.75]] * 2
    assert not recwarn.list
