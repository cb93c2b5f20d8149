"""``clip_grad_norm`` and ``clip_grad_value``: as torch's functions before the step."""

import copy
import pickle

import pytest
import torch
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

import polyak
from polyak.engine import team
from tests.contract.case import LAYOUTS, Case
from tests.contract.comparison import (
    assert_same,
    assert_same_training,
    states_of,
)
from tests.contract.harness import (
    NAMES,
    advance,
    argument_sets,
    case_of,
    closure_for,
    every_given_gradients,
    every_kernel_of_vectors,
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

STEPS = 5
CONTIGUOUS = ("matrix", "vector", "scalar", "images")
# The gradients of all layouts are about 20 long: these limits are exceeded,
NORM, VALUE = {"clip_grad_norm": 2.0}, {"clip_grad_value": 0.5}
BOTH = {"clip_grad_norm": 2.0, "clip_grad_value": 0.125}
# and these are not.
AMPLE = {"clip_grad_norm": 1e6, "clip_grad_value": 1e3}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.complex64)

CASES = {name: find_case(name) or Case() for name in NAMES}
RULES = [name for name in NAMES if not CASES[name].closure]
DENSE = [name for name in RULES if CASES[name].sparse != "only"]
TYPED = [
    (name, dtype)
    for name in DENSE
    for dtype in DTYPES
    if CASES[name].complex or not dtype.is_complex
]

every_dense = pytest.mark.parametrize("name", DENSE)
every_dtype = pytest.mark.parametrize(("name", "dtype"), TYPED)
every_sparse = optimizers(lambda case: case.sparse != "no")
every_limit = pytest.mark.parametrize(
    "limits", [NORM, VALUE, BOTH], ids=["norm", "value", "both"]
)
every_engine = pytest.mark.parametrize("foreach", [None, False], ids=["any", "eager"])


def build(name, layouts=LAYOUTS, dtype=torch.float32, **arguments):
    """One of polyak's optimizers, with state."""
    arguments = {**case_of(name).stateful, **arguments}
    if not takes(name, "foreach"):
        arguments.pop("foreach", None)
    return make(ours(name), parameters(name, layouts, dtype), arguments)


def build_reference(name, layouts=LAYOUTS, dtype=torch.float32):
    """torch's, likewise."""
    kind, arguments = reference(name), case_of(name).stateful
    return make(kind, parameters(name, layouts, dtype), arguments)


def clip(params, clip_grad_norm=None, clip_grad_value=None):
    """What a training loop does before torch's step."""
    if clip_grad_norm is not None:
        clip_grad_norm_(params, clip_grad_norm)
    if clip_grad_value is not None:
        for param in params:
            if param.grad is not None and param.is_complex():
                parts = torch.view_as_real(param.grad)
                parts.clamp_(-clip_grad_value, clip_grad_value)
            elif param.grad is not None:
                clip_grad_value_([param], clip_grad_value)


def clipped_step(name, optimizer, step, limits):
    """A step of torch's optimizer on clipped gradients."""
    give_gradients(name, params_of(optimizer), step)
    clip(params_of(optimizer), **limits)
    optimizer.step()


def gradients(optimizer):
    """The gradients, as they are."""
    return [param.grad for param in params_of(optimizer)]


def every_argument():
    """Each optimizer with each set of arguments."""
    for name in DENSE:
        for set_name, arguments in argument_sets(name).items():
            yield pytest.param(name, arguments, id=f"{name}-{set_name}")


# What it computes


@every_dtype
@every_limit
@every_engine
def test_steps_are_torchs_on_clipped_gradients(name, dtype, limits, foreach):
    """However parameters lie, empty and 0-d ones, and some without gradient."""
    actual = build(name, dtype=dtype, foreach=foreach, **limits)
    expected = build_reference(name, dtype=dtype)
    scales = {}
    for step in range(STEPS):
        advance(name, actual, params_of(actual), step)
        clipped_step(name, expected, step, limits)
        ulps = 2 * case_of(name).ulps * (step + 1)
        assert_same_training(actual, expected, ulps, scales)


@pytest.mark.parametrize(("name", "arguments"), list(every_argument()))
def test_every_set_of_arguments_takes_both_limits(name, arguments):
    """The rule sees nothing but the clipped gradient."""
    actual = make(ours(name), parameters(name), {**arguments, **BOTH})
    expected = make(ours(name), parameters(name), arguments)
    scales = {}
    for step in range(STEPS):
        advance(name, actual, params_of(actual), step)
        clipped_step(name, expected, step, BOTH)
        ulps = 2 * case_of(name).ulps * (step + 1)
        assert_same_training(actual, expected, ulps, scales)


@every_dtype
@every_engine
def test_below_the_limits_steps_are_those_without(name, dtype, foreach):
    """Bit for bit; in another kernel, but for what the compiler chose to contract."""
    clipping = build(name, dtype=dtype, foreach=foreach, **AMPLE)
    plain = build(name, dtype=dtype, foreach=foreach)
    scales = {}
    for step in range(STEPS):
        for optimizer in (clipping, plain):
            advance(name, optimizer, params_of(optimizer), step)
        ulps = case_of(name).ulps * (step + 1) if clipping._plan.buckets else 0
        assert_same_training(clipping, plain, ulps, scales)


@every_dtype
@every_engine
def test_gradients_are_not_written_to(name, dtype, foreach):
    """They are the same tensors, with the same bits."""
    optimizer = build(name, dtype=dtype, foreach=foreach, **BOTH)
    for step in range(2):
        give_gradients(name, params_of(optimizer), step)
        before = gradients(optimizer)
        values = copy.deepcopy(before)
        optimizer.step()
        assert all(a is b for a, b in zip(gradients(optimizer), before, strict=True))
        assert_same(before, values)


@every_dense
def test_the_norm_is_that_of_all_groups(name):
    """One factor for all, whatever their hyperparameters."""
    pair = []
    for kind, more in ((ours(name), NORM), (reference(name), {})):
        first, *rest = parameters(name, LAYOUTS)
        groups = [{"params": [first]}, {"params": rest, "lr": 0.5}]
        pair.append(make(kind, groups, {**case_of(name).stateful, **more}))
    actual, expected = pair
    for step in range(STEPS):
        advance(name, actual, params_of(actual), step)
        clipped_step(name, expected, step, NORM)
    assert_same_training(actual, expected, 2 * case_of(name).ulps * STEPS)


def mixed(name):
    """Parameters of several dtypes; those with gaps in their memory run eagerly."""
    return [
        *parameters(name, ("matrix", "vector", "transposed")),
        *parameters(name, ("matrix", "scalar", "empty"), torch.bfloat16),
        *parameters(name, ("matrix", "images", "sliced"), torch.float64),
    ]


def scale_to(params, limit):
    """Clip the norm by its definition, in double precision."""
    given = [param for param in params if param.grad is not None]
    norm = sum(param.grad.double().square().sum() for param in given).sqrt()
    assert norm > limit
    for param in given:
        param.grad = (param.grad.double() * (limit / (norm + 1e-6))).to(param.dtype)


@every_kernel_of_vectors
def test_the_norm_is_that_of_all_dtypes_and_engines(name):
    """Several kernels and eager members together: each to its own precision."""
    actual = make(ours(name), mixed(name), {**case_of(name).stateful, **NORM})
    expected = make(reference(name), mixed(name), case_of(name).stateful)
    scales = {}
    for step in range(STEPS):
        advance(name, actual, params_of(actual), step)
        give_gradients(name, params_of(expected), step)
        scale_to(params_of(expected), 2.0)
        expected.step()
        ulps = 2 * case_of(name).ulps * (step + 1)
        assert_same_training(actual, expected, ulps, scales)
    assert actual._plan.eager
    assert len(actual._plan.buckets) > 2


@every_engine
def test_squares_do_not_overflow(foreach):
    """The norm of float32 gradients is computed in float64."""
    param = Parameter(torch.zeros(4))
    optimizer = polyak.SGD([param], lr=1.0, foreach=foreach, **NORM)
    param.grad = torch.full((4,), 1e30)
    optimizer.step()
    assert param.tolist() == [-1.0] * 4
    steps = polyak.functional.transform(polyak.SGD, lr=1.0, **NORM)
    params = {"w": torch.zeros(4)}
    params, _ = steps.update(params, {"w": param.grad}, steps.init(params))
    assert params["w"].tolist() == [-1.0] * 4


@every_dense
@every_engine
def test_without_gradients_nothing_is_clipped(name, foreach):
    """Neither where there are none, nor where they are zero or empty."""
    clipping, plain = (build(name, foreach=foreach, **more) for more in (BOTH, {}))
    for optimizer in (clipping, plain):
        optimizer.step()
        for param in params_of(optimizer):
            param.grad = torch.zeros_like(param)
        optimizer.step()
        for param in params_of(optimizer):
            param.grad = None if param.numel() else torch.zeros_like(param)
        optimizer.step()
    assert_same_training(clipping, plain)
    assert clipping.steps == 3


@every_kernel_of_vectors
def test_a_team_of_threads_changes_no_bit(name):
    """The norm is a sum in the same order, whoever adds."""
    before, found = torch.get_num_threads(), []
    rng = torch.Generator().manual_seed(0)
    count = team.SERIAL_BYTES // 4 + 70_001
    values, grad = torch.randn(2, count, generator=rng)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert team.threads_for(4 * count) == threads
            param = Parameter(values.clone())
            optimizer = make(ours(name), [param], NORM)
            for _ in range(2):
                param.grad = grad.clone()
                optimizer.step()
            assert not optimizer._plan.eager
            found.append(optimizer)
    finally:
        torch.set_num_threads(before)
    assert_same_training(*found)


# Sparse gradients


def tables(name):
    """Two parameters for sparse gradients."""
    rng = torch.Generator().manual_seed(0)
    return [Parameter(torch.randn(rows, 4, generator=rng)) for rows in (6, 5)]


def clip_sparse(params, clip_grad_norm=None, clip_grad_value=None):
    """Clip by the definition what is stored, after rows that occur twice are summed."""
    for param in params:
        param.grad = param.grad.coalesce() if param.grad.is_sparse else param.grad
    held = [p.grad.values() if p.grad.is_sparse else p.grad for p in params]
    factor = 1.0
    if clip_grad_norm is not None:
        norm = sum(values.double().square().sum() for values in held).sqrt().item()
        assert norm > clip_grad_norm
        factor = clip_grad_norm / (norm + 1e-6)
    for values in held:
        values.mul_(factor)
        if clip_grad_value is not None:
            values.clamp_(-clip_grad_value, clip_grad_value)


@every_sparse
@every_limit
@pytest.mark.parametrize("dense_too", [False, True], ids=["sparse", "and_dense"])
def test_sparse_gradients_are_clipped_by_their_sums(name, limits, dense_too):
    """Also beside a dense gradient, where the optimizer takes one."""
    pair = [make(ours(name), tables(name), more) for more in (limits, {})]
    for step in range(STEPS):
        for optimizer, at_hand in zip(pair, ({}, limits), strict=True):
            rng = torch.Generator().manual_seed(step)
            params = params_of(optimizer)
            for param in params:
                param.grad = sparse_gradient(param, rng)
            if dense_too and case_of(name).sparse == "also":
                params[0].grad = params[0].grad.to_dense()
            if at_hand:
                clip_sparse(params, **at_hand)
            optimizer.step()
    assert_same_training(*pair, 2 * case_of(name).ulps * STEPS)


@every_sparse
def test_sparse_gradients_are_not_written_to(name):
    """Nor coalesced in place."""
    optimizer = make(ours(name), tables(name), BOTH)
    for param in params_of(optimizer):
        param.grad = sparse_gradient(param, torch.Generator().manual_seed(0))
    before = gradients(optimizer)
    values = [(grad._indices().clone(), grad._values().clone()) for grad in before]
    optimizer.step()
    for param, grad, (rows, numbers) in zip(
        params_of(optimizer), before, values, strict=True
    ):
        assert param.grad is grad
        assert not grad.is_coalesced()
        assert_same([grad._indices(), grad._values()], [rows, numbers])


# The limits


@every_dense
def test_limits_may_change_at_any_time(name):
    """The next step has them; None turns them off."""
    changes = [
        {},
        {"clip_grad_norm": 0.5, "clip_grad_value": None},
        {"clip_grad_norm": 3.0, "clip_grad_value": None},
        {"clip_grad_norm": 3.0, "clip_grad_value": 0.1},
        {"clip_grad_norm": None, "clip_grad_value": 0.2},
        {"clip_grad_norm": None, "clip_grad_value": None},
    ]
    actual, expected = build(name), build_reference(name)
    scales = {}
    for step, limits in enumerate(changes):
        for key, value in limits.items():
            setattr(actual, key, value)
        advance(name, actual, params_of(actual), 0)  # the gradients alone keep a plan
        clipped_step(name, expected, 0, limits)
        ulps = 2 * case_of(name).ulps * (step + 1)
        assert_same_training(actual, expected, ulps, scales)


@every_dense
def test_a_limit_may_be_a_tensor(name):
    """It is read at each step."""
    actual, expected = build(name), build(name)
    norm = actual.clip_grad_norm = torch.tensor(2.0, dtype=torch.float64)
    value = actual.clip_grad_value = torch.tensor(0.1, dtype=torch.float64)
    for _ in range(STEPS):
        norm *= 0.9
        value *= 0.8
        expected.clip_grad_norm = norm.item()
        expected.clip_grad_value = value.item()
        for optimizer in (actual, expected):
            advance(name, optimizer, params_of(optimizer), 0)
    assert_same_training(actual, expected, case_of(name).ulps)


@every_given_gradients
def test_limits_are_no_part_of_a_checkpoint(name):
    """Neither written, nor changed by loading."""
    clipping, plain = build(name, **BOTH), build(name)
    assert_same(clipping.state_dict(), plain.state_dict())
    for optimizer, limits in ((plain, BOTH), (clipping, {})):
        other = build(name, **limits)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        assert other.clip_grad_norm == limits.get("clip_grad_norm")
        assert other.clip_grad_value == limits.get("clip_grad_value")


def by_pickle(value):
    return pickle.loads(pickle.dumps(value))


@every_given_gradients
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, by_pickle])
def test_copies_keep_the_limits(name, way):
    """And the counts of steps."""
    optimizer = build(name, **BOTH, nonfinite="skip")
    train(name, optimizer, params_of(optimizer), range(2))
    other = way(optimizer)
    kept = ("clip_grad_norm", "clip_grad_value", "nonfinite", "steps", "skipped_steps")
    for key in kept:
        assert getattr(other, key) == getattr(optimizer, key)
    assert other.steps == 2


@every_dense
def test_a_deep_copy_continues_bit_for_bit(name):
    """It clips as the original does."""
    optimizer = build(name, CONTIGUOUS, **BOTH)
    train(name, optimizer, params_of(optimizer), range(2))
    other = copy.deepcopy(optimizer)
    for each in (optimizer, other):
        train(name, each, params_of(each), range(2, STEPS))
    assert_same_training(other, optimizer)


# With other things


@every_kernel_of_vectors
def test_clipping_is_a_part_of_the_kernels(name):
    """They serve every parameter still, and explain shows what is done."""
    kernels = len(polyak.explain(build(name, ("matrix", "vector"))).kernels)
    for limits, shown in (
        ({}, ()),
        (NORM, ("grad_factor",)),
        (VALUE, ("clip_grad_value",)),
        (BOTH, ("grad_factor", "clip_grad_value")),
    ):
        optimizer = build(name, ("matrix", "vector"), **limits)
        train(name, optimizer, params_of(optimizer), range(2))
        told = polyak.explain(optimizer, kernel=True)
        assert {served.engine for served in told.served} == {"cpu"}
        assert len(told.kernels) == kernels
        for word in ("grad_factor", "clip_grad_value"):
            assert (word in str(told)) == (word in shown)


@every_dense
def test_averages_are_those_of_clipped_steps(name):
    """``ema_decay`` sees the new values of the parameters."""
    actual = build(name, ema_decay=0.8, **BOTH)
    expected = build(name, ema_decay=0.8)
    for step in range(STEPS):
        advance(name, actual, params_of(actual), step)
        clipped_step(name, expected, step, BOTH)
    assert_same_training(actual, expected, 2 * case_of(name).ulps * STEPS)
    assert all("param_ema" in state for state in states_of(actual))


@every_dense
def test_the_gradients_of_a_closure_are_clipped(name):
    """It gives them before the step reads them."""
    actual, expected = build(name, **BOTH), build_reference(name)
    for step in range(STEPS):
        actual.step(closure_for(actual, params_of(actual), step))
        closure_for(expected, params_of(expected), step)()
        clip(params_of(expected), **BOTH)
        expected.step()
    assert_same_training(actual, expected, 2 * case_of(name).ulps * STEPS)


# Differentiable steps

differentiable = pytest.mark.parametrize(
    "name", [name for name in DENSE if takes(name, "differentiable")]
)


def numbers(seed, count):
    """Numbers in float64, none of them near zero or a limit."""
    rng = torch.Generator().manual_seed(seed)
    drawn = torch.randn(count, dtype=torch.float64, generator=rng)
    return (drawn + 0.3 * drawn.sign()).requires_grad_()


def clipped_by_hand(grads, clip_grad_norm=None, clip_grad_value=None):
    """The definition, as functions that autograd knows."""
    if clip_grad_norm is not None:
        norm = torch.cat(grads).square().sum().sqrt()
        factor = (clip_grad_norm / (norm + 1e-6)).clamp(max=1)
        grads = [grad * factor for grad in grads]
    if clip_grad_value is not None:
        grads = [grad.clamp(-clip_grad_value, clip_grad_value) for grad in grads]
    return grads


def differentiable_steps(name, params, grads, limits, **settings):
    """The parameters after two steps, as functions of all."""
    params = [param.clone() for param in params]
    arguments = {**case_of(name).stateful, "differentiable": True, "lr": 0.3}
    if takes(name, "eps"):  # or rules that normalise hardly have derivatives
        arguments["eps"] = 0.1
    optimizer = make(ours(name), params, {**arguments, **settings})
    for scale in (1.0, 0.5):
        given = clipped_by_hand([scale * grad for grad in grads], **limits)
        for param, grad in zip(params, given, strict=True):
            param.grad = grad
        optimizer.step()
    return tuple(params)


@differentiable
@every_limit
@pytest.mark.parametrize("nonfinite", ["ignore", "skip"])
def test_derivatives_go_through_the_clipping(name, limits, nonfinite):
    """Those of a step on gradients that are clipped by hand."""
    inputs = [numbers(1, 6), numbers(2, 4), numbers(3, 6), numbers(4, 4)]
    found = []
    for by_hand, settings in (
        ({}, {**limits, "nonfinite": nonfinite}),
        (limits, {}),
    ):
        outputs = differentiable_steps(
            name, inputs[:2], inputs[2:], by_hand, **settings
        )
        weights = [numbers(5, 6).detach(), numbers(6, 4).detach()]
        total = sum((w * o).sum() for w, o in zip(weights, outputs, strict=True))
        derivatives = torch.autograd.grad(total, inputs, materialize_grads=True)
        found.append([*(output.detach() for output in outputs), *derivatives])
    assert_same(*found, ulps=256)


@differentiable
def test_derivatives_are_those_of_finite_differences(name):
    """By the parameters and the gradients."""

    def steps(*inputs):
        return differentiable_steps(name, inputs[:2], inputs[2:], {}, **NORM)

    inputs = (numbers(1, 3), numbers(2, 2), numbers(3, 3), numbers(4, 2))
    assert torch.autograd.gradcheck(steps, inputs)
