"""``nonfinite``: what a step does if a gradient has an infinite number or a NaN."""

import copy
import math
import re

import pytest
import torch
from torch.nn import Parameter, ParameterDict
from torch.nn.utils import clip_grad_norm_

import polyak
from tests.contract.case import LAYOUTS, Case
from tests.contract.comparison import (
    assert_nothing_changed,
    assert_same,
    assert_same_training,
    everything,
)
from tests.contract.harness import (
    NAMES,
    any_closure,
    case_of,
    every_given_gradients,
    find_case,
    give_gradients,
    make,
    optimizers,
    ours,
    parameters,
    params_of,
    reference,
    sparse_gradient,
    takes,
    train,
)

STEPS = 4
BAD = (-math.inf, math.nan)
DTYPES = (torch.float32, torch.bfloat16, torch.complex64)

CASES = {name: find_case(name) or Case() for name in NAMES}
RULES = [name for name in NAMES if not CASES[name].closure]
TYPED = [
    (name, dtype)
    for name in RULES
    for dtype in DTYPES
    if CASES[name].complex or not dtype.is_complex
]

every_dtype = pytest.mark.parametrize(("name", "dtype"), TYPED)
every_dense = pytest.mark.parametrize(
    "name", [name for name in RULES if CASES[name].sparse != "only"]
)
every_bad = pytest.mark.parametrize("bad", BAD)
every_time = pytest.mark.parametrize("steps", [0, 2], ids=["first_step", "later_step"])
every_engine = pytest.mark.parametrize("foreach", [None, False], ids=["any", "eager"])


def build(name, layouts=LAYOUTS, dtype=torch.float32, **arguments):
    """One of polyak's optimizers, with state."""
    arguments = {**case_of(name).stateful, **arguments}
    if not takes(name, "foreach"):
        arguments.pop("foreach", None)
    return make(ours(name), parameters(name, layouts, dtype), arguments)


def give_bad(name, params, step, bad, at=-1):
    """The gradients of a step, one of which has one bad number."""
    give_gradients(name, params, step)
    grads = [param.grad for param in params if param.grad is not None]
    grads = [grad for grad in grads if grad.numel()]
    grad = grads[at]
    values = grad._values() if grad.is_sparse else grad
    at = (0,) * values.dim()
    values[at] = complex(1.0, bad) if values.is_complex() else bad


def bad_step(name, optimizer, step, bad, at=-1):
    """A step on them."""
    give_bad(name, params_of(optimizer), step, bad, at)
    optimizer.step()


def counts(optimizer):
    """How many steps were done, and left out."""
    return optimizer.steps, optimizer.skipped_steps


# Skipped steps


@every_dtype
@every_bad
@every_time
@every_engine
def test_a_skipped_step_changes_nothing_but_its_count(name, dtype, bad, steps, foreach):
    """Every bit and every object stays; training goes on as if it had not been."""
    optimizer, control = (
        build(name, dtype=dtype, foreach=foreach, nonfinite="skip") for _ in range(2)
    )
    for each in (optimizer, control):
        train(name, each, params_of(each), range(steps))
    before = everything(optimizer)
    for at in (0, -1):
        bad_step(name, optimizer, steps, bad, at)
        assert_nothing_changed(optimizer, before)
        assert len(optimizer.state) == len(control.state)
    assert counts(optimizer) == (steps, 2)
    for each in (optimizer, control):
        train(name, each, params_of(each), range(steps, steps + STEPS))
    assert_same_training(optimizer, control)
    assert counts(optimizer) == (steps + STEPS, 2)
    assert counts(control) == (steps + STEPS, 0)


@every_given_gradients
def test_good_steps_are_those_without_the_check(name):
    """Bit for bit, and all of them are counted."""
    checking, plain = build(name, nonfinite="skip"), build(name)
    for optimizer in (checking, plain):
        train(name, optimizer, params_of(optimizer), range(STEPS))
        assert counts(optimizer) == (STEPS, 0)
    assert_same_training(checking, plain)


@every_given_gradients
@every_bad
def test_bad_gradients_of_new_parameters_leave_no_state(name, bad):
    """A parameter whose first gradient is bad begins later, at its first step."""
    optimizer, control = (build(name, nonfinite="skip") for _ in range(2))
    for each in (optimizer, control):
        give_gradients(name, params_of(each)[:1], 0)
        each.step()
    late = params_of(optimizer)[1:]
    before = everything(optimizer)
    bad_step(name, optimizer, 1, bad)
    assert_nothing_changed(optimizer, before)
    assert not any(param in optimizer.state for param in late)
    for each in (optimizer, control):
        train(name, each, params_of(each), range(2, 2 + STEPS))
    assert_same_training(optimizer, control)


@every_given_gradients
@every_engine
@pytest.mark.parametrize("size", [1e200, -1e200, 1e308])
def test_huge_numbers_are_finite(name, foreach, size):
    """Though their squares are not."""
    checking, plain = (
        build(name, dtype=torch.float64, foreach=foreach, nonfinite=nonfinite)
        for nonfinite in ("raise", "ignore")
    )
    for step in range(2):
        for optimizer in (checking, plain):
            bad_step(name, optimizer, step, size)
    assert_same_training(checking, plain)
    assert counts(checking) == (2, 0)


@every_given_gradients
@every_engine
def test_many_large_numbers_are_finite(name, foreach):
    """Each can be squared in single precision, their sum cannot."""
    optimizer = build(name, foreach=foreach, nonfinite="skip")
    for step in range(2):
        give_gradients(name, params_of(optimizer), step)
        for param in params_of(optimizer):
            if param.grad is not None:
                param.grad = param.grad * 1e19
        optimizer.step()
    assert counts(optimizer) == (2, 0)


@optimizers(lambda case: case.sparse == "also")
@every_bad
def test_sparse_gradients_are_checked(name, bad):
    """What they store, whichever row it is in."""
    table = Parameter(torch.ones(6, 4))
    optimizer = make(ours(name), [table], {"nonfinite": "skip"})
    for step in range(3):
        table.grad = sparse_gradient(table, torch.Generator().manual_seed(step))
        before = everything(optimizer)
        table.grad._values()[-1, -1] = bad
        optimizer.step()
        assert_nothing_changed(optimizer, before)
        table.grad = sparse_gradient(table, torch.Generator().manual_seed(step))
        optimizer.step()
    assert counts(optimizer) == (3, 3)


@optimizers(lambda case: case.sparse != "no")
def test_rows_that_occur_twice_are_summed_in_single_precision(name):
    """As the rule sums them: no half of a number overflows."""
    table = Parameter(torch.ones(6, 4, dtype=torch.float16))
    optimizer = make(ours(name), [table], {"nonfinite": "raise"})
    values = torch.full((2, 4), 6e4, dtype=torch.float16)
    table.grad = torch.sparse_coo_tensor(
        [[1, 1]], values, table.shape, check_invariants=True
    )
    optimizer.step()
    assert counts(optimizer) == (1, 0)


# What surrounds a skipped step


@every_given_gradients
def test_hooks_run_around_a_skipped_step(name):
    """The optimizer's own, and those of all optimizers."""
    optimizer, called = build(name, nonfinite="skip"), []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(
        lambda *_: called.append(("after", optimizer.skipped_steps))
    )
    bad_step(name, optimizer, 0, math.nan)
    assert called == ["before", ("after", 1)]


@every_given_gradients
def test_the_loss_of_a_skipped_step_is_returned(name):
    """The closure ran."""
    optimizer = build(name, nonfinite="skip")
    params = params_of(optimizer)

    def closure():
        give_bad(name, params, 0, math.inf)
        return 42.0

    assert optimizer.step(closure) == 42.0
    assert counts(optimizer) == (0, 1)
    optimizer.step(any_closure(name, optimizer, params, 0))
    assert counts(optimizer) == (1, 1)


@every_given_gradients
@pytest.mark.parametrize("library", [torch.optim, polyak], ids=["torch", "polyak"])
def test_schedulers_do_not_warn_of_a_skipped_first_step(name, library):
    """``optimizer.step`` was called, which is all they ask for."""
    optimizer = build(name, nonfinite="skip")
    scheduler = library.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    lr = optimizer.param_groups[0]["lr"]
    bad_step(name, optimizer, 0, math.nan)
    scheduler.step()  # a warning is an error here
    assert optimizer.param_groups[0]["lr"] == lr / 2


@every_given_gradients
def test_the_choice_may_change_at_any_time(name):
    """The next step has it; None is the default."""
    optimizer = build(name)
    assert optimizer.nonfinite == "ignore"
    optimizer.nonfinite = "skip"
    bad_step(name, optimizer, 0, math.nan)
    assert counts(optimizer) == (0, 1)
    optimizer.nonfinite = "raise"
    with pytest.raises(RuntimeError, match="not finite"):
        bad_step(name, optimizer, 0, math.nan)
    optimizer.nonfinite = None
    assert optimizer.nonfinite == "ignore"
    bad_step(name, optimizer, 0, math.nan)
    assert counts(optimizer) == (1, 1)


@every_dense
def test_clipping_and_skipping_together(name):
    """Bad steps are left out; the others are torch's on clipped gradients."""
    actual = build(name, clip_grad_norm=2.0, nonfinite="skip")
    expected = make(reference(name), parameters(name, LAYOUTS), case_of(name).stateful)
    scales = {}
    for step in range(STEPS):
        bad_step(name, actual, step, BAD[step % len(BAD)])
        for optimizer in (actual, expected):
            give_gradients(name, params_of(optimizer), step)
        clip_grad_norm_(params_of(expected), 2.0)
        for optimizer in (actual, expected):
            optimizer.step()
        ulps = 2 * case_of(name).ulps * (step + 1)
        assert_same_training(actual, expected, ulps, scales)
    assert counts(actual) == (STEPS, STEPS)


@every_dense
@every_bad
@every_engine
def test_a_clipped_value_is_bad_before_it_is_clipped(name, bad, foreach):
    """What clip_grad_value would make of an infinite number is not computed with."""
    optimizer = build(name, foreach=foreach, clip_grad_value=0.1, nonfinite="skip")
    before = everything(optimizer)
    bad_step(name, optimizer, 0, bad)
    assert_nothing_changed(optimizer, before)


@every_given_gradients
def test_averages_stand_still_in_a_skipped_step(name):
    """They begin at the first step that is done."""
    optimizer = build(name, nonfinite="skip", ema_decay=0.5)
    bad_step(name, optimizer, 0, math.nan)
    assert not optimizer.state
    train(name, optimizer, params_of(optimizer), range(2))
    before = everything(optimizer)
    bad_step(name, optimizer, 2, math.nan)
    assert_nothing_changed(optimizer, before)


@every_given_gradients
def test_copies_count_on(name):
    """Each for itself."""
    optimizer = build(name, nonfinite="skip")
    bad_step(name, optimizer, 0, math.nan)
    other = copy.deepcopy(optimizer)
    train(name, other, params_of(other), range(2))
    assert counts(other) == (2, 1)
    assert counts(optimizer) == (0, 1)


# Errors instead


@every_dtype
@every_bad
@every_time
@every_engine
def test_an_error_changes_nothing(name, dtype, bad, steps, foreach):
    """It names the parameter; a good step can follow."""
    optimizer, control = (
        build(name, dtype=dtype, foreach=foreach, nonfinite="raise") for _ in range(2)
    )
    for each in (optimizer, control):
        train(name, each, params_of(each), range(steps))
    params = params_of(optimizer)
    before = everything(optimizer)
    give_bad(name, params, steps, bad)
    at = max(
        index
        for index, param in enumerate(params)
        if param.grad is not None and param.numel()
    )
    words = f"{name}: the gradient of parameter {at} is not finite; nothing was changed"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=words):
            optimizer.step()
        assert_nothing_changed(optimizer, before)
        assert len(optimizer.state) == len(control.state)
    assert counts(optimizer) == (steps, 0)
    for each in (optimizer, control):
        train(name, each, params_of(each), range(steps, steps + STEPS))
    assert_same_training(optimizer, control)


@every_given_gradients
def test_an_error_uses_names_and_counts_what_it_leaves_out(name):
    """Three parameters in their order, and how many more there are."""
    model = ParameterDict({f"layer{index}": torch.ones(3, 3) for index in range(6)})
    optimizer = make(ours(name), model.named_parameters(), {"nonfinite": "raise"})

    def words_for(*bad):
        for index, param in enumerate(params_of(optimizer)):
            give_gradients(name, [param], index)
            if index in bad:
                param.grad = param.grad * math.nan
        with pytest.raises(RuntimeError) as caught:
            optimizer.step()
        return re.search("the gradient of (.*) is not finite", str(caught.value))[1]

    layers = [f"parameter layer{index}" for index in range(6)]
    assert words_for(4) == layers[4]
    assert words_for(0, 2, 5) == ", ".join((layers[0], layers[2], layers[5]))
    assert words_for(1, 2, 3, 4, 5) == ", ".join(layers[1:4]) + " and 2 more"


# Neither


def assert_same_but_for_lost(actual, expected, ulps, scales):
    """Parameters are the same; those that have bad numbers have some in both."""
    for index, (param, due) in enumerate(
        zip(params_of(actual), params_of(expected), strict=True)
    ):
        if due.isfinite().all():
            assert_same(param, due, ulps, f"params[{index}]", scales)
        else:
            assert not param.isfinite().all()


@every_dense
@every_bad
@every_engine
@every_time
@pytest.mark.parametrize("limit", [None, 2.0], ids=["plain", "clipped"])
def test_ignored_numbers_do_what_they_do_in_torch(name, bad, foreach, limit, steps):
    """They spoil their parameter; a NaN spoils all others too if it is in the norm."""
    actual = build(name, foreach=foreach, clip_grad_norm=limit)
    expected = make(reference(name), parameters(name, LAYOUTS), case_of(name).stateful)
    scales = {}
    for step in range(steps + 2):
        for optimizer in (actual, expected):
            if step == steps:
                give_bad(name, params_of(optimizer), step, bad)
            else:
                give_gradients(name, params_of(optimizer), step)
        if limit is not None:
            clip_grad_norm_(params_of(expected), limit)
        for optimizer in (actual, expected):
            optimizer.step()
        ulps = 2 * case_of(name).ulps * (step + 1)
        assert_same_but_for_lost(actual, expected, ulps, scales)
    assert counts(actual) == (steps + 2, 0)


@every_dense
def test_a_nan_is_not_hidden_by_an_infinite_norm(name):
    """The norm is NaN, as torch's is: infinity would make zeros of what is finite."""
    actual = build(name, clip_grad_norm=2.0)
    expected = make(reference(name), parameters(name, LAYOUTS), case_of(name).stateful)
    for optimizer in (actual, expected):
        give_bad(name, params_of(optimizer), 0, math.nan)
        params_of(optimizer)[0].grad.fill_(math.inf)
    clip_grad_norm_(params_of(expected), 2.0)
    for optimizer in (actual, expected):
        optimizer.step()
    assert_same_but_for_lost(actual, expected, case_of(name).ulps, {})


# What is refused

REFUSED = [
    (key, value, kind)
    for key in ("clip_grad_norm", "clip_grad_value")
    for value, kind in (
        (0, ValueError),
        (0.0, ValueError),
        (-1, ValueError),
        (math.nan, ValueError),
        (-math.inf, ValueError),
        (torch.ones(2), ValueError),
        ("x", TypeError),
        (True, TypeError),
        ([1.0], TypeError),
    )
] + [("nonfinite", value, ValueError) for value in ("other", "Skip", "", True, 1)]


@every_given_gradients
@pytest.mark.parametrize(("key", "value", "kind"), REFUSED)
def test_bad_settings_are_refused(name, key, value, kind):
    """By the constructor and when they are set, with nothing changed."""
    words = f"(?s)(?=.*{name})(?=.*{key})"
    with pytest.raises(kind, match=words):
        make(ours(name), parameters(name), {key: value})
    held = "skip" if key == "nonfinite" else 1.0
    optimizer = make(ours(name), parameters(name), {key: held})
    with pytest.raises(kind, match=words):
        setattr(optimizer, key, value)
    assert getattr(optimizer, key) == held


@every_given_gradients
def test_a_misspelt_setting_is_refused(name):
    """With the nearest that there is."""
    with pytest.raises(TypeError, match="Did you mean 'clip_grad_norm'"):
        make(ours(name), parameters(name), {"clip_gradnorm": 1.0})


@pytest.mark.parametrize(
    ("key", "value"),
    [("clip_grad_norm", 1.0), ("clip_grad_value", 1.0), ("nonfinite", "skip")],
)
def test_without_a_rule_there_is_nothing_to_set(key, value):
    """An optimizer whose step is its own has no stages."""
    params = [Parameter(torch.ones(2))]
    with pytest.raises(TypeError, match=rf"LBFGS.__init__\(\) got .* '{key}'"):
        polyak.LBFGS(params, **{key: value})
    optimizer = polyak.LBFGS(params)
    with pytest.raises(AttributeError, match=f"LBFGS has no rule, and so no {key}"):
        setattr(optimizer, key, value)
    assert_same(getattr(optimizer, key), None if key != "nonfinite" else "ignore")
