"""``ema_decay`` keeps averages of the parameters, and changes nothing else."""

import re

import pytest
import torch
from torch.amp import GradScaler
from torch.nn import Embedding, Parameter, ParameterList
from torch.optim import swa_utils as torchs

import polyak
from polyak.schedules import custom, warmup
from tests.contract.case import LAYOUTS, Case
from tests.contract.comparison import (
    assert_nothing_changed,
    assert_same,
    assert_same_training,
    everything,
    largest,
    states_of,
)
from tests.contract.harness import (
    DENSE,
    NAMES,
    SMALL,
    advance,
    argument_sets,
    case_of,
    every_kernel_of_vectors,
    find_case,
    give_gradients,
    in_kernels,
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

STEPS = 6
DECAY = 0.8
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.complex64)
HALF = (torch.bfloat16, torch.float16)
WIDE = torch.float32

# Every optimizer takes two of them at least.
LABELS = (*SMALL, "transposed")

RULES = [name for name in NAMES if hasattr(ours(name), "rule")]
CASES = {name: find_case(name) or Case() for name in RULES}
every_rule = pytest.mark.parametrize("name", RULES)
every_dense_rule = pytest.mark.parametrize(
    "name", [name for name in RULES if CASES[name].sparse != "only"]
)
every_sparse_rule = optimizers(lambda case: case.sparse != "no")


TYPED = [
    (name, dtype)
    for name in RULES
    for dtype in DTYPES
    if CASES[name].complex or not dtype.is_complex
]
every_dtype = pytest.mark.parametrize(("name", "dtype"), TYPED)


def averaging(name, layouts=LABELS, dtype=torch.float32, **arguments):
    """An optimizer with averages."""
    arguments = {**case_of(name).stateful, "ema_decay": DECAY, **arguments}
    return make(ours(name), parameters(name, layouts, dtype), arguments)


def averages(optimizer):
    """The average of each parameter; None where there is none."""
    states = (optimizer.state.get(param, {}) for param in params_of(optimizer))
    return [state.get("param_ema") for state in states]


def without_averages(optimizer):
    """The state of each parameter, but for its average; None where that is all."""
    return [
        {key: value for key, value in (state or {}).items() if key != "param_ema"}
        or None
        for state in states_of(optimizer)
    ]


def wide(tensor):
    """A copy in double precision."""
    dtype = torch.complex128 if tensor.is_complex() else torch.float64
    return tensor.detach().to(dtype, copy=True)


class Recursion:
    """The averages by their definition, from what the parameters hold after a step."""

    def __init__(self, params):
        self.params = list(params)
        self.values = [wide(param) for param in self.params]
        self.steps = 0

    def update(self, decay=DECAY):
        """Take in a step; parameters, or rows of them, without gradient had none."""
        self.steps += 1
        for param, value in zip(self.params, self.values, strict=True):
            grad = param.grad
            if grad is not None:
                at = grad.coalesce().indices()[0] if grad.is_sparse else ...
                value[at] = decay * value[at] + (1 - decay) * wide(param)[at]

    def assert_near(self, found):
        """Averages are these, but for rounding; half precision rounds the weights."""
        for param, exact, average in zip(self.params, self.values, found, strict=True):
            if average is None:
                assert torch.equal(exact, wide(param))
                continue
            assert average.shape == param.shape
            half = param.dtype in HALF
            assert average.dtype == (torch.float32 if half else param.dtype)
            unit = torch.finfo(param.dtype).eps / 2
            unit *= 1 if half else 4 * self.steps
            assert largest(wide(average) - exact) <= unit * largest(exact)


def every_argument():
    """Each optimizer with each dtype and each set of arguments."""
    for name, dtype in TYPED:
        for set_name, arguments in argument_sets(name).items():
            words = f"{name}-{str(dtype).removeprefix('torch.')}-{set_name}"
            yield pytest.param(name, dtype, arguments, id=words)


# What it is


@pytest.mark.parametrize(("name", "dtype", "arguments"), list(every_argument()))
def test_steps_are_those_without_averages(name, dtype, arguments):
    """Bit for bit, the parameters and the rest of the state, however they lie."""
    pair = [
        make(ours(name), parameters(name, LAYOUTS, dtype), {**arguments, **more})
        for more in ({}, {"ema_decay": DECAY})
    ]
    for optimizer in pair:
        train(name, optimizer, params_of(optimizer), range(STEPS))
    plain, averaged = pair
    assert_same(params_of(averaged), params_of(plain))
    assert_same(without_averages(averaged), states_of(plain))
    assert all(average is not None for average in averages(averaged))


@every_dtype
def test_averages_follow_the_recursion(name, dtype):
    """Of what the parameters are after each step in which they have a gradient."""
    optimizer = averaging(name, LAYOUTS, dtype)
    recursion = Recursion(params_of(optimizer))
    for step in range(STEPS):
        advance(name, optimizer, params_of(optimizer), step)
        recursion.update()
        recursion.assert_near(averages(optimizer))


@every_dense_rule
@pytest.mark.parametrize("decay", [0.3, 0.95])
def test_averages_are_those_of_an_averaged_model(name, decay):
    """torch's, which took the weights before the first step, on torch's optimizer."""
    stateful = case_of(name).stateful
    model = ParameterList(parameters(name, DENSE))
    expected = make(reference(name), model.parameters(), stateful)
    averaged = torchs.AveragedModel(
        model, multi_avg_fn=torchs.get_ema_multi_avg_fn(decay)
    )
    averaged.update_parameters(model)
    actual = averaging(name, DENSE, ema_decay=decay)
    for step in range(STEPS):
        for optimizer in (actual, expected):
            for index, param in enumerate(params_of(optimizer)):
                give_gradients(name, [param], step * len(DENSE) + index)
            optimizer.step()
        averaged.update_parameters(model)
    due = [param.detach() for param in averaged.module.parameters()]
    assert_same(averages(actual), due, STEPS * case_of(name).ulps)


@every_kernel_of_vectors
@pytest.mark.parametrize("dtype", DTYPES)
def test_eager_and_fused_averages_differ_by_rounding_alone(name, dtype):
    """A few units in the last place a step, as the parameters do."""
    fused, eager = (averaging(name, DENSE, dtype) for _ in range(2))
    eager.param_groups[0]["foreach"] = False
    scales = {}
    for step in range(STEPS):
        for optimizer in (fused, eager):
            advance(name, optimizer, params_of(optimizer), step)
        ulps = case_of(name).ulps * (step + 1)
        assert_same_training(fused, eager, ulps, scales)
    assert not eager._plan.buckets


@every_kernel_of_vectors
@pytest.mark.parametrize("dtype", DTYPES)
def test_averages_are_computed_in_the_kernels_of_the_step(name, dtype):
    """They serve every parameter, and are no more than without averages."""
    layouts = in_kernels(name)
    plain, averaged = (
        averaging(name, layouts, dtype, ema_decay=decay) for decay in (None, 0.9)
    )
    for optimizer in (plain, averaged):
        train(name, optimizer, params_of(optimizer), range(STEPS))
    told = polyak.explain(averaged)
    assert {served.engine for served in told.served} == {"cpu"}
    assert len(told.kernels) == len(polyak.explain(plain).kernels)
    assert all("param_ema[i" in kernel.listing for kernel in told.kernels)


# Half precision, and the ends of the range


@every_rule
@pytest.mark.parametrize("dtype", HALF)
def test_in_half_precision_new_values_are_averaged_before_they_are_rounded(name, dtype):
    """Bit for bit what the step in float32 gives."""
    # A rate that all dtypes have, since some rules keep it, and that weights lose.
    layouts = ("matrix", "vector")
    narrow, due = (averaging(name, layouts, kind, lr=2**-12) for kind in (dtype, WIDE))
    give_gradients(name, params_of(narrow), 0)
    for param, other in zip(params_of(narrow), params_of(due), strict=True):
        other.data, other.grad = param.detach().float(), param.grad.float()
    narrow.step()
    due.step()
    assert_same(averages(narrow), averages(due))
    for param, other in zip(params_of(narrow), params_of(due), strict=True):
        assert not torch.equal(param.float(), other)


def same_gradient(name, param, value):
    """A gradient of one number, in all rows."""
    grad = torch.full_like(param, value, requires_grad=False)
    if case_of(name).sparse != "only":
        return grad
    rows = torch.arange(len(param))[None]
    return torch.sparse_coo_tensor(rows, grad, param.shape, check_invariants=True)


@every_rule
def test_steps_too_small_for_bfloat16_move_the_average(name):
    """The weights stand still, for every sum is rounded back to them."""
    table = Parameter(torch.ones(4, 2, dtype=torch.bfloat16))
    optimizer = ours(name)([table], lr=1e-4, ema_decay=0.5)
    table.grad = same_gradient(name, table, 1.0)
    for _ in range(3):
        optimizer.step()
    assert (table == 1).all()
    assert (averages(optimizer)[0] < 1).all()


@every_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_average_of_constant_weights_is_constant(name, dtype):
    """Rounding does not add up."""
    table, *_ = parameters(name, ["matrix"], dtype)
    before = table.detach().clone()
    table.grad = same_gradient(name, table, 0.0)
    # So small that not even weight decay moves a weight.
    optimizer = ours(name)([table], lr=1e-30, ema_decay=0.99)
    for _ in range(1000):
        optimizer.step()
    assert_same(table.detach(), before)
    assert_same(averages(optimizer), [before.float()])


@every_dtype
def test_a_decay_of_0_is_the_weights_and_of_1_where_they_began(name, dtype):
    """Bit for bit, where weights are not rounded."""
    shorter, longer = (averaging(name, LABELS, dtype, ema_decay=d) for d in (0, 1))
    began = [param.detach().clone() for param in params_of(longer)]
    for optimizer in (shorter, longer):
        train(name, optimizer, params_of(optimizer), range(3))
    latest = [average.to(dtype) for average in averages(shorter)]
    assert_same(latest, [param.detach() for param in params_of(shorter)])
    assert_same([average.to(dtype) for average in averages(longer)], began)


# Gradients: none, sparse, scaled, clipped


@every_rule
def test_a_parameter_begins_its_average_with_its_first_gradient(name):
    """Until then it has none, and after that it waits for the next."""
    optimizer = averaging(name)
    late, *others = params_of(optimizer)
    for step in range(2):
        give_gradients(name, others, step)
        optimizer.step()
        assert late not in optimizer.state
    began = wide(late)
    give_gradients(name, [late], 2)
    optimizer.step()
    average = optimizer.state[late]["param_ema"]
    rows = late.grad.coalesce().indices()[0] if late.grad.is_sparse else ...
    due = DECAY * began + (1 - DECAY) * wide(late)
    torch.testing.assert_close(wide(average)[rows], due[rows], rtol=0, atol=1e-6)
    optimizer.zero_grad()
    before = everything(optimizer)
    optimizer.step()
    assert_nothing_changed(optimizer, before)


@every_sparse_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_rows_with_gradient_advance(name, dtype):
    """Each row's average is that of its own updates; others keep their bits."""
    table, *_ = parameters(name, ["matrix"], dtype)
    optimizer = ours(name)([table], lr=0.5, ema_decay=DECAY)
    recursion = Recursion([table])
    began = table.detach().float()
    for rows in ([0, 0], [2], [0, 2, 2]):
        values = torch.ones(len(rows), table.shape[1], dtype=dtype)
        table.grad = torch.sparse_coo_tensor(
            [rows], values, table.shape, check_invariants=True
        )
        optimizer.step()
        recursion.update()
    (average,) = averages(optimizer)
    recursion.assert_near([average])
    assert_same(average[1], began[1])
    assert (average[[0, 2]] != began[[0, 2]]).all()


def test_where_momentum_moves_all_rows_all_averages_advance():
    """Sparse gradients mean there what dense ones do."""
    pair = [averaging("SGD", ["matrix"]) for _ in range(2)]
    for step in range(3):
        for optimizer, dense in zip(pair, (False, True), strict=True):
            table, *_ = params_of(optimizer)
            grad = sparse_gradient(table, torch.Generator().manual_seed(step))
            table.grad = grad.to_dense() if dense else grad
            optimizer.step()
    assert_same_training(*pair)


def test_an_embedding_averages_its_words():
    """The gradients that autograd makes for ``nn.Embedding(sparse=True)``."""
    words = Embedding(5, 2, sparse=True)
    began = words.weight.detach().clone()
    optimizer = polyak.SparseAdam(words.parameters(), lr=0.1, ema_decay=DECAY)
    words(torch.tensor([1, 3, 1])).sum().backward()
    optimizer.step()
    # The first step of Adam is the rate.
    began[[1, 3]] -= 0.1 * (1 - DECAY)
    torch.testing.assert_close(averages(optimizer), [began])


@every_rule
@pytest.mark.parametrize("unscale", [False, True], ids=["plain", "unscaled"])
def test_a_step_that_a_scaler_skips_leaves_averages_alone(name, unscale):
    """The other steps advance them, also on clipped gradients."""
    optimizer, scaler = averaging(name), GradScaler("cpu", init_scale=4.0)
    params = params_of(optimizer)
    recursion = Recursion(params)
    for step in range(STEPS):
        give_gradients(name, params, step)
        for param in params:
            if param.grad is not None:
                param.grad = param.grad * scaler.scale(torch.tensor(1.0)).item()
        if overflow := step in (0, 3):
            params[0].grad = params[0].grad * float("inf")
        before = everything(optimizer)
        if unscale:
            scaler.unscale_(optimizer)
            if case_of(name).sparse != "only":
                torch.nn.utils.clip_grad_norm_(params, 0.5)
        scaler.step(optimizer)
        scaler.update()
        if overflow:
            assert_nothing_changed(optimizer, before)
        else:
            recursion.update()
    recursion.assert_near(averages(optimizer))


# Groups, and changes between steps


def grouped(name, *decays, **arguments):
    """Each parameter in a group with a decay of its own; ``...`` gives it none."""
    held = parameters(name, LABELS)[: len(decays)]
    groups = [
        {"params": [param]} | ({} if decay is ... else {"ema_decay": decay})
        for param, decay in zip(held, decays, strict=True)
    ]
    return make(ours(name), groups, {**case_of(name).stateful, **arguments})


@every_rule
def test_groups_have_decays_of_their_own(name):
    """Each parameter's average is that of a group alone."""
    optimizer = grouped(name, 0.3, ..., ema_decay=0.9)
    alone = [averaging(name, ema_decay=decay) for decay in (0.3, 0.9)]
    for each in (optimizer, *alone):
        train(name, each, params_of(each), range(STEPS))
    due = [averages(each)[index] for index, each in enumerate(alone)]
    assert_same(averages(optimizer), due)


@every_rule
def test_a_group_may_have_no_averages(name):
    """By None where the default is another, or by the default."""
    one, other = grouped(name, 0.3, None, ema_decay=0.9), grouped(name, 0.3, ...)
    for each in (one, other):
        train(name, each, params_of(each), range(STEPS))
        assert [average is None for average in averages(each)] == [False, True]
    assert_same_training(one, other)


@every_rule
@pytest.mark.parametrize("decay", [..., 0.3], ids=["default", "own"])
def test_a_group_added_in_the_run_begins_with_its_weights(name, decay):
    """With the default, or a value of its own."""
    old, new, *_ = parameters(name, LABELS)
    arguments = {**case_of(name).stateful, "ema_decay": DECAY}
    optimizer = make(ours(name), [old], arguments)
    train(name, optimizer, [old], range(2))
    own = {} if decay is ... else {"ema_decay": decay}
    optimizer.add_param_group({"params": [new]} | own)
    recursion = Recursion([new])
    for step in range(STEPS):
        advance(name, optimizer, [old, new], step)
        recursion.update(own.get("ema_decay", DECAY))
    recursion.assert_near(averages(optimizer)[1:])


@every_rule
def test_a_decay_set_on_a_group_counts_from_the_next_step(name):
    """It turns averages on, which begin with the weights of then."""
    optimizer = make(ours(name), parameters(name, LABELS), case_of(name).stateful)
    train(name, optimizer, params_of(optimizer), range(2))
    recursion = Recursion(params_of(optimizer))
    for step, decay in enumerate((0.9, 0.3, 1.0, 0.0, 0.75), start=2):
        optimizer.param_groups[0]["ema_decay"] = decay
        advance(name, optimizer, params_of(optimizer), step)
        recursion.update(decay)
        recursion.assert_near(averages(optimizer))


@every_rule
def test_a_decay_turned_on_in_the_run_changes_no_step(name):
    """Nor does one that is turned off; the average stands still then."""
    plain, switched = (
        make(ours(name), parameters(name, LABELS), case_of(name).stateful)
        for _ in range(2)
    )
    for step, decay in enumerate((None, 0.9, 0.9, None, None)):
        switched.param_groups[0]["ema_decay"] = decay
        before = everything(switched)[0][1]
        for optimizer in (plain, switched):
            advance(name, optimizer, params_of(optimizer), step)
        assert_same(params_of(switched), params_of(plain))
        assert_same(without_averages(switched), states_of(plain))
        if decay is None and step:
            held = [state and state["param_ema"] for state in before]
            assert_same(averages(switched), held)


@every_rule
def test_a_tensor_decay_may_change_in_place(name):
    """As a learning rate may."""
    decay = torch.tensor(0.5)
    optimizer = averaging(name)
    optimizer.param_groups[0]["ema_decay"] = decay
    recursion = Recursion(params_of(optimizer))
    for step, value in enumerate((0.75, 0.25, 0.5)):
        decay.fill_(value)
        advance(name, optimizer, params_of(optimizer), step)
        recursion.update(value)
    recursion.assert_near(averages(optimizer))


SCHEDULES = {
    "factor": (warmup(4), [DECAY * k / 4 for k in (1, 2, 3, 4, 4, 4)]),
    "absolute": (
        custom(lambda k: min(0.3, (1 + k) / (10 + k))).absolute(),
        [0.1, 2 / 11, 0.25, 0.3, 0.3, 0.3],
    ),
}


@every_rule
@pytest.mark.parametrize("kind", list(SCHEDULES))
def test_a_schedule_sets_the_decay(name, kind):
    """A decay that begins small soon forgets the first weights."""
    schedule, decays = SCHEDULES[kind]
    optimizer = averaging(name)
    scheduler = polyak.Scheduler(optimizer, ema_decay=schedule)
    recursion = Recursion(params_of(optimizer))
    for step, decay in enumerate(decays):
        assert optimizer.param_groups[0]["ema_decay"] == pytest.approx(decay)
        advance(name, optimizer, params_of(optimizer), step)
        scheduler.step()
        recursion.update(decay)
    recursion.assert_near(averages(optimizer))


# Errors


REFUSED = {
    -0.1: (ValueError, "Invalid ema_decay value: -0.1 ({} needs ema_decay in [0, 1])"),
    1.1: (ValueError, "Invalid ema_decay value: 1.1 ({} needs ema_decay in [0, 1])"),
    float("nan"): (ValueError, "Invalid ema_decay value: nan"),
    "x": (TypeError, "{} needs a number for ema_decay, got 'x' of type str"),
    True: (TypeError, "{} needs a number for ema_decay, got True of type bool"),
}


@every_rule
@pytest.mark.parametrize("value", list(REFUSED))
@pytest.mark.parametrize("where", ["argument", "group", "added", "loaded"])
def test_what_is_no_decay_is_refused(name, value, where):
    """Wherever it is given, with nothing changed."""
    error, words = REFUSED[value]
    first, *rest = parameters(name, LABELS)
    optimizer = averaging(name)
    before = everything(optimizer)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["ema_decay"] = value
    ways = {
        "argument": lambda: ours(name)([first], ema_decay=value),
        "group": lambda: ours(name)([{"params": [first], "ema_decay": value}]),
        "added": lambda: optimizer.add_param_group(
            {"params": rest, "ema_decay": value}
        ),
        "loaded": lambda: optimizer.load_state_dict(saved),
    }
    with pytest.raises(error, match=re.escape(words.format(name))):
        ways[where]()
    assert_nothing_changed(optimizer, before)


@every_rule
def test_a_misspelt_decay_is_refused_with_the_name_that_was_meant(name):
    """An unknown keyword is Python's error, an unknown key a group's."""
    words = "'ema_decy'. Did you mean 'ema_decay'?"
    with pytest.raises(TypeError, match=re.escape(f"keyword argument {words}")):
        ours(name)(parameters(name, LABELS), ema_decy=0.9)
    with pytest.raises(ValueError, match=re.escape(f"no hyperparameter {words}")):
        ours(name)([{"params": parameters(name, LABELS), "ema_decy": 0.9}])


@pytest.mark.parametrize("name", sorted({*NAMES} - {*RULES}))
@pytest.mark.parametrize("key", ["ema_decay", "ema_decy"])
def test_without_a_rule_there_are_no_averages(name, key):
    """Neither by keyword nor by group."""
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{key}'"):
        ours(name)(parameters(name, LABELS), **{key: 0.9})
    with pytest.raises(ValueError, match=f"{name} has no hyperparameter '{key}'"):
        ours(name)([{"params": parameters(name, LABELS), key: 0.9}])


def test_momentum_turned_on_in_the_run_begins_as_without_averages():
    """The buffer is new then, though the average is not."""
    arguments = {"lr": 0.1, "dampening": 0.5}
    plain = make(polyak.SGD, parameters("SGD"), arguments)
    averaged = make(polyak.SGD, parameters("SGD"), {**arguments, "ema_decay": DECAY})
    for optimizer in (plain, averaged):
        train("SGD", optimizer, params_of(optimizer), range(2))
        optimizer.param_groups[0]["momentum"] = 0.9
        train("SGD", optimizer, params_of(optimizer), range(2, STEPS))
    assert_same(params_of(averaged), params_of(plain))


@pytest.mark.parametrize("absent", [{}, {"ema_decay": None}], ids=["lacking", "none"])
def test_a_schedule_of_the_decay_leaves_groups_without_one_alone(absent):
    weights = [Parameter(torch.ones(1)) for _ in "abc"]
    groups = [{"params": [weights[0]], "ema_decay": 0.5}]
    groups.append({"params": [weights[1]], "ema_decay": None})
    optimizer = polyak.SGD(groups, lr=1.0)
    scheduler = polyak.Scheduler(optimizer, ema_decay=warmup(2))
    optimizer.add_param_group({"params": [weights[2]], **absent})
    for weight in weights:
        weight.grad = torch.ones(1)
    optimizer.step()
    scheduler.step()
    decays = [group.get("ema_decay") for group in optimizer.param_groups]
    assert decays == [0.5, None, None]


def test_every_rule_was_asked():
    """All optimizers but those that search along a line."""
    assert {*NAMES} - {*RULES} == {"LBFGS"}
    assert all(takes(name, "stages") for name in RULES)
