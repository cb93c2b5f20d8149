"""State that nobody else holds is not looked at; who may have changed it is noticed."""

import copy
import pickle
import weakref

import numpy as np
import pytest
import torch
from torch.utils.dlpack import to_dlpack

import polyak
from polyak.engine import python_abi, torch_abi
from polyak.engine.watch import Watch

from .support import engines, parameter

SIZES = (3, 70_000)


def given(kind="AdamW", **options):
    """Parameters with gradients, and an optimizer of theirs."""
    params = [parameter(torch.ones(size), torch.full((size,), 0.5)) for size in SIZES]
    return params, getattr(polyak, kind)(params, lr=0.1, **options)


def settled(kind="AdamW", **options):
    """The same, after so many steps that the optimizer alone holds the state."""
    params, optimizer = given(kind, **options)
    steps(optimizer, 4)
    assert is_sole(optimizer)
    return params, optimizer


def steps(optimizer, count):
    for _ in range(count):
        optimizer.step()


def is_sole(optimizer):
    return optimizer._custody.keeper is optimizer._plan


KINDS = {
    "SGD": {},
    "Adam": {"amsgrad": True},
    "AdamW": {"ema_decay": 0.9},
    "Adafactor": {},
    "ASGD": {},
    "NAdam": {},
    "Rprop": {},
}


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_the_same(kind):
    """With the state looked at before every step, and without."""
    params, optimizer = given(kind, **KINDS[kind])
    others, looked_at = given(kind, **KINDS[kind])
    for step in range(8):
        for param in (*params, *others):
            param.grad = torch.full_like(param, 0.5 + step % 3)
        optimizer.step()
        looked_at.step()
        looked_at.state.keys()
        assert not is_sole(looked_at)
    assert is_sole(optimizer)
    assert engines(optimizer) == engines(looked_at) == "kernel"
    for param, other in zip(params, others, strict=True):
        assert torch.equal(param, other)
        for name, value in optimizer.state[param].items():
            assert torch.equal(value, looked_at.state[other][name])


def test_in_custody_a_step_looks_at_parameters_alone():
    """Which is what makes it fast: the table says so."""
    _, optimizer = settled()
    (bucket,) = optimizer._plan.buckets
    rows = len(bucket.table.arrays["handles"])
    assert bucket.table.get("objects") == 1
    optimizer.state.keys()
    optimizer.step()
    assert bucket.table.get("objects") == rows == 4


HOLDERS = {
    "all of it": lambda optimizer, slots: optimizer.state,
    "the state of a parameter": lambda optimizer, slots: slots,
    "a slot": lambda optimizer, slots: slots["exp_avg"],
    "a step counter": lambda optimizer, slots: slots["step"],
    "a view": lambda optimizer, slots: slots["exp_avg"][1:],
    "detached": lambda optimizer, slots: slots["exp_avg"].detach(),
    "its data": lambda optimizer, slots: slots["exp_avg"].data,
    "an array": lambda optimizer, slots: slots["exp_avg"].numpy(),
    "a capsule": lambda optimizer, slots: to_dlpack(slots["exp_avg"]),
    "its storage": lambda optimizer, slots: slots["exp_avg"].untyped_storage(),
    "a weak reference": lambda optimizer, slots: weakref.ref(slots["exp_avg"]),
    "a graph": lambda optimizer, slots: (
        slots["exp_avg"] * torch.ones(1, requires_grad=True)
    ),
    "a state dict": lambda optimizer, slots: optimizer.state_dict(),
    "its storage, seen before": lambda optimizer, slots: (
        slots["exp_avg_sq"].untyped_storage(),
        slots["exp_avg_sq"].untyped_storage(),
    ),
    "torch's weak reference": lambda optimizer, slots: torch._C._WeakTensorRef(
        slots["exp_avg"]
    ),
    "items": lambda optimizer, slots: iter(slots.items()),
}


@pytest.mark.parametrize("kind", HOLDERS)
def test_held_state_is_looked_at(kind):
    """Who has any reference to it may change it; and may let it go."""
    params, optimizer = settled()
    held = HOLDERS[kind](optimizer, optimizer.state[params[0]])
    steps(optimizer, 10)
    assert optimizer._custody.keeper is None
    del held
    steps(optimizer, 3)
    assert is_sole(optimizer)


def _replace(optimizer, param):
    optimizer.state[param]["exp_avg"] = torch.full_like(param, 2.0)


def _write(optimizer, param):
    optimizer.state[param]["exp_avg"].fill_(3.0)


def _other_data(optimizer, param):
    optimizer.state[param]["exp_avg_sq"].data = torch.full_like(param, 4.0)


def _set(optimizer, param):
    optimizer.state[param]["exp_avg"].set_(torch.full_like(param, 5.0))


def _moved_storage(optimizer, param):
    slot = optimizer.state[param]["exp_avg"]
    kept = slot.clone()
    slot.untyped_storage().resize_(0)
    slot.untyped_storage().resize_(kept.nbytes)
    slot.copy_(kept)


def _step(optimizer, param):
    optimizer.state[param]["step"].fill_(20.0)


def _forget(optimizer, param):
    del optimizer.state[param]


def _forget_all(optimizer, param):
    optimizer.state.clear()


def _another(optimizer, param):
    state = optimizer.state.items()
    optimizer.state = {param: copy.deepcopy(slots) for param, slots in state}


def _load(optimizer, param):
    saved = copy.deepcopy(optimizer.state_dict())
    for slots in saved["state"].values():
        slots["step"] += 3
    optimizer.load_state_dict(saved)


CHANGES = [
    _replace,
    _write,
    _other_data,
    _set,
    _moved_storage,
    _step,
    _forget,
    _forget_all,
    _another,
    _load,
]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_noticed(change):
    """Made through `optimizer.state`, between steps that did not look at it."""
    params, optimizer = settled()
    others = [param.detach().clone().requires_grad_() for param in params]
    reference = torch.optim.AdamW(others, lr=0.1)
    reference.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for param, other in zip(params, others, strict=True):
        other.grad = param.grad.clone()
    steps(optimizer, 4)
    steps(reference, 4)
    assert is_sole(optimizer)
    change(optimizer, params[1])
    change(reference, others[1])
    steps(optimizer, 5)
    steps(reference, 5)
    for param, other in zip(params, others, strict=True):
        torch.testing.assert_close(param, other)
        for name, value in reference.state[other].items():
            torch.testing.assert_close(optimizer.state[param][name], value)


def test_counters_in_memory_of_others_are_compared():
    """Such as that of an array, or of another process, which shows no reference."""
    params, optimizer = given()
    steps(optimizer, 1)
    counter = np.ones((), np.float32)
    optimizer.state[params[0]]["step"] = torch.from_numpy(counter)
    steps(optimizer, 4)
    assert is_sole(optimizer)
    counter[...] = 100
    steps(optimizer, 1)
    assert counter == 101
    assert optimizer.state[params[0]]["step"] == 101


def test_a_gradient_in_the_memory_of_a_slot_is_noticed():
    """The step after it was handed over runs eagerly, or not in place."""
    params, optimizer = settled()
    others, reference = settled()
    for param, own in ((params[0], optimizer), (others[0], reference)):
        param.grad = own.state[param]["exp_avg"]
    others[0].grad = others[0].grad.clone()
    steps(optimizer, 1)
    steps(reference, 1)
    assert engines(optimizer) == "kernel and eager"
    torch.testing.assert_close(params[0], others[0])


class _Wrapper:
    """As frameworks make them: another object with the attributes of the optimizer."""

    def __init__(self, optimizer):
        vars(self).update(vars(optimizer))
        self.__class__ = type("Wrapped", (_Wrapper, type(optimizer)), {})


def test_wrappers_share_the_custody():
    """Steps of one are seen by the other, and so is who reads through it."""
    params, optimizer = settled()
    others, reference = settled()
    wrapper = _Wrapper(optimizer)
    assert wrapper.state is optimizer.state
    for stepper in (wrapper, wrapper, wrapper, optimizer, optimizer, optimizer):
        stepper.step()
    wrapper.step()
    steps(reference, 7)
    assert torch.equal(params[0], others[0])
    assert optimizer.state[params[0]]["step"] == 11
    steps(optimizer, 3)
    assert is_sole(optimizer)
    wrapper.state[params[0]]["step"].fill_(1.0)
    optimizer.step()
    assert optimizer.state[params[0]]["step"] == 2


def test_who_reads_in_the_middle_of_a_look_takes_it_back(monkeypatch):
    """Another thread may: then the state is looked at again."""
    _, optimizer = given()
    look = Watch.look

    def looked(self, optimizer, *arguments):
        seen = look(self, optimizer, *arguments)
        optimizer.state.keys()
        return seen

    monkeypatch.setattr(Watch, "look", looked)
    steps(optimizer, 5)
    assert optimizer._custody.keeper is None


def test_a_look_that_fails_has_found_nothing():
    """What was not looked at to the end is looked at again."""
    params, optimizer = settled()
    held = optimizer.state[params[0]]["exp_avg"]
    group = optimizer.param_groups[0]
    rate = group.pop("lr")
    with pytest.raises(KeyError, match="lr"):
        optimizer.step()
    group["lr"] = rate
    optimizer.step()
    assert optimizer._custody.keeper is None
    held.data = torch.zeros_like(held)
    optimizer.step()
    assert held.abs().max() > 0


def test_a_mixed_optimizer_has_one_custody():
    """Its members read through it."""
    matrix = parameter(torch.eye(4), torch.ones(4, 4))
    vector = parameter(torch.ones(4), torch.ones(4))
    optimizer = polyak.Mixed(polyak.Muon([matrix]), polyak.AdamW([vector]))
    steps(optimizer, 5)
    assert len(optimizer._plan.buckets) == 2
    assert is_sole(optimizer)
    optimizer.in_charge(optimizer.param_groups[1]).state[vector]["step"].fill_(20.0)
    steps(optimizer, 1)
    assert optimizer.state[vector]["step"] == 21


def test_a_checkpoint_does_not_end_it(tmp_path):
    """What is saved has been seen by Python, storages too; nothing is held of it."""
    params, optimizer = settled()
    torch.save(optimizer.state_dict(), tmp_path / "saved")
    assert all(v.numpy() is not None for v in optimizer.state[params[0]].values())
    steps(optimizer, 2)
    assert is_sole(optimizer)
    storage = optimizer.state[params[0]]["exp_avg"].untyped_storage()
    steps(optimizer, 2)
    assert optimizer._custody.keeper is None
    del storage
    steps(optimizer, 2)
    assert is_sole(optimizer)


def test_other_tensors_than_plain_ones_are_looked_at():
    """Their references are not counted."""
    params, optimizer = settled()
    state = optimizer.state[params[0]]
    state["exp_avg"] = torch.nn.Parameter(state["exp_avg"], requires_grad=False)
    del state
    steps(optimizer, 5)
    assert optimizer._custody.keeper is None


def test_where_references_cannot_be_told_the_state_is_looked_at(monkeypatch):
    """In a build of torch or of Python that counts them in another way."""
    unknown = {**torch_abi.functions(), **torch_abi.References()._asdict()}
    with monkeypatch.context() as patch:
        patch.setattr(torch_abi, "functions", lambda: unknown)
        _, optimizer = given()
        steps(optimizer, 4)
        assert optimizer._custody.keeper is None
    with monkeypatch.context() as patch:
        patch.setattr(python_abi, "counts_references", lambda: False)
        _, optimizer = given()
        steps(optimizer, 4)
        assert optimizer._custody.keeper is None


def test_counts_of_references_are_found():
    """With the torch that is installed they can be told."""
    assert all(torch_abi.symbols().references)


def test_copies_and_pickles_have_a_custody_of_their_own():
    """They hold other tensors; the original's stay where they are."""
    params, optimizer = settled()
    before = params[0].detach().clone()
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert other._custody is not optimizer._custody
        (param, *rest) = other.param_groups[0]["params"]
        for each in (param, *rest):
            each.grad = torch.ones_like(each)
        steps(other, 5)
        assert is_sole(other)
        assert other.state[param]["step"] == 9
    assert torch.equal(params[0], before)
    assert optimizer.state[params[0]]["step"] == 4
