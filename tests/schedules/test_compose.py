"""Laws of the operators and methods."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from polyak import schedules as s

from .strategies import ending, factors, finite, functional, sizes, steps, written


def close(value):
    return pytest.approx(value, rel=1e-12, abs=1e-12, nan_ok=True)


@given(written, st.lists(steps, max_size=20))
def test_an_array_is_its_steps(schedule, steps):
    assert schedule.value_at(steps) == close([schedule.value_at(k) for k in steps])
    assert schedule(np.array(steps)) == close([schedule(k) for k in steps])


@given(functional, st.lists(st.integers(0, 300), max_size=20))
def test_an_array_is_its_steps_for_functions(schedule, steps):
    assert schedule.value_at(steps) == close([schedule.value_at(k) for k in steps])


@given(ending, written, steps)
def test_a_sequence_is_the_first_and_then_the_other(first, then, step):
    expected = (
        first.value_at(step)
        if step < first.length
        else then.value_at(step - first.length)
    )
    assert (first | then).value_at(step) == expected


@given(ending, ending, written)
def test_sequences_are_associative(a, b, c):
    assert (a | b) | c == a | (b | c)
    assert hash((a | b) | c) == hash(a | (b | c))
    assert repr((a | b) | c) == repr(a | (b | c))


@given(ending, written)
def test_a_sequence_is_as_long_as_its_parts(first, then):
    expected = None if then.length is None else first.length + then.length
    assert (first | then).length == expected


# Three numbers or more are folded with a rounding that depends on their order.
unscaled = written.filter(lambda schedule: getattr(schedule, "scale", 1) == 1)


@given(unscaled, unscaled, unscaled, factors, steps)
def test_products_do_not_depend_on_order(a, b, c, factor, step):
    orders = [a * b * c * factor, c * (b * factor * a), (a * c) * (factor * b)]
    assert len(set(orders)) == 1
    assert len({order.value_at(step) for order in orders}) == 1
    assert orders[0].value_at(step) == close(
        factor * a.value_at(step) * b.value_at(step) * c.value_at(step)
    )


@given(written, factors, steps)
def test_a_number_scales(schedule, factor, step):
    assert factor * schedule == schedule * factor == np.float64(factor) * schedule
    assert (factor * schedule).value_at(step) == close(factor * schedule.value_at(step))
    assert 0.5 * (2 * schedule) == schedule


@given(written, written)
def test_a_product_stands_still_when_its_factors_do(a, b):
    endless = a.length is None or b.length is None
    assert (a * b).length == (None if endless else max(a.length, b.length))


@given(written, sizes, steps)
def test_until_stands_at_the_value_where_it_ends(schedule, n, step):
    assert schedule.until(n).length == n
    assert schedule.until(n).value_at(step) == schedule.value_at(min(step, n))


@given(finite, steps)
def test_until_its_length_a_curve_is_itself(curve, step):
    assume(step != curve.length)  # where a fractional length is rounded up
    assert curve.until(curve.length).value_at(step) == curve.value_at(step)


@given(ending, steps)
def test_past_its_length_a_schedule_stands_still(schedule, step):
    past = schedule.length + step
    assert schedule.value_at(past) == close(schedule.value_at(schedule.length))


@given(ending, st.integers(0, 300))
def test_strict_is_the_schedule_up_to_its_length(schedule, step):
    if step <= schedule.length:
        assert schedule.strict().value_at(step) == schedule.value_at(step)
    else:
        with pytest.raises(ValueError, match=f"evaluate step {step} of a schedule of "):
            schedule.strict().value_at(step)


def test_strict_of_an_array_names_the_first_step_past():
    with pytest.raises(ValueError, match="step 12 of a schedule of 10 steps"):
        s.cosine(10).strict().value_at([3, 12, 14])


@given(written, sizes, st.integers(0, 300))
def test_epochs(schedule, n, step):
    assert schedule.in_epochs(n).value_at(step) == schedule.value_at(step // n)
    smooth = schedule.in_epochs(n, smooth=True)
    assert smooth.value_at(step) == schedule.value_at(step / n)
    length = schedule.length
    assert smooth.length == (None if length is None else n * length)


@given(written, steps)
def test_absolute_has_the_values(schedule, step):
    absolute = schedule.absolute()
    assert absolute == s.absolute(schedule)
    assert absolute.value_at(step) == schedule.value_at(step)
    assert absolute.length == schedule.length


@pytest.mark.parametrize(
    "compose",
    [
        lambda a: a | s.cosine(3),
        lambda a: s.cosine(3) | a,
        lambda a: 2 * a,
        lambda a: a * s.cosine(3),
        lambda a: a.until(3),
        lambda a: a.strict(),
        lambda a: a.in_epochs(3),
        lambda a: a.absolute(),
    ],
)
def test_absolute_is_the_outermost(compose):
    with pytest.raises(ValueError, match=r"absolute\(cosine\(5\)\) cannot be a part"):
        compose(s.absolute(s.cosine(5)))


def test_an_endless_schedule_has_nothing_after_it():
    with pytest.raises(ValueError, match=r"\(2 \* exponential\(0.9\)\).until\(n\)"):
        s.warmup(5) | 2 * s.exponential(0.9) | s.cosine(5)
    with pytest.raises(ValueError, match=r"strict needs one: .* step\(5\).until\(n\)"):
        s.step(5).strict()


@pytest.mark.parametrize("other", [3, "cosine", None, [1], True])
def test_only_schedules_compose(other):
    with pytest.raises(TypeError, match="unsupported operand"):
        s.cosine(5) | other
    if other != 3:
        with pytest.raises(TypeError):
            s.cosine(5) * other
