"""Steps that native code does alone, and what ends them."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import polyak
from polyak.engine import team
from polyak.engine.plan import Plan

from .support import engines, parameter, random_gradients, state_of

SIZES = ((3,), (4, 5), ())


def given(kind="AdamW", **options):
    """Parameters with gradients, in two groups, and an optimizer of theirs."""
    params = [parameter(torch.ones(size)) for size in SIZES]
    random_gradients(params, 0)
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.05}]
    return params, getattr(polyak, kind)(groups, lr=0.1, **options)


def settled(kind="AdamW", **options):
    """The same, after so many steps that the next is like the last."""
    params, optimizer = given(kind, **options)
    for _ in range(5):
        optimizer.step()
    return params, optimizer


@pytest.fixture
def asked(monkeypatch):
    """How often Python asked whether a plan holds."""
    calls, ask = [], Plan.holds

    def holds(plan, optimizer):
        calls.append(plan)
        return ask(plan, optimizer)

    monkeypatch.setattr(Plan, "holds", holds)
    return calls


KINDS = {
    "SGD": {},
    "SGD_momentum": {"momentum": 0.9, "nesterov": True},
    "Adam": {"amsgrad": True},
    "AdamW": {"ema_decay": 0.9, "maximize": True},
    "Adagrad": {"lr_decay": 0.1},
    "ASGD": {},
    "NAdam": {},
    "RAdam": {},
    "Rprop": {},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", KINDS)
def test_bits_are_those_of_other_steps(name, dtype, asked):
    """With Python's part in every step, and without."""
    ends = []
    for is_alone in (True, False):
        torch.manual_seed(0)
        params = [parameter(torch.randn(size), dtype=dtype) for size in SIZES]
        kind, _, _ = name.partition("_")
        optimizer = getattr(polyak, kind)(params, **KINDS[name])
        for step in range(12):
            random_gradients(params, step)
            asked.clear()
            optimizer.step()
            assert step < 10 or bool(asked) != is_alone
            if not is_alone:
                optimizer.state.keys()
        assert engines(optimizer) == "kernel"
        ends.append(state_of(optimizer, params))
    assert all(map(torch.equal, *ends))


def _grad_is_gone(optimizer, params):
    params[1].grad = None


def _grad_is_another_kind(optimizer, params):
    params[1].grad = params[1].grad.double().t().contiguous().float().t()


def _grad_is_the_parameter(optimizer, params):
    params[0].grad = params[0].detach()


def _data_is_elsewhere(optimizer, params):
    params[0].data = torch.full_like(params[0], 7.0)


def _other_rate(optimizer, params):
    optimizer.param_groups[1]["lr"] = 0.7


def _rate_is_a_tensor(optimizer, params):
    optimizer.param_groups[0]["lr"] = torch.tensor(0.2)


def _no_decay(optimizer, params):
    optimizer.param_groups[0]["weight_decay"] = 0.0


def _other_state(optimizer, params):
    optimizer.state[params[0]]["exp_avg"].fill_(2.0)


def _other_step(optimizer, params):
    optimizer.state[params[0]]["step"].fill_(40.0)


def _no_state(optimizer, params):
    optimizer.state.clear()


def _another_group(optimizer, params):
    more = parameter([1.0, 2.0], [3.0, 4.0])
    params.append(more)
    optimizer.add_param_group({"params": [more], "lr": 0.3})


def _groups_are_another_list(optimizer, params):
    first, second = optimizer.param_groups
    optimizer.param_groups = [{**first, "lr": 0.4}, second]


def _groups_are_exchanged(optimizer, params):
    first, second = optimizer.param_groups
    first["params"], second["params"] = second["params"], first["params"]


def _loaded(optimizer, params):
    saved = optimizer.state_dict()
    for state in saved["state"].values():
        state["exp_avg"] = torch.full_like(state["exp_avg"], 0.25)
    optimizer.load_state_dict(saved)


def _rate_is_an_int(optimizer, params):
    optimizer.param_groups[0]["lr"] = 1


def _rates_become_equal(optimizer, params):
    for group in optimizer.param_groups:
        group["lr"] = 0.3


def _other_names(optimizer, params):
    group = optimizer.param_groups[0]
    group["lr"] = group.pop("lr") / 2
    group["initial_lr"] = 0.5


def _betas(optimizer, params):
    optimizer.param_groups[0]["betas"] = (0.5, 0.7)


CHANGES = [_grad_is_gone, _grad_is_another_kind, _grad_is_the_parameter]
CHANGES += [_data_is_elsewhere, _other_rate, _rate_is_a_tensor, _no_decay]
CHANGES += [_rate_is_an_int, _rates_become_equal, _other_names, _betas]
CHANGES += [_other_state, _other_step, _no_state, _another_group]
CHANGES += [_groups_are_another_list, _groups_are_exchanged, _loaded]


FOLLOWED = [_other_rate, _rates_become_equal]  # floats in place of floats


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__[1:])
def test_what_changes_is_seen(change, asked):
    """And what comes after it is as it must be, until steps are alike once more."""
    ends = []
    for is_alone in (True, False):
        params, optimizer = settled()
        if not is_alone:
            optimizer.state.keys()
        asked.clear()
        change(optimizer, params)
        optimizer.step()
        assert asked or change in FOLLOWED
        for step in range(6):
            random_gradients(params, step)
            optimizer.step()
            if not is_alone:
                optimizer.state.keys()
        ends.append(state_of(optimizer, params))
    assert all(map(torch.equal, *ends))


def test_settings_and_scaling_are_seen(asked):
    """What a step finds out about its gradients is Python's to decide about."""
    params, optimizer = settled("SGD")
    before = [param.detach().clone() for param in params]
    asked.clear()
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert asked
    assert all(map(torch.equal, before, params))
    assert optimizer.skipped_steps == 1
    del optimizer.found_inf
    for _ in range(4):
        optimizer.step()
    asked.clear()
    optimizer.step()
    assert not asked  # Python is not in it again
    before = params[0].detach().clone()
    optimizer.clip_grad_value = 1e-3
    optimizer.step()
    assert (params[0] - before).abs().max().item() == pytest.approx(1e-4, rel=1e-3)
    optimizer.step()
    assert asked


def test_a_dispatch_mode_sees_the_operations():
    """They are done eagerly then, one by one."""
    seen = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    _, optimizer = settled()
    with Recorder():
        optimizer.step()
    assert seen


def test_hooks_and_counts_go_on(asked):
    """They belong to the step, whoever does it."""
    params, optimizer = given(clear_grads=True)
    for step in range(5):
        random_gradients(params, step)
        optimizer.step()
    asked.clear()
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    for step in range(3):
        random_gradients(params, step)
        optimizer.step(lambda: calls.append("closure"))
    assert calls == ["before", "closure", "after"] * 3
    assert not asked
    assert all(param.grad is None for param in params)
    assert optimizer.steps == 5 + 3


def test_versions_of_parameters_advance():
    """So that autograd refuses a graph whose parameters have changed."""
    params, optimizer = settled()
    before = [param._version for param in params]
    optimizer.step()
    assert [param._version - 1 for param in params] == before


def test_a_branch_of_the_rule_is_taken_in_time(asked):
    """RAdam's rule changes with the sixth step: Python reads it anew."""
    ends = []
    for library in (polyak, torch.optim):
        params = [parameter(torch.ones(size)) for size in SIZES]
        optimizer = library.RAdam(params, lr=0.1)
        for step in range(10):
            random_gradients(params, step)
            optimizer.step()
        ends.append(params)
    for ours, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert len(set(asked)) > 1


@pytest.mark.parametrize(
    ("kind", "options", "is_native"),
    [
        ("AdamW", {}, True),
        ("Muon", {}, False),
        ("AdamW", {"clip_grad_norm": 1.0}, None),
    ],
)
def test_who_is_left_to_native_code(kind, options, is_native):
    """Not rules with leaves, nor steps that look at their gradients."""
    param = parameter(torch.ones(4, 4), torch.ones(4, 4))
    optimizer = getattr(polyak, kind)([param], lr=0.1, **options)
    for _ in range(5):
        optimizer.step()
    repeat = optimizer._plan._repeat
    assert (repeat and repeat.is_native) == is_native


def test_large_steps_are_for_a_team():
    """Which the native call has not."""
    size = team.SERIAL_BYTES // 8
    param = parameter(torch.ones(size), torch.ones(size))
    optimizer = polyak.SGD([param], lr=0.1)
    for _ in range(5):
        optimizer.step()
    assert not optimizer._plan._repeat.is_native
