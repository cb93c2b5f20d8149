"""Scalar programs: what a rule makes of numbers alone, in float64, once a step."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import polyak
from polyak.engine.reading import Situation, read
from polyak.schema import NUMBER, read_schema

from .support import parameter, probe

rates = st.floats(0, 1, exclude_max=True, allow_subnormal=False)
positive = st.floats(1e-12, 1e3)
NUMBER_SLOT = polyak.Slot(lambda param, group: 1.0, number=True)
steps = st.integers(1, 2**24).map(float)


def reading(rule, inputs, **numbers):
    """The reading of a rule for these inputs: all of them are numbers."""
    schema = read_schema("Probe", rule, numbers, None)
    shapes = (NUMBER,) * len(schema.hyperparameters)
    return read(schema, Situation(tuple(numbers), False, shapes), inputs)


def adam(inputs, decoupled=False):
    """The reading of Adam's rule, and what its scalar program evaluates to."""
    shapes = (NUMBER, (NUMBER, NUMBER), NUMBER, NUMBER, decoupled)
    situation = Situation(("exp_avg", "exp_avg_sq"), False, shapes)
    return read(polyak.Adam([torch.zeros(1)]).schema, situation, inputs)


@given(steps, positive, rates, rates, positive, st.just(0.0) | positive, st.booleans())
def test_adam_gets_what_python_computes(
    step, lr, beta1, beta2, eps, weight_decay, decoupled
):
    """Not one bit differs from what Python makes of the expressions in the rule."""
    inputs = (step, lr, beta1, beta2, eps, weight_decay)
    assume(beta1**step < 1 > beta2**step)
    graph, (arguments, slots) = adam(inputs, decoupled)
    expected = {
        beta1,
        beta2,
        1 - beta1,
        1 - beta2,
        eps,
        (1 - beta2**step) ** 0.5,
        lr / (1 - beta1**step),
    }
    if weight_decay:
        expected.add(1 - lr * weight_decay if decoupled else weight_decay)
    assert set(arguments) == expected
    assert slots == ()
    assert graph.program.evaluate(*inputs) == (arguments, slots)


def test_a_guard_that_flips_gives_none():
    """Where the rule would take another branch, the program has no answer."""
    inputs = (3.0, 0.1, 0.9, 0.99, 1e-8, 0.0)
    without, _ = adam(inputs)
    with_decay, _ = adam((*inputs[:-1], 0.1))
    assert without is not with_decay
    assert without.program.evaluate(*inputs[:-1], 0.1) is None
    assert with_decay.program.evaluate(*inputs) is None
    assert without.program.evaluate(7.0, 0.2, 0.8, 0.9, 1e-3, 0.0) is not None


def test_a_reading_is_made_once():
    """The same branches are read once, whatever the numbers are."""
    first, _ = adam((1.0, 0.1, 0.9, 0.99, 1e-8, 0.5))
    second, _ = adam((9.0, 0.2, 0.7, 0.89, 1e-9, 0.25))
    assert first is second


@pytest.mark.parametrize(
    ("inputs", "flips"),
    [((1.0, 5.0), (2.0, 5.0)), ((4.0, 5.0), (6.0, 5.0)), ((9.0, 5.0), (5.0, 9.0))],
)
def test_every_kind_of_branch_is_a_guard(inputs, flips):
    """==, and the comparisons within min and max."""

    def rule(param, grad, *, step, turn):
        scale = 2 if step == 1 else 1
        return param - scale / max(1, step - turn + 1) * min(step, turn) * grad

    found, (arguments, _) = reading(rule, inputs)
    step, turn = inputs
    scale = 2 if step == 1 else 1
    assert arguments == (scale / max(1, step - turn + 1) * min(step, turn),)
    assert found.program.evaluate(*flips) is None


def test_an_int_is_specialised_on_its_very_value():
    """A loop over range(n) is unrolled: another n needs another reading."""

    def rule(param, grad, *, n):
        if n:
            for _ in range(n):
                grad = 0.5 * grad
        return param - grad

    found, _ = reading(rule, (3,))
    assert len([node for node in found.graph.nodes if node.name.startswith("mul")]) == 3
    assert found.program.evaluate(3) is not None
    assert found.program.evaluate(2) is None
    assert found.program.evaluate(1) is None
    assert found.program.evaluate(0) is None


def test_a_branch_not_taken_is_not_evaluated():
    """A guard stops the program before what would fail without it."""

    def rule(param, grad, *, scale):
        return param - (1 / scale if scale else 1) * grad

    found, (arguments, _) = reading(rule, (4.0,))
    assert arguments == (0.25,)
    assert found.program.evaluate(0.0) is None


def test_what_fails_in_python_fails():
    """A division by zero is an error, as in the rule itself."""

    def rule(param, grad, *, scale):
        return param - 1 / scale * grad

    found, _ = reading(rule, (4.0,))
    with pytest.raises(ZeroDivisionError):
        found.program.evaluate(0.0)


def test_nan_takes_the_branch_that_python_takes():
    """Comparisons with NaN are false, in the rule and in the program."""

    def rule(param, grad, *, scale):
        return param - (2.0 if scale > 0 else 3.0) * scale * grad

    found, _ = reading(rule, (-1.0,))
    (value,) = found.program.evaluate(math.nan)[0]
    assert math.isnan(value)
    assert found.program.evaluate(1.0) is None


# Any expression at all

operators = st.sampled_from(
    ["+", "-", "*", "/", "//", "%", "**", "<", "<=", ">", ">=", "==", "!="]
)
leaves = st.sampled_from(["a", "b", "step"]) | st.sampled_from(
    ["-1", "2", "0.5", "-2.5", "-0.0", "3", "float('inf')", "1e300", "1e-300"]
)
expressions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, operators, inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda x: f"(-{x})"),
        inner.map(lambda x: f"(+{x})"),
        inner.map(lambda x: f"abs({x})"),
        st.tuples(inner, inner).map(lambda t: f"min({t[0]}, {t[1]})"),
        st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} if {t[1]} else {t[2]})"),
    ),
    max_leaves=8,
)
numbers = st.floats(-10, 10) | st.integers(-3, 3)


@given(expressions, numbers, numbers, st.integers(1, 100).map(float))
def test_any_expression_is_what_python_makes_of_it(text, a, b, step):
    """Whatever is written with operators, the program evaluates to the same number."""
    namespace = {}
    exec(
        f"def rule(param, grad, out, *, step, a, b):\n    return param, {text}",
        namespace,
    )
    try:
        expected = eval(text, {"a": a, "b": b, "step": step})
    except (ZeroDivisionError, OverflowError, TypeError):  # complex has no order
        assume(False)
    assume(not isinstance(expected, complex))
    _, (_, (found,)) = reading(namespace["rule"], (0.0, step, a, b), out=NUMBER_SLOT)
    assert same(found, expected)


def same(found, expected):
    """Equal, with the same sign of zero; NaN equals NaN."""
    if expected != expected:
        return found != found
    return found == expected and math.copysign(1, found) == math.copysign(1, expected)


# Numbers among the slots


def test_number_slots_are_inputs_and_results():
    """A slot that is a number enters the program, and its new value comes out."""

    def rule(param, grad, speed, *, lr):
        return param - speed * lr * grad, speed * 0.5 + lr

    _, (arguments, slots) = reading(rule, (8.0, 0.25), speed=NUMBER_SLOT)
    assert arguments[0] == 2.0
    assert slots == (4.25,)


def test_float32_kernels_get_scalars_of_float64():
    """1 - beta2**step is rounded to float32 once, at the end."""

    def rule(param, grad, *, beta, step):
        return param + (1 - beta**step) * grad

    param = parameter([0.0], [1.0], torch.float32)
    probe(rule)([param], beta=0.999).step()
    exact = torch.tensor(1 - 0.999, dtype=torch.float64)
    assert param.item() == exact.float().item()
    assert param.item() != (1 - torch.tensor(0.999)).item()
