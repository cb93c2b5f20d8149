"""The native look at Python objects: it says what a comparison in Python would say."""

import ctypes
from collections import OrderedDict, UserDict, defaultdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import polyak
from polyak.engine import python_abi, watch
from polyak.engine.watch import OTHER, OTHER_VALUES, SAME, Watch

from .support import parameter


@pytest.fixture(params=["versions", "entries"], autouse=True, scope="module")
def compared(request):
    """What of a group is looked at: its version, or all of it, as in CPython 3.12."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "entries":
            patch.setattr(python_abi, "version_offset", lambda: 0)
        yield request.param


def watched(sizes=(2, 1, 0)):
    """An optimizer with groups of these sizes, after a step, and a watch of it."""
    groups = [
        {"params": [parameter([1.0, 2.0], [1.0, 1.0]) for _ in range(size)]}
        for size in sizes
    ]
    optimizer = polyak.Adam(groups, lr=0.1)
    optimizer.step()
    return optimizer, Watch(optimizer)


def first(optimizer):
    """The first parameter and its state."""
    param = optimizer.param_groups[0]["params"][0]
    return param, optimizer.state[param]


def other_lr(optimizer):
    optimizer.param_groups[1]["lr"] = 0.5


def other_betas(optimizer):
    optimizer.param_groups[2]["betas"] = (0.5, 0.6)


def more_values(optimizer):
    optimizer.param_groups[0]["note"] = 1


def fewer_values(optimizer):
    del optimizer.param_groups[1]["foreach"]


def other_list(optimizer):
    optimizer.param_groups[0]["params"] = list(optimizer.param_groups[0]["params"])


def other_group(optimizer):
    optimizer.param_groups[1] = dict(optimizer.param_groups[1])


def fewer_groups(optimizer):
    optimizer.param_groups.pop()


def more_groups(optimizer):
    optimizer.param_groups.append({"params": []})


def exchanged_groups(optimizer):
    optimizer.param_groups.reverse()


def other_param(optimizer):
    optimizer.param_groups[0]["params"][1] = torch.ones(2)


def more_params(optimizer):
    optimizer.param_groups[2]["params"].append(torch.ones(2))


def fewer_params(optimizer):
    optimizer.param_groups[0]["params"].pop()


def moved_param(optimizer):
    source, target, _ = optimizer.param_groups
    target["params"].insert(0, source["params"].pop())


def other_slot(optimizer):
    first(optimizer)[1]["exp_avg"] = torch.zeros(2)


def other_key(optimizer):
    state = first(optimizer)[1]
    entries = [("other" if k == "exp_avg" else k, v) for k, v in state.items()]
    state.clear()
    state.update(entries)


def more_slots(optimizer):
    first(optimizer)[1]["note"] = None


def fewer_slots(optimizer):
    del first(optimizer)[1]["exp_avg_sq"]


def other_state(optimizer):
    param, state = first(optimizer)
    optimizer.state[param] = dict(state)


def less_state(optimizer):
    del optimizer.state[first(optimizer)[0]]


def more_state(optimizer):
    optimizer.state["note"] = {}


def exchanged_states(optimizer):
    a, b = optimizer.param_groups[0]["params"]
    state = optimizer.state
    state[a], state[b] = state[b], state[a]


def no_state(optimizer):
    optimizer.state.clear()


def empty_states(optimizer):
    for state in optimizer.state.values():
        state.clear()


def other_state_dict(optimizer):
    optimizer.state = defaultdict(
        dict, {k: dict(v) for k, v in optimizer.state.items()}
    )


def no_groups(optimizer):
    optimizer.param_groups = []


VALUES = [other_lr, other_betas, more_values, fewer_values, other_list]
OTHERS = [other_group, fewer_groups, more_groups, exchanged_groups, other_param]
OTHERS += [more_params, fewer_params, moved_param, other_slot, other_key, more_slots]
OTHERS += [fewer_slots, other_state, less_state, more_state, exchanged_states]
OTHERS += [no_state, empty_states, other_state_dict, no_groups]


@pytest.mark.parametrize("change", OTHERS, ids=lambda change: change.__name__)
def test_other_objects(change):
    """Another parameter, state or slot, one more or one less."""
    optimizer, watch = watched()
    assert watch.look(optimizer) == SAME
    change(optimizer)
    assert watch.look(optimizer) == OTHER


@pytest.mark.parametrize("change", VALUES, ids=lambda change: change.__name__)
def test_other_values(change):
    """What groups hold beside their parameters is told apart."""
    optimizer, watch = watched()
    assert watch.look(optimizer) == SAME
    change(optimizer)
    assert watch.look(optimizer) == OTHER_VALUES
    assert watch.look(optimizer) == OTHER_VALUES
    renewed = watch.renew(optimizer)
    assert renewed == (change is not other_list)  # which may hold other parameters
    for _ in range(2):
        assert watch.look(optimizer) == (SAME if renewed else OTHER_VALUES)


def test_values_that_come_back():
    """What was looked at once is not taken for known for ever."""
    optimizer, watch = watched()
    assert watch.look(optimizer) == SAME
    group = optimizer.param_groups[1]
    before, group["lr"] = group["lr"], 0.5
    assert watch.look(optimizer) == OTHER_VALUES
    group["lr"] = before
    assert watch.look(optimizer) == SAME
    group.pop("lr")
    assert watch.look(optimizer) == OTHER_VALUES


@given(st.lists(st.sampled_from(OTHERS + VALUES), min_size=1, max_size=4))
def test_any_changes(changes):
    """However many: they are seen, and a new watch sees none."""
    optimizer, watch = watched()
    assert watch.look(optimizer) == SAME
    for change in changes:
        try:
            change(optimizer)
        except (IndexError, KeyError, ValueError):
            continue
    seen = watch.look(optimizer)
    assert seen != SAME or changes == [] or same_as_new(optimizer, watch)
    assert Watch(optimizer).look(optimizer) == SAME


def same_as_new(optimizer, watch):
    """Whether the changes undid each other: all objects are where they were."""
    new = Watch(optimizer)
    assert new.look(optimizer) == SAME  # and it knows the versions
    return new._expected.tolist() == watch._expected.tolist()


def test_nothing_changes_by_looking():
    """Not even the number of references."""
    optimizer, watch = watched()
    for _ in range(1000):
        assert watch.look(optimizer) == SAME
    param, state = first(optimizer)
    assert list(state) == ["step", "exp_avg", "exp_avg_sq"]
    assert param in optimizer.state


def test_an_empty_optimizer():
    """No state yet, and no parameters any more."""
    optimizer = polyak.Adam([parameter([1.0])])
    assert Watch(optimizer).look(optimizer) == SAME
    optimizer.param_groups[0]["params"].clear()
    assert Watch(optimizer).look(optimizer) == SAME
    optimizer.param_groups.clear()
    assert Watch(optimizer).look(optimizer) == SAME


# Containers that are no plain lists and dictionaries: steps must be right with them


class Groups(list):
    """A list of one's own."""


CONTAINERS = {
    "tuple_of_params": lambda o: o.param_groups[0].update(
        params=tuple(o.param_groups[0]["params"])
    ),
    "own_list_of_params": lambda o: o.param_groups[0].update(
        params=Groups(o.param_groups[0]["params"])
    ),
    "tuple_of_groups": lambda o: setattr(o, "param_groups", tuple(o.param_groups)),
    "own_list_of_groups": lambda o: setattr(o, "param_groups", Groups(o.param_groups)),
    "ordered_group": lambda o: o.param_groups.__setitem__(
        0, OrderedDict(o.param_groups[0])
    ),
    "group_no_dict": lambda o: o.param_groups.__setitem__(
        0, UserDict(o.param_groups[0])
    ),
    "ordered_state": lambda o: o.state.update(
        {key: OrderedDict(value) for key, value in o.state.items()}
    ),
    "state_no_dict": lambda o: o.state.update(
        {key: UserDict(value) for key, value in o.state.items()}
    ),
    "plain_states": lambda o: setattr(o, "state", dict(o.state)),
    "states_no_dict": lambda o: setattr(o, "state", UserDict(o.state)),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("library", [polyak, torch.optim], ids=["polyak", "torch"])
def test_other_containers(library, container):
    """Steps, and changes between them, are right whatever holds the objects."""
    a, b = parameter([1.0], [1.0]), parameter([1.0], [1.0])
    optimizer = library.SGD([a, b], lr=0.5, momentum=1.0, foreach=False)
    optimizer.param_groups[0]["foreach"] = None if library is polyak else False
    optimizer.step()
    CONTAINERS[container](optimizer)
    optimizer.step()
    assert a.item() == b.item() == 1 - 0.5 * (1 + 2)
    optimizer.state[a]["momentum_buffer"] = torch.zeros(1)
    optimizer.step()
    assert (a.item(), b.item()) == (-0.5 - 0.5 * 1, -0.5 - 0.5 * 3)
    optimizer.param_groups[0]["lr"] = 0.25
    optimizer.step()
    assert (a.item(), b.item()) == (-1.0 - 0.25 * 2, -2.0 - 0.25 * 4)
    optimizer.param_groups[0]["params"] = [b]
    optimizer.step()
    assert (a.item(), b.item()) == (-1.5, -3.0 - 0.25 * 5)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_what_is_read_ahead_holds_the_items(count):
    """The cache lines that are asked for are those of the items, up to a limit."""
    items = [object() for _ in range(count)]
    for holder in (items, dict(zip(map(str, range(count)), items, strict=True))):
        address, offset, lines = watch._record(holder)
        assert address == id(holder)
        start = ctypes.c_size_t.from_address(address + offset).value
        words = (ctypes.c_size_t * (8 * lines)).from_address(start)
        assert id(items[0]) in words
        assert (id(items[-1]) in words) == (count < 40 or holder is items)
