"""Rows of scalars: native code makes of them what Python makes, or leaves it to it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import polyak
from polyak.engine import jit
from polyak.engine.evaluation import evaluation
from polyak.engine.kernel import ATTRIBUTES, record_type
from polyak.engine.rows import Rows
from polyak.engine.table import Table
from polyak.engine.torch_abi import dtype_code
from polyak.schema import read_schema

from .support import engines, parameter, probe
from .test_scalars import NUMBER_SLOT, expressions, numbers, reading, steps


def rows_of(rule, given_rows, dtype=torch.float64, **slots):
    """Rows for one rule, each of (state, step, hyperparameters), natively evaluated."""
    schema = read_schema("Probe", rule, slots, None)
    state, hyperparameters = given_rows[0]
    steps = (state[-1] + 1,) if schema.wants_step else ()
    counted = state[:-1] if schema.counts_steps else state
    found, _ = reading(rule, (*counted, *steps, *hyperparameters), **slots)
    text = evaluation(found.graph, "double")
    if text is None:
        return None
    table = Table()
    kinds = [dtype] * len(state)
    codes = [0, 0, *map(dtype_code, kinds)]  # of a parameter and its gradient first
    table.array("dtypes", np.array(codes, np.int64))
    rows = Rows(table, found, schema, kinds, len(given_rows), np.dtype(np.float64))
    table.set(
        written=1,
        numbers=len(kinds),
        pow=jit.pow_address(),
        number_is_double=dtype_code(torch.float64),
    )
    library = jit.compile_ir(f"{record_type}\n{text}\n{ATTRIBUTES}")
    rows.evaluate_with(library["prepare"])
    rows.assign([(hyperparameters, state) for state, hyperparameters in given_rows])
    return table, rows


def both(rule, given_rows, **more):
    """What native code makes of rows, and what Python does; None for what it leaves."""
    made = rows_of(rule, given_rows, **more)
    if made is None:
        return None, None
    table, rows = made
    results = []
    for run in (rows._evaluated, rows._evaluate_in_python):
        for name in ("values", "updated"):
            table.arrays[name][:] = math.nan
        ran = run(())
        copies = [table.arrays[name].copy() for name in ("values", "updated")]
        results.append(copies if ran else None)
    return results


def assert_same_bits(found, expected):
    """Signs of zeros too; one NaN is as good as another."""
    for x, y in zip(found, expected, strict=True):
        assert np.array_equal(x, y, equal_nan=True)
        signs = np.signbit(x) == np.signbit(y)
        assert np.all(signs | np.isnan(x))


def test_adam():
    """Rows of several groups, at several steps: not one bit differs."""
    found = set()
    for step in (1.0, 7.0, 30.0, 123456.0):
        groups = [
            {"params": [parameter([1.0], [1.0])], "lr": 0.1 * k, "betas": (0.5, 0.9)}
            for k in range(1, 4)
        ]
        optimizer = polyak.Adam(groups, weight_decay=0.1)
        optimizer.step()
        for one in optimizer.state.values():
            one["step"].fill_(step)
        optimizer.step()
        (bucket,) = optimizer._plan.buckets
        rows, values = bucket.rows, bucket.table.arrays["values"]
        assert rows._evaluated(())
        native = values.tobytes()
        values[:] = 0
        assert rows._evaluate_in_python(())
        assert native == values.tobytes()
        found.add(native)
    assert len(found) == 4


@given(expressions, numbers, numbers, steps)
@settings(max_examples=60)  # each is compiled
def test_any_expression_is_what_python_makes_of_it(text, a, b, step):
    """Bit for bit, or it is left to Python: where that fails, too."""
    namespace = {}
    exec(
        f"def rule(param, grad, out, *, step, a, b):\n    return param, {text}",
        namespace,
    )
    given_rows = [((0.0, step - 1), (a, b))]
    try:
        found = both(namespace["rule"], given_rows, out=NUMBER_SLOT)
    except (ZeroDivisionError, OverflowError, TypeError):  # as the rule is read
        return
    if found[0] is not None:
        assert_same_bits(*found)


def test_numbers_of_the_state():
    """They are inputs, and results; in the precision of their tensors."""

    def rule(param, grad, speed, *, step, lr):
        speed = speed * 1.1 + step
        return param - lr * speed * grad, speed

    given_rows = [((2.0, 4.0), (0.1,)), ((0.3, 9.0), (0.2,))]
    for dtype in (torch.float32, torch.float64):
        native, python = both(rule, given_rows, dtype=dtype, speed=NUMBER_SLOT)
        assert_same_bits(native, python)
        assert native[1][1, 1] == 10
        exact = native[1][1, 0] == 0.3 * 1.1 + 10
        assert exact == (dtype is torch.float64)


def test_comparisons_and_choices():
    """Guards hold or leave it to Python; choices are made in each row."""

    def rule(param, grad, *, step, lr, warm):
        scale = lr * step / warm if step < warm else lr
        return param - (scale + (step > 2) + abs(-lr) + (+lr)) * grad

    native, python = both(rule, [((1.0,), (0.1, 10.0)), ((3.0,), (0.2, 10.0))])
    assert_same_bits(native, python)
    _, rows = rows_of(rule, [((1.0,), (0.1, 10.0)), ((19.0,), (0.2, 10.0))])
    assert not rows._evaluated(())
    assert not rows.prepare(())


@pytest.mark.parametrize(
    ("second", "error"),
    [
        ((0.0, 1.0), ZeroDivisionError),
        ((1.0, 1e200), OverflowError),
        ((float("inf"), 1.0), None),
        ((float("nan"), 1.0), None),
        ((1.0, 2.0**30), None),
    ],
)
def test_what_is_left_to_python(second, error):
    """Errors are raised as in the rule; what is not finite is as Python has it."""

    def rule(param, grad, *, a, b):
        return param - (1 / a + a * b**2) * grad

    table, rows = rows_of(rule, [((), (1.0, 2.0)), ((), second)])
    assert not rows._evaluated(())
    if error is None:
        assert rows.prepare(())
        a, b = second
        expected = np.array(1 / a + a * b**2)
        assert table.arrays["values"][1, 0].tobytes() == expected.tobytes()
    else:
        with pytest.raises(error):
            rows.prepare(())


def test_operators_that_only_python_has():
    """Such a rule has a kernel, and its scalars are computed by Python."""

    def rule(param, grad, *, step, lr):
        return param - lr * (step // 2 + step % 3) * grad

    param = parameter([1.0], [1.0])
    optimizer = probe(rule)([param], lr=0.5)
    for _ in range(3):
        optimizer.step()
    assert engines(optimizer) == "kernel"
    assert optimizer._plan.buckets[0].rows._evaluate is None
    assert param.item() == 1 - 0.5 * ((0 + 1) + (1 + 2) + (1 + 0))


@pytest.mark.parametrize(
    ("formula", "is_native"),
    [
        ("lr / (1 + (step - 1) * a)", True),
        ("step * a + step / a + (a < 3)", True),
        ("lr if a < step else step", True),
        ("-a * lr", False),
        ("a * a * lr", False),
        ("a * 2 * lr", False),
        ("lr * step**a", False),
        ("lr * a", False),
    ],
)
def test_ints_that_meet_floats_are_floats(formula, is_native):
    """Where an int is computed with by itself, it is Python's."""
    namespace = {}
    exec(
        f"def rule(param, grad, *, step, lr, a):\n    return param - {formula} * grad",
        namespace,
    )
    native, python = both(namespace["rule"], [((3.0,), (0.5, 2))])
    assert (native is not None) == is_native
    if is_native:
        assert_same_bits(native, python)
        native, _ = both(namespace["rule"], [((3.0,), (0.5, 2**60))])
        assert native is None


def test_whole_numbers_are_left_to_python():
    """An int may be larger than a float can tell; the answer is a float's otherwise."""
    param = parameter([1.0], [1.0])
    optimizer = polyak.AdamW([param], lr=1)
    optimizer.step()
    (bucket,) = optimizer._plan.buckets
    assert bucket.rows._evaluate is not None
    assert not bucket.rows._evaluated(())


@pytest.mark.parametrize("name", ["Adam", "NAdam", "RAdam", "Adagrad", "ASGD", "SGD"])
def test_zeros_that_switch_something_off_may_be_ints(name):
    """torch's defaults are: `weight_decay=0` is not computed with."""
    optimizer = getattr(polyak, name)([parameter([1.0], [1.0])], lr=0.1)
    assert type(optimizer.defaults["weight_decay"]) in (int, float)
    optimizer.defaults["weight_decay"] = optimizer.param_groups[0]["weight_decay"] = 0
    for _ in range(8):
        optimizer.step()
    (bucket,) = optimizer._plan.buckets
    assert bucket.rows._evaluated(())


def test_numbers_of_the_step_itself():
    """The factor of the gradient is injected in every row."""
    params = [parameter([1.0, 2.0], [30.0, 40.0]) for _ in range(3)]
    rates = (1.0, 2.0, 3.0)
    groups = [{"params": [p], "lr": r} for p, r in zip(params, rates, strict=True)]
    optimizer = polyak.SGD(groups, lr=0.1, clip_grad_norm=5.0)
    for factor in (1.0, 7.0):
        for param in params:
            param.grad = torch.tensor([30.0, 40.0]) * factor
        before = [param.detach().clone() for param in params]
        optimizer.step()
        norm = 50 * factor * 3**0.5
        for param, old, lr in zip(params, before, rates, strict=True):
            step = lr * param.grad * 5 / (norm + 1e-6)
            torch.testing.assert_close(param.detach(), old - step)
    assert optimizer._plan.buckets[0].rows._evaluate is not None


def test_beside_a_kernel_of_the_same_operators():
    """The two are functions of one module, in double precision too."""

    def rule(param, grad, *, step, lr):
        return param - abs(lr - step) ** 0.5 * grad.abs() ** 0.5

    for dtype in (torch.float32, torch.float64):
        param = parameter([1.0, -3.0], [4.0, -9.0], dtype)
        optimizer = probe(rule)([param], lr=5.0)
        optimizer.step()
        assert optimizer._plan.buckets[0].rows._evaluate is not None
        assert param.tolist() == [1 - 2 * 2, -3 - 2 * 3]
