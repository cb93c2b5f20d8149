"""The dictionaries of the state: loaded, deleted, moved, and with more in them."""

import copy
from collections import OrderedDict, defaultdict

import pytest
import torch

import polyak

from .support import compared, parameter


@compared()
def test_state_is_loaded(run):
    """load_state_dict in the middle, and back again."""
    run.steps()
    saved = copy.deepcopy(run.optimizer.state_dict())
    run.steps()
    run.optimizer.load_state_dict(copy.deepcopy(saved))  # torch keeps what it is given
    run.steps()
    saved["state"][0][run.slot] *= 2
    run.optimizer.load_state_dict(saved)
    run.steps()


@compared()
def test_state_of_a_parameter_is_deleted(run):
    """It begins anew, the others go on."""
    run.steps()
    del run.optimizer.state[run.params[1]]
    run.steps()


@compared()
def test_all_state_is_deleted(run):
    """clear(), and another defaultdict."""
    run.steps()
    run.optimizer.state.clear()
    run.steps()
    run.optimizer.state = defaultdict(dict)
    run.steps()
    kept = run.optimizer.state
    run.optimizer.state = defaultdict(dict, {key: dict(kept[key]) for key in kept})
    run.steps()


@compared()
def test_state_is_moved_to_another_parameter(run):
    """What libraries do that replace parameters: pop and set."""
    run.steps()
    new = torch.full((7,), 2.0, requires_grad=True)
    state = run.optimizer.state
    state[new] = state.pop(run.params[1])
    run.params[1] = run.groups[0]["params"][1] = new
    run.steps()


@compared()
def test_state_is_put_back(run):
    """Popped and set again: the same tensors, in another order."""
    run.steps()
    state = run.optimizer.state
    state[run.params[0]] = state.pop(run.params[0])
    run.steps()
    state[run.params[1]] = dict(reversed(state.pop(run.params[1]).items()))
    run.gradients()
    run.optimizer.step()
    run.record.append([state[run.params[1]][run.slot].clone()])


@compared()
def test_state_is_another_kind_of_dict(run):
    """Any dictionary will do."""
    run.steps()
    state = run.optimizer.state
    for param in run.params:
        state[param] = OrderedDict(state[param])
    run.steps()


@compared()
def test_state_holds_other_things(run):
    """Entries that no rule knows are left alone."""
    run.steps()
    run.state()["note"] = "hello"
    run.state(1)["history"] = [torch.ones(2)]
    run.optimizer.state["global"] = 5
    run.optimizer.state["more"] = {"count": 1}
    for _ in range(2):
        run.gradients()
        run.optimizer.step()
        run.record.append([param.detach().clone() for param in run.params])
    assert run.state()["note"] == "hello"
    assert run.optimizer.state["global"] == 5


@compared("SGD")
def test_a_deleted_momentum_begins_anew(run):
    """As in torch, its first value is the gradient."""
    run.steps()
    del run.state()[run.slot]
    run.steps()


@compared("SGD", dampening=0.5)
def test_an_absent_momentum_may_be_none(run):
    """torch writes None where it has no momentum yet: that is no zero."""
    run.steps()
    for index in range(3):
        run.state(index)[run.slot] = None
    run.steps()


@compared("SGD", dampening=0.5)
def test_other_entries_do_not_make_the_state_old(run):
    """A note beside the momentum that is to be made."""
    run.state()["note"] = "made by hand"
    for _ in range(2):
        run.gradients()
        run.optimizer.step()
        run.record.append([param.detach().clone() for param in run.params])


@pytest.mark.parametrize("foreach", [None, False])
def test_missing_slots_are_made_again(foreach):
    """A checkpoint without a slot, or a slot that was deleted: it begins as new."""
    param = parameter([1.0, 2.0], [1.0, 1.0])
    optimizer = polyak.Adam([param], foreach=foreach)
    optimizer.step()
    before = optimizer.state[param]["exp_avg_sq"].clone()
    del optimizer.state[param]["exp_avg"]
    optimizer.step()
    torch.testing.assert_close(optimizer.state[param]["exp_avg"], 0.1 * param.grad)
    assert (optimizer.state[param]["exp_avg_sq"] > before).all()
    assert optimizer.state[param]["step"] == 2


def test_state_may_be_made_before_the_first_step():
    """Warm starts: what is there is used."""
    for foreach in (None, False):
        param = parameter([1.0], [0.0])
        optimizer = polyak.SGD([param], lr=1.0, momentum=0.5, foreach=foreach)
        optimizer.state[param]["momentum_buffer"] = torch.ones(1)
        optimizer.step()
        assert param.item() == 0.5
