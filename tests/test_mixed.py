"""Mixed: several algorithms in one optimizer, and each does what it does alone."""

from functools import partial

import pytest
import torch
from torch.amp import GradScaler
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_

import polyak

STEPS = 4
SHAPES = ((4, 3), (2, 5))

SGD = partial(polyak.SGD, lr=0.1, momentum=0.9)
ADAMW = partial(polyak.AdamW, lr=0.01, weight_decay=0.1)
MUON = partial(polyak.Muon, lr=0.02)
ADAGRAD = partial(polyak.Adagrad, lr=0.1)
MIXTURES = {
    "SGD+AdamW": (SGD, ADAMW),
    "AdamW+SGD eager": (ADAMW, partial(SGD, foreach=False)),
    "Muon+AdamW": (MUON, ADAMW),
    "Adagrad+SGD+AdamW": (ADAGRAD, SGD, ADAMW),
}
STAGES = [{}, {"clip_grad_value": 0.3}, {"ema_decay": 0.9}, {"nonfinite": "skip"}]

every_mixture = pytest.mark.parametrize("kinds", MIXTURES.values(), ids=MIXTURES)


def shares(kinds, dtype=torch.float32):
    """Parameters for each kind, always the same."""
    rng = torch.Generator().manual_seed(0)
    return [
        [Parameter(torch.randn(s, generator=rng).to(dtype)) for s in SHAPES]
        for _ in kinds
    ]


def give_gradients(params, step):
    """The gradients of a step; in each, another parameter has none."""
    rng = torch.Generator().manual_seed(1 + step)
    for index, param in enumerate(params):
        grad = torch.randn(param.shape, generator=rng).to(param.dtype)
        param.grad = None if index == step else grad


def params_of(*optimizers):
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return [param for group in groups for param in group["params"]]


def states_of(optimizer):
    return [dict(optimizer.state.get(param, {})) for param in params_of(optimizer)]


def mixed(kinds=(SGD, ADAMW), dtype=torch.float32, **stages):
    """Mixed of these kinds."""
    pairs = zip(kinds, shares(kinds, dtype), strict=True)
    return polyak.Mixed(*(kind(params) for kind, params in pairs), **stages)


def trained(optimizer, steps=range(STEPS)):
    for step in steps:
        give_gradients(params_of(optimizer), step)
        optimizer.step()
    return optimizer


def assert_same(found, expected):
    """Bit for bit."""
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def vector(size=2):
    return torch.zeros(size, requires_grad=True)


# The step


@every_mixture
@pytest.mark.parametrize("stages", STAGES, ids=lambda s: "".join(s) or "plain")
def test_a_step_is_those_of_its_optimizers(kinds, stages):
    """Each alone, on the parameters that it has, does the same."""
    optimizer = trained(mixed(kinds, **stages))
    pairs = zip(kinds, shares(kinds), strict=True)
    alone = [kind(params, **stages) for kind, params in pairs]
    for step in range(STEPS):
        give_gradients(params_of(*alone), step)
        for each in alone:
            each.step()
    assert_same(params_of(optimizer), params_of(*alone))
    assert_same(states_of(optimizer), [s for each in alone for s in states_of(each)])


def test_a_step_is_torchs():
    """In float64, against two optimizers of torch and its clipping of one norm."""
    optimizer = trained(mixed(dtype=torch.float64, clip_grad_norm=0.5))
    first, second = shares("ab", torch.float64)
    theirs = [
        torch.optim.SGD(first, lr=0.1, momentum=0.9),
        torch.optim.AdamW(second, lr=0.01, weight_decay=0.1),
    ]
    for step in range(STEPS):
        give_gradients([*first, *second], step)
        clip_grad_norm_([*first, *second], 0.5)
        for each in theirs:
            each.step()
    torch.testing.assert_close(
        params_of(optimizer), params_of(*theirs), rtol=1e-12, atol=1e-12
    )


def test_one_plan_serves_all():
    """It is kept while nothing but a rate changes, whichever group's."""
    optimizer = mixed()
    params = params_of(optimizer)
    for step in (STEPS, STEPS + 1):  # all have gradients
        give_gradients(params, step)
        optimizer.step()
    plan = optimizer._plan
    assert len(plan.buckets) == 2
    optimizer.param_groups[1]["lr"] = 0.5
    before = [param.detach().clone() for param in params]
    optimizer.step()
    assert optimizer._plan is plan
    moved = [(old - new).abs().max() for old, new in zip(before, params, strict=True)]
    assert moved[2] > 0.3
    assert moved[3] > 0.3


def test_a_bad_gradient_of_one_is_no_step_of_any():
    """It is counted once, and nothing is changed."""
    optimizer = trained(mixed(nonfinite="skip"))
    params = params_of(optimizer)
    before = [param.detach().clone() for param in params]
    give_gradients(params, STEPS)
    params[-1].grad[0, 0] = float("nan")
    optimizer.step()
    assert_same([param.detach() for param in params], before)
    assert (optimizer.steps, optimizer.skipped_steps) == (STEPS, 1)


def test_the_closure_is_called_once():
    """With gradients enabled, and its loss is returned."""
    optimizer, calls = mixed(), []

    @torch.no_grad()
    def step():
        return optimizer.step(closure)

    def closure():
        optimizer.zero_grad()
        loss = sum(param.square().sum() for param in params_of(optimizer))
        loss.backward()
        calls.append(loss.item())
        return loss

    assert step().item() == calls[0]
    assert len(calls) == optimizer.steps == 1


def test_hooks_run_once_a_step():
    """Those of the object, and torch's global ones; each sees Mixed."""
    optimizer, seen = mixed(), []
    optimizer.register_step_pre_hook(lambda *args: seen.append(("pre", args[0])))
    optimizer.register_step_post_hook(lambda *args: seen.append(("post", args[0])))
    handle = polyak.register_optimizer_step_post_hook(
        lambda *args: seen.append(("global", args[0]))
    )
    try:
        trained(optimizer, [0])
    finally:
        handle.remove()
    assert seen == [("pre", optimizer), ("post", optimizer), ("global", optimizer)]


def test_autograd_sees_a_differentiable_step():
    """Of all, where all are so; the derivative by each rate is that of its own."""
    rates = [torch.tensor(0.5, requires_grad=True) for _ in "ab"]
    params = [torch.ones(2, requires_grad=True).clone() for _ in "ab"]
    optimizer = polyak.Mixed(
        polyak.SGD(params[:1], lr=rates[0], differentiable=True),
        polyak.Adagrad(params[1:], lr=rates[1], differentiable=True),
    )
    for param in params:
        param.grad = torch.tensor([3.0, -2.0])
    optimizer.step()
    ((params[0] + params[1]) @ torch.tensor([2.0, 1.0])).backward()
    assert [rate.grad.item() for rate in rates] == pytest.approx([-4.0, -1.0])


def test_sparse_gradients_go_to_those_that_take_them():
    """Who takes none says so, by its own name."""
    table, dense = Parameter(torch.ones(4, 2)), Parameter(torch.ones(3))
    optimizer = polyak.Mixed(
        polyak.SparseAdam([table], lr=0.1), polyak.AdamW([dense], lr=0.1)
    )
    table.grad = torch.sparse_coo_tensor(
        [[1]], torch.ones(1, 2), (4, 2), check_invariants=True
    )
    dense.grad = torch.ones(3)
    optimizer.step()
    assert (table != 1).all(1).tolist() == [False, True, False, False]
    row = table[1].detach().clone()
    table.grad = torch.sparse_coo_tensor(
        [[2]], torch.ones(1, 2), (4, 2), check_invariants=True
    )
    optimizer.step()
    assert_same(table[1].detach(), row)
    table.grad = torch.ones(4, 2)
    with pytest.raises(RuntimeError, match="SparseAdam does not support dense"):
        optimizer.step()


class Plain(polyak.Optimizer):
    """An optimizer of one's own."""

    def __init__(self, params, lr):
        super().__init__(params, dict(lr=lr))

    @staticmethod
    def rule(param, grad, *, lr):
        return param - lr * grad


class Sign(Plain):
    """Another, with the same hyperparameters."""

    @staticmethod
    def rule(param, grad, *, lr):
        return param - lr * torch.sign(grad)


def test_optimizers_of_ones_own_can_be_mixed():
    """A rule is all that it takes."""
    w, v = vector(), vector()
    optimizer = polyak.Mixed(Sign([w], lr=0.5), Plain([v], lr=2.0))
    w.grad, v.grad = torch.tensor([3.0, -0.1]), torch.tensor([3.0, -0.5])
    optimizer.step()
    assert (w.tolist(), v.tolist()) == ([-0.5, 0.5], [-6.0, 1.0])


def test_a_group_can_be_given_to_another_algorithm():
    """By its key, at any time."""
    w, v = vector(), vector()
    optimizer = polyak.Mixed(Sign([w], lr=1.0), Plain([v], lr=1.0))
    w.grad = torch.tensor([3.0, -0.5])
    optimizer.step()
    optimizer.param_groups[0]["optimizer"] = "Plain"
    optimizer.step()
    assert w.tolist() == [-4.0, 1.5]


# Stages


def test_averages_are_of_those_that_ask_for_them():
    """``swapped()`` gives these their averages, and leaves the others."""
    optimizer = trained(mixed((partial(SGD, ema_decay=0.5), ADAMW)))
    first, _, third, _ = params_of(optimizer)
    kept = third.detach().clone()
    average = optimizer.state[first]["param_ema"].clone()
    with optimizer.swapped():
        assert_same(first.detach(), average)
        assert_same(third.detach(), kept)
    assert "param_ema" not in optimizer.state[third]
    assert not torch.equal(first, average)


def test_a_decay_of_the_whole_is_for_all_that_have_none():
    """Also for groups that are added."""
    optimizer = mixed((partial(SGD, ema_decay=0.5), ADAMW), ema_decay=0.9)
    optimizer.add_param_group({"params": [vector()], "optimizer": "AdamW"})
    optimizer.add_param_group({"params": [vector()], "optimizer": "SGD"})
    decays = [group["ema_decay"] for group in optimizer.param_groups]
    assert decays == [0.5, 0.9, 0.9, 0.5]


@pytest.mark.parametrize("name", ["clip_grad_norm", "clip_grad_value"])
def test_limits_can_be_set_between_steps(name):
    """As on every optimizer."""
    optimizer, clipped = trained(mixed()), trained(mixed())
    setattr(clipped, name, 1e-3)
    for each in (optimizer, clipped):
        trained(each, [STEPS])
    assert not torch.equal(params_of(optimizer)[0], params_of(clipped)[0])
    with pytest.raises(ValueError, match=f"Mixed needs {name} > 0"):
        setattr(optimizer, name, -1.0)


# Groups


def test_the_groups_are_those_that_were_given():
    """The very dictionaries: who holds one of the optimizers' groups sets Mixed's."""
    first, second = shares("ab")
    sgd, adamw = SGD(first), ADAMW(second)
    schedule = polyak.lr_scheduler.StepLR(adamw, step_size=1)
    optimizer = polyak.Mixed(sgd, adamw)
    assert optimizer.param_groups[0] is sgd.param_groups[0]
    assert [group["optimizer"] for group in optimizer.param_groups] == ["SGD", "AdamW"]
    adamw.steps = 1
    schedule.step()
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.001)


def test_state_is_taken_over():
    """An optimizer that has done steps goes on from them."""
    first, second = shares("ab")
    sgd = trained(SGD(first))
    momentum = sgd.state[first[0]]["momentum_buffer"]
    optimizer = polyak.Mixed(sgd, ADAMW(second))
    assert optimizer.state[first[0]]["momentum_buffer"] is momentum
    expected = trained(SGD(shares("a")[0]), range(STEPS + 1))
    give_gradients(first, STEPS)
    optimizer.step()
    assert_same(first, params_of(expected))


def test_a_group_that_is_added_names_its_optimizer():
    """And has that one's defaults and checks."""
    optimizer, w = trained(mixed()), vector()
    optimizer.add_param_group({"params": [w], "optimizer": "AdamW", "lr": 0.5})
    group = optimizer.param_groups[-1]
    assert (group["optimizer"], group["weight_decay"], group["lr"]) == (
        "AdamW",
        0.1,
        0.5,
    )
    w.grad = torch.ones(2)
    optimizer.step()
    assert w.tolist() == pytest.approx([-0.5, -0.5])


@pytest.mark.parametrize(
    ("group", "kind", "message"),
    [
        ({}, ValueError, "Mixed has SGD, AdamW, and cannot tell"),
        ({"optimizer": "Adamw"}, ValueError, "Did you mean 'AdamW'"),
        ({"optimizer": "AdamW", "momentum": 0.9}, ValueError, "AdamW has no hyper"),
        ({"optimizer": "SGD", "lr": -1.0}, ValueError, "Invalid learning rate|SGD"),
        ({"optimizer": "SGD", "params": "taken"}, ValueError, "more than one param"),
        ([], TypeError, "param_group must be a dict"),
    ],
)
def test_a_group_that_does_not_fit_changes_nothing(group, kind, message):
    """The error is that of the optimizer that it is for."""
    optimizer = mixed()
    if isinstance(group, dict):
        taken = params_of(optimizer)[:1]
        group = {**group, "params": taken if "params" in group else [vector()]}
    with pytest.raises(kind, match=message):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 2


def test_a_group_of_nobody_is_refused_in_the_step():
    """Someone wrote another name into it."""
    optimizer = trained(mixed())
    optimizer.param_groups[0]["optimizer"] = "Lion"
    with pytest.raises(ValueError, match="'optimizer': 'Lion'"):
        trained(optimizer, [STEPS])


def another_sgd(params):
    return type("SGD", (polyak.SGD,), {})(params)


def with_a_hook(params):
    optimizer = polyak.SGD(params)
    optimizer.register_step_pre_hook(print)
    return optimizer


class Stepping(polyak.SGD):
    """It has a rule, but does something else in its step."""

    def step(self, closure=None):
        return super().step(closure)


@pytest.mark.parametrize(
    ("other", "kind", "message"),
    [
        (polyak.LBFGS, TypeError, "LBFGS has a step of its own"),
        (Stepping, TypeError, "Stepping has a step of its own"),
        (torch.optim.SGD, TypeError, r"optimizers of polyak.* and got torch\.optim"),
        (lambda params: params, TypeError, "optimizers of polyak.* and got builtins"),
        (lambda p: polyak.Mixed(SGD(p)), TypeError, "cannot be part of another"),
        (polyak.AdamW, ValueError, "AdamW more than once"),
        (partial(polyak.SGD, clip_grad_norm=1.0), ValueError, "clip_grad_norm of its"),
        (partial(polyak.SGD, nonfinite="skip"), ValueError, "nonfinite of its own"),
        (with_a_hook, ValueError, "SGD has hooks of its own"),
        (partial(polyak.SGD, differentiable=True), ValueError, "same `differentiable`"),
    ],
)
def test_what_cannot_be_mixed_is_refused(other, kind, message):
    """With what to do instead; what was given is as it was."""
    adamw = polyak.AdamW([vector()])
    keys = list(adamw.param_groups[0])
    with pytest.raises(kind, match=message):
        polyak.Mixed(adamw, other([vector()]))
    assert list(adamw.param_groups[0]) == keys


@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (polyak.Mixed, ValueError, "Mixed needs optimizers"),
        (lambda: polyak.Mixed(SGD([vector()]), lr=1), TypeError, "argument 'lr'"),
        (lambda: mixed(ema_decay=2.0), ValueError, "ema_decay"),
        (lambda: mixed(nonfinite="skp"), ValueError, "nonfinite"),
    ],
)
def test_bad_arguments_are_refused(build, kind, message):
    """As on every optimizer."""
    with pytest.raises(kind, match=message):
        build()


def test_parameters_that_two_have_are_refused():
    """Who would update them?"""
    w = vector()
    with pytest.raises(ValueError, match="more than one parameter group"):
        polyak.Mixed(SGD([w]), ADAMW([vector(), w]))


def test_two_classes_of_one_name_are_refused():
    """A group could not say which it is for."""
    with pytest.raises(ValueError, match="SGD more than once"):
        polyak.Mixed(SGD([vector()]), another_sgd([vector()]))


# Schedulers and scalers


@pytest.mark.parametrize("library", [polyak.lr_scheduler, torch.optim.lr_scheduler])
def test_one_scheduler_drives_all_rates(library):
    """Each from its own base: their ratio stays."""
    optimizer = mixed()
    warmup = library.LinearLR(optimizer, 0.5, total_iters=2)
    decay = library.ExponentialLR(optimizer, 0.5)
    scheduler = library.SequentialLR(optimizer, [warmup, decay], [2])
    rates = []
    for step in range(STEPS):
        rates.append([group["lr"] for group in optimizer.param_groups])
        trained(optimizer, [step])
        scheduler.step()
    factors = (0.5, 0.75, 1.0, 0.5)
    torch.testing.assert_close(rates, [[0.1 * f, 0.01 * f] for f in factors])


def test_a_schedule_sets_what_one_algorithm_has():
    """Other groups lack it."""
    optimizer = mixed()
    scheduler = polyak.Scheduler(
        optimizer, momentum=polyak.schedules.linear(1, 0.5, 2), groups=[0]
    )
    for step in range(2):
        trained(optimizer, [step])
        scheduler.step()
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.45)
    assert "momentum" not in optimizer.param_groups[1]


@pytest.mark.parametrize("fused", [None, True], ids=["default", "fused"])
def test_a_grad_scaler_drives_the_whole(fused):
    """An overflow in the gradients of one is no step of any."""
    kinds = (partial(SGD, fused=fused), partial(ADAMW, fused=fused))
    optimizer, expected = mixed(kinds), mixed(kinds)
    scaler = GradScaler("cpu", init_scale=8.0, growth_interval=100)
    for step in range(STEPS):
        params = params_of(optimizer)
        give_gradients(params, step)
        scaler.scale(torch.ones(()))
        for param in params:
            param.grad = None if param.grad is None else param.grad * 8.0
        if step == 1:
            params[-1].grad = params[-1].grad * float("inf")
        else:
            trained(expected, [step])
        scaler.step(optimizer)
        scaler.update(8.0)
    assert optimizer.steps == STEPS - 1
    torch.testing.assert_close(params_of(optimizer), params_of(expected))
    torch.testing.assert_close(states_of(optimizer), states_of(expected))


# What it tells of itself


def test_explain_names_the_algorithm_of_each_parameter():
    """Beside the engine that runs it."""
    explained = polyak.explain(mixed((MUON, ADAMW)))
    assert [served.rule for served in explained.served] == ["Muon"] * 2 + ["AdamW"] * 2
    assert "3 (2, 5) float32, AdamW: kernel 1" in str(explained)


def test_the_repr_names_the_algorithm_of_each_group():
    """As one of its values."""
    text = repr(mixed())
    assert text.startswith("Mixed (")
    assert "    optimizer: SGD\n" in text
    assert "    optimizer: AdamW\n" in text
