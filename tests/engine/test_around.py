"""Kernels around leaves, from step to step: what is kept, what an error leaves."""

import copy
import pickle
import threading

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

import polyak
from polyak.engine import around, batching, team

from .support import engines, probe, random_gradients, state_of

CALLS = []


@polyak.leaf
def unit(x):
    """x over its norm."""
    CALLS.append(tuple(x.shape))
    return x / torch.linalg.vector_norm(x).clamp(min=1e-6)


def rule(param, grad, buffer, *, step, lr):
    buffer = 0.5 * buffer + grad
    return param - lr / step * unit(buffer), buffer


Probe = probe(rule)


def parameters(shapes=((3, 4), (4, 3), (3, 4), (6,))):
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(s, generator=generator).requires_grad_() for s in shapes]


def stepped(optimizer, params, steps):
    for step in steps:
        random_gradients(params, step)
        optimizer.step()
    return optimizer


def compare(scenario):
    """The same, with kernels around the leaves and eagerly."""
    states = []
    for fused in (None, False):
        optimizer = scenario(fused)
        assert engines(optimizer) == ("eager" if fused is False else "kernel")
        params = [p for group in optimizer.param_groups for p in group["params"]]
        states.append(state_of(optimizer, params))
    torch.testing.assert_close(*states, rtol=4e-6, atol=4e-6, equal_nan=True)


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


def test_stacks_are_of_one_shape_wherever_they_stand():
    """Groups are apart; so are shapes, though they have as many numbers."""
    params = parameters([(3, 4), (4, 3), (3, 4), (4, 3), (12,), (3, 4)])
    optimizer = Probe(
        [{"params": params[:4]}, {"params": params[4:], "lr": 0.5}], lr=0.1
    )
    stepped(optimizer, params, [0])
    assert sorted(CALLS) == [(3, 4), (3, 4), (4, 3), (12,)]


def test_groups_have_their_own_numbers_in_one_bucket():
    """Also when they change."""

    def scenario(fused):
        params = parameters()
        groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.5}]
        optimizer = stepped(Probe(groups, lr=0.1, fused=fused), params, range(2))
        optimizer.param_groups[0]["lr"] = 0.5
        stepped(optimizer, params, [2])
        optimizer.param_groups[1]["lr"] = 0.25
        assert fused is False or len(optimizer._plan.buckets) == 1
        return stepped(optimizer, params, [3])

    compare(scenario)


def test_parameters_that_join_have_their_own_step():
    """By a gradient that comes later, and by a new group."""

    def scenario(fused):
        params = parameters()
        optimizer = Probe(params[:3], lr=0.1, fused=fused)
        random_gradients(params[:1], 0)
        optimizer.step()
        stepped(optimizer, params[:3], [1])
        optimizer.add_param_group({"params": params[3:]})
        stepped(optimizer, params, [2, 3])
        assert [int(optimizer.state[p]["step"]) for p in params] == [4, 3, 3, 2]
        return optimizer

    compare(scenario)


def test_nan_stays_where_it_is():
    """A parameter's stack fellows do not see it."""

    def scenario(fused):
        params = parameters([(3, 4)] * 3)
        optimizer = stepped(Probe(params, lr=0.1, fused=fused), params, [0])
        random_gradients(params, 1)
        params[1].grad[0, 0] = float("nan")
        optimizer.step()
        assert [bool(p.isfinite().all()) for p in params] == [True, False, True]
        return optimizer

    compare(scenario)


def test_a_plan_is_kept():
    """Nothing is made anew while nothing changes but gradients and learning rates."""
    params = parameters()
    optimizer = stepped(Probe(params, lr=0.1), params, [0, 1])
    plan = optimizer._plan
    stepped(optimizer, params, [2])
    optimizer.param_groups[0]["lr"] = 0.2
    stepped(optimizer, params, [3])
    assert optimizer._plan is plan


def test_threads_do_not_change_a_bit(monkeypatch):
    """A stack's chunks are shared."""
    monkeypatch.setattr(team, "SERIAL_BYTES", 0)
    runs, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        params = parameters([(300, 700), (3, 4), (3, 4), (0, 2), (300, 700)])
        stepped(Probe(params, lr=0.1), params, range(2))
        runs.append(params)
    torch.set_num_threads(before)
    assert all(map(torch.equal, *runs))


def test_optimizers_step_in_threads_of_their_own():
    """Their tables and their memory are their own."""
    due = parameters()
    stepped(Probe(due, lr=0.1), due, range(20))
    found = [parameters() for _ in range(3)]
    workers = [
        threading.Thread(target=lambda p=p: stepped(Probe(p, lr=0.1), p, range(20)))
        for p in found
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(all(map(torch.equal, params, due)) for params in found)


def test_copies_go_on():
    """What a step has cached is not copied with the optimizer."""
    params = parameters()
    optimizer = stepped(Probe(params, lr=0.1), params, [0])
    other = copy.deepcopy(optimizer)
    muon = stepped(polyak.Muon(params[:2]), params, [1])
    pickled = pickle.loads(pickle.dumps(muon))
    for each in (optimizer, other, muon, pickled):
        copies = each.param_groups[0]["params"]
        stepped(each, copies, [2])
        assert engines(each) == "kernel"
    assert int(other.state[other.param_groups[0]["params"][0]]["step"]) == 2


# Memory


def test_no_more_than_one_stack_is_held(monkeypatch):
    """Each is given up before the next is made, and nothing is left after a step."""
    monkeypatch.setattr(around, "BYTES", 48)
    seen, alive = [], []

    @polyak.leaf
    def watched(x):
        alive.append(sum(not each.expired() for each in seen))
        seen.append(StorageWeakRef(x.untyped_storage()))
        return x.clone()

    def identity(param, grad, *, lr):
        return param - lr * watched(grad)

    params = parameters([(3, 4)] * 10)
    optimizer = stepped(probe(identity)(params, lr=0.1), params, range(3))
    assert engines(optimizer) == "kernel"
    assert len(alive) == 30
    assert not any(alive)
    assert all(each.expired() for each in seen)


# Errors


class Faulty:
    """A leaf that fails at the shape that it is told of."""

    def __init__(self, error):
        self.shape, self.error = None, error

    def optimizer(self, params):
        @polyak.leaf
        def faulty(x):
            if x.shape == self.shape:
                raise self.error
            return x

        def rule(param, grad, buffer, *, step, lr):
            buffer = buffer + faulty(grad) * step
            return param - lr * faulty(buffer), buffer

        return probe(rule)(params, lr=0.1)


@pytest.mark.parametrize(
    "error", [torch.linalg.LinAlgError("singular"), ValueError("wrong")], ids=repr
)
def test_a_stack_whose_leaf_fails_is_as_before(error):
    """Stacks before it have taken the step, whole; those after it have not begun.

    And the next step goes on from there.
    """
    leaf = Faulty(error)
    shapes = [(2, 2), (2, 2), (3, 3), (3, 3), (4, 4)]
    params, expected = parameters(shapes), parameters(shapes)
    optimizer = stepped(leaf.optimizer(params), params, [0])
    reference = Faulty(error).optimizer(expected)
    stepped(reference, expected, [0])
    before, versions = state_of(optimizer, params), [p._version for p in params]
    leaf.shape = (3, 3)
    random_gradients(params, 1)
    with pytest.raises(type(error), match=str(error)):
        optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in params] == [2, 2, 1, 1, 1]
    assert [p._version for p in params] == [
        version + (index < 2) for index, version in enumerate(versions)
    ]
    kept = state_of(optimizer, params)
    for index, param in enumerate(params):
        assert torch.equal(kept[index], before[index]) == (index >= 2), param.shape
    leaf.shape = None
    for param in expected[2:]:
        param.grad = None
    random_gradients(expected[:2], 1)
    reference.step()
    stepped(optimizer, params, [2])
    stepped(reference, expected, [2])
    assert engines(optimizer) == "kernel"
    torch.testing.assert_close(
        state_of(optimizer, params), state_of(reference, expected)
    )


def test_a_rule_whose_leaf_fails_writes_nothing():
    """The second of its leaves too."""
    calls = []

    @polyak.leaf
    def first(x):
        calls.append(1)
        return x

    @polyak.leaf
    def second(x):
        raise KeyError("wrong")

    def rule(param, grad, buffer, *, lr):
        buffer = buffer + first(grad)
        return param - lr * second(buffer), buffer

    params = parameters([(3, 4), (3, 4)])
    before = [param.detach().clone() for param in params]
    optimizer = probe(rule)(params, lr=0.1)
    random_gradients(params, 0)
    with pytest.raises(KeyError, match="wrong"):
        optimizer.step()
    assert calls
    assert all(map(torch.equal, params, before))
    assert all(not optimizer.state[param]["buffer"].any() for param in params)


def test_vmaps_warning_is_back_after_an_error():
    """Of a leaf as of anything else."""
    leaf = Faulty(KeyError("wrong"))
    leaf.shape = (3, 4)
    params = parameters([(3, 4), (3, 4)])
    random_gradients(params, 0)
    with pytest.raises(KeyError):
        leaf.optimizer(params).step()
    with pytest.warns(UserWarning, match="batching rule"):
        torch.vmap(lambda x: x.clone().clamp_(-1, 1))(torch.ones(2, 2))


def test_a_refused_leaf_is_remembered_by_the_next_plan():
    """The rule is the same."""

    @polyak.leaf
    def by_item(x):
        CALLS.append(1)
        return x * x.sum().item()

    def looking(param, grad, *, lr):
        return param - lr * by_item(grad)

    params = parameters([(3, 4)] * 3)
    optimizer = stepped(probe(looking)(params, lr=0.1), params, [0])
    assert len(CALLS) == 4
    optimizer._plan = None
    stepped(optimizer, params, [1])
    assert len(CALLS) == 4 + 3
    (call,) = optimizer._plan.buckets[0].kernel.calls[0]
    assert call.node in batching._refused


# What else a step does


@pytest.mark.parametrize(
    "arguments",
    [
        {"ema_decay": 0.9},
        {"clip_grad_norm": 0.5},
        {"clip_grad_value": 0.3},
        {"nonfinite": "skip"},
        {"weight_decay": 0.0},
        {"adjust_lr_fn": "match_rms_adamw"},
    ],
    ids=str,
)
def test_stages_go_with_muon(arguments):
    """They are in the kernels around the leaf."""
    states = []
    for fused in (True, False):
        params = parameters([(3, 4), (4, 3), (3, 4), (2, 3, 2)])
        optimizer = polyak.Muon(params, lr=0.1, **arguments)
        optimizer.param_groups[0]["foreach"] = None if fused else False
        stepped(optimizer, params, range(3))
        assert engines(optimizer) == ("kernel" if fused else "eager")
        states.append(state_of(optimizer, params))
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)


def test_autograd_is_told_of_each_write_once():
    """Parameters and state."""
    params = parameters()
    optimizer = stepped(Probe(params, lr=0.1), params, [0])
    tensors = [*params, *(optimizer.state[p]["buffer"] for p in params)]
    versions = [tensor._version for tensor in tensors]
    stepped(optimizer, params, [1])
    assert [tensor._version for tensor in tensors] == [v + 1 for v in versions]
