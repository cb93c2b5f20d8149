"""``summary`` tells the memory of an optimizer, before the first step and after it."""

import pytest
import torch
from torch import nn
from torch.nn import Parameter

import polyak
from tests.contract.comparison import assert_nothing_changed, everything
from tests.contract.harness import (
    DENSE,
    NAMES,
    Case,
    advance,
    argument_sets,
    case_of,
    find_case,
    make,
    ours,
    parameters,
    params_of,
)

RULES = [name for name in NAMES if ours(name).has_rule]
DTYPES = (torch.float32, torch.bfloat16, torch.complex64)
CASES = {name: find_case(name) or Case() for name in RULES}
every_dtype = pytest.mark.parametrize(
    ("name", "dtype"),
    [(n, d) for n in RULES for d in DTYPES if CASES[n].complex or not d.is_complex],
)
every_argument_set = pytest.mark.parametrize(
    ("name", "label"),
    [(name, label) for name in RULES for label in argument_sets(name)],
)


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict | list | tuple):
        parts = value.values() if isinstance(value, dict) else value
        return [tensor for part in parts for tensor in tensors_in(part)]
    return []


def size(value):
    """The bytes of all tensors in a value, as torch tells them."""
    return sum(tensor.nbytes for tensor in tensors_in(value))


def real_sizes(optimizer):
    """The bytes of the state that there is, by parameter."""
    return [
        {key: size(value) for key, value in optimizer.state[param].items()}
        for param in params_of(optimizer)
    ]


def assert_foretold(optimizer):
    """What is said of the state before it is made is what is made then."""
    said = polyak.summary(optimizer)
    assert all(param.is_new for param in said.parameters if param.slot_bytes)
    optimizer.init_state()
    made = real_sizes(optimizer)
    assert [dict(param.slot_bytes) for param in said.parameters] == made
    assert said.state_bytes == sum(sum(sizes.values()) for sizes in made)
    now = polyak.summary(optimizer)
    assert now.slot_bytes == said.slot_bytes
    assert not any(param.is_new for param in now.parameters)


def steps_taken(name, optimizer):
    """After steps in which every parameter had a gradient."""
    for step in range(5):
        advance(name, optimizer, params_of(optimizer), step)
    return optimizer


# State


@every_argument_set
def test_state_is_counted_before_it_is_made(name, label):
    arguments = argument_sets(name)[label]
    assert_foretold(make(ours(name), parameters(name, DENSE), arguments))


@every_dtype
def test_averages_are_counted_before_they_are_made(name, dtype):
    """In half precision they are in float32."""
    arguments = {**case_of(name).stateful, "ema_decay": 0.9}
    optimizer = make(ours(name), parameters(name, DENSE, dtype), arguments)
    assert_foretold(optimizer)
    params = params_of(optimizer)
    width = 4 if dtype is torch.bfloat16 else params[0].element_size()
    said = polyak.summary(optimizer).slot_bytes["param_ema"]
    assert said == sum(param.numel() for param in params) * width


@pytest.mark.parametrize("name", RULES)
def test_what_a_step_makes_is_what_was_said(name):
    optimizer = make(ours(name), parameters(name), case_of(name).stateful)
    said = polyak.summary(optimizer)
    steps_taken(name, optimizer)
    assert [dict(param.slot_bytes) for param in said.parameters] == real_sizes(
        optimizer
    )
    assert polyak.summary(optimizer).slot_bytes == said.slot_bytes


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_changed(name):
    optimizer = make(ours(name), parameters(name), case_of(name).stateful)
    for _ in range(2):
        before, seed = everything(optimizer), torch.get_rng_state()
        polyak.summary(optimizer)
        assert_nothing_changed(optimizer, before)
        assert torch.equal(torch.get_rng_state(), seed)
        steps_taken(name, optimizer)


def test_lbfgs_keeps_all_with_the_first_parameter():
    optimizer = steps_taken("LBFGS", make(ours("LBFGS"), parameters("LBFGS"), {}))
    first, *others = polyak.summary(optimizer).parameters
    assert dict(first.slot_bytes) == real_sizes(optimizer)[0]
    assert first.slot_bytes["old_dirs"] > 0
    assert not any(param.slot_bytes for param in others)
    assert first.engine == "eager: LBFGS has no rule"


@pytest.mark.parametrize(
    "kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.LBFGS]
)
def test_the_state_of_torchs_optimizers_is_counted_as_it_is(kind):
    model = nn.Linear(3, 2)
    optimizer = kind(model.parameters(), lr=0.1)
    said = polyak.summary(optimizer)
    assert said.state_bytes == 0
    assert f"{kind.__name__} has no state now" in str(said)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(3)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    said = polyak.summary(optimizer)
    assert said.state_bytes == size(dict(optimizer.state))
    assert {param.engine for param in said.parameters} == {f"{kind.__name__}.step"}


def test_of_several_algorithms_each_parameter_has_its_own():
    model = nn.Linear(3, 2)
    optimizer = polyak.Mixed(polyak.Muon([model.weight]), polyak.AdamW([model.bias]))
    weight, bias = polyak.summary(optimizer).parameters
    assert dict(weight.slot_bytes) == {"momentum_buffer": 24}
    assert dict(bias.slot_bytes) == {"step": 4, "exp_avg": 8, "exp_avg_sq": 8}


def test_state_that_depends_on_the_values_of_a_parameter():
    class Ranked(polyak.Optimizer):
        """Keeps as many numbers as a parameter has that are positive."""

        slots = {
            "found": polyak.Slot(
                lambda param, group: torch.zeros(int((param > 0).sum()))
            )
        }

        @staticmethod
        def rule(param, grad, found, *, lr):
            return param - lr * grad, found

    weight = torch.tensor([1.0, -1.0, 2.0], requires_grad=True)
    said = polyak.summary(Ranked([weight], dict(lr=0.1)))
    assert said.slot_bytes == {"found": 8}


# Gradients and parameters


def test_gradients_that_are_to_come_are_like_their_parameters():
    params = [
        Parameter(torch.zeros(3)),
        Parameter(torch.zeros(2, dtype=torch.bfloat16)),
    ]
    assert polyak.summary(polyak.SGD(params)).gradient_bytes == 12 + 4


def test_a_sparse_gradient_is_counted_as_it_is():
    weight = Parameter(torch.zeros(100, 2))
    weight.grad = torch.sparse_coo_tensor(
        [[3, 7]], torch.ones(2, 2), (100, 2), check_invariants=True
    )
    (said,) = polyak.summary(polyak.SparseAdam([weight])).parameters
    assert said.gradient_bytes == 2 * 8 + 4 * 4
    assert said.slot_bytes["exp_avg"] == 100 * 2 * 4


def test_a_frozen_parameter_gets_nothing():
    frozen = Parameter(torch.zeros(3), requires_grad=False)
    (said,) = polyak.summary(polyak.AdamW([frozen])).parameters
    assert (said.parameter_bytes, said.gradient_bytes, said.state_bytes) == (12, 0, 0)
    assert said.engine == "frozen"
    assert not said.is_new


def test_a_parameter_that_is_listed_twice_is_counted_once():
    weight = Parameter(torch.zeros(3))
    with pytest.warns(UserWarning, match="duplicate"):
        optimizer = polyak.SGD([weight, weight])
    assert polyak.summary(optimizer).parameter_bytes == 12


def test_a_model_without_memory_tells_what_it_would_need():
    with torch.device("meta"):
        model = nn.Linear(100_000, 100_000, bias=False)
    said = polyak.summary(polyak.AdamW(model.parameters()))
    assert said.total_bytes == 4 * 4 * 10**10 + 4
    assert said.device_bytes == {
        torch.device("meta"): 4 * 4 * 10**10,
        torch.device("cpu"): 4,
    }


def test_totals_are_the_sums():
    said = polyak.summary(make(ours("Adam"), parameters("Adam"), {}))
    params = said.parameters
    assert said.parameter_bytes == sum(p.parameter_bytes for p in params)
    assert said.gradient_bytes == sum(p.gradient_bytes for p in params)
    assert said.state_bytes == sum(p.state_bytes for p in params)
    assert said.total_bytes == sum(sum(p.device_bytes.values()) for p in params)


# The table


def test_the_table():
    weights = [("a.w", torch.zeros(10, 100)), ("a.b", torch.zeros(3).half())]
    params = [(name, Parameter(tensor)) for name, tensor in weights]
    groups = [
        {"params": params[:1]},
        {"params": params[1:], "fused": False, "lr": 0.25},
    ]
    assert str(polyak.summary(polyak.SGD(groups, momentum=0.9))).splitlines() == [
        "SGD: 2 parameters of 1,003 numbers in 2 groups",
        "group 0: lr=0.001, momentum=0.9, dampening=0, weight_decay=0",
        "group 1: lr=0.25, momentum=0.9, dampening=0, weight_decay=0",
        "",
        "group  name  shape      dtype    device  parameter  gradient  momentum_buffer"
        "  engine",
        "    0  a.w   (10, 100)  float32  cpu        4.0 kB    4.0 kB           4.0 kB"
        "  kernel 0",
        "    1  a.b   (3,)       float16  cpu       6 bytes   6 bytes          6 bytes"
        "  eager: fused=False",
        "",
        "parameters  4.0 kB",
        "gradients   4.0 kB",
        "state       4.0 kB: momentum_buffer 4.0 kB",
        "total       12.0 kB",
        "The next step makes the state of 2 parameters.",
    ]


@pytest.mark.parametrize(
    ("depth", "names"),
    [
        (None, ["a.x.w", "a.x.b", "a.y", "c"]),
        (0, ["*"]),
        (1, ["a.*", "c"]),
        (2, ["a.x.*", "a.y", "c"]),
        (3, ["a.x.w", "a.x.b", "a.y", "c"]),
    ],
)
def test_modules_of_a_depth_share_a_row(depth, names):
    params = [
        (name, Parameter(torch.zeros(2))) for name in ("a.x.w", "a.x.b", "a.y", "c")
    ]
    said = polyak.summary(polyak.SGD(params), depth=depth)
    rows = str(said).splitlines()[4 : 4 + len(names)]
    assert [row.split()[1] for row in rows] == names
    sizes = [int(row.split(" bytes")[0].split()[-1]) for row in rows]
    assert sum(sizes) == said.parameter_bytes == 32
    assert len(said.parameters) == 4


def test_groups_do_not_share_a_row():
    params = [(name, Parameter(torch.zeros(2))) for name in ("a.w", "a.v", "a.b")]
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    rows = str(polyak.summary(polyak.SGD(groups), depth=1)).splitlines()[5:7]
    assert [row.split()[:2] for row in rows] == [["0", "a.*"], ["1", "a.b"]]


# Bad input


def test_what_is_no_optimizer():
    with pytest.raises(TypeError, match=r"takes an optimizer, but got .*Linear"):
        polyak.summary(nn.Linear(2, 2))


def test_a_negative_depth():
    optimizer = polyak.SGD([Parameter(torch.zeros(2))])
    with pytest.raises(ValueError, match="a depth of 0 or more, but got -1"):
        polyak.summary(optimizer, depth=-1)
