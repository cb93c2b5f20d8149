"""Values of the curves: closed formulas, written once more, and their edges."""

import math

import numpy as np
import pytest

from polyak import schedules as s

FORMULAS = {
    "constant": (s.constant(0.3), lambda k: 0.3),
    "step": (s.step(7, 0.5), lambda k: 0.5 ** (k // 7)),
    "multistep": (
        s.multistep([3, 3, 9], 0.5),
        lambda k: 0.5 ** sum(m <= k for m in [3, 3, 9]),
    ),
    "linear": (s.linear(0.25, 2, 8), lambda k: 0.25 + 1.75 * min(k / 8, 1)),
    "exponential": (s.exponential(0.9), lambda k: 0.9**k),
    "polynomial": (
        s.polynomial(10, 2, 0.1),
        lambda k: 0.1 + 0.9 * max(0, 1 - k / 10) ** 2,
    ),
    "cosine": (
        s.cosine(12.5, 0.2),
        lambda k: 0.2 + 0.8 * math.cos(math.pi / 2 * min(k / 12.5, 1)) ** 2,
    ),
    "periodic cosine": (
        s.cosine(10, 0.2, periodic=True),
        lambda k: 0.2 + 0.8 * math.cos(math.pi / 2 * k / 10) ** 2,
    ),
    "rex": (
        s.rex(10, 0.1),
        lambda k: 0.1 + 0.9 * 2 * max(0, 10 - k) / (20 - min(k, 10)),
    ),
    "warmup": (s.warmup(5, 0.1), lambda k: min(1, 0.1 + 0.9 * (k + 1) / 5)),
    "inverse_sqrt": (
        s.inverse_sqrt(4),
        lambda k: 2 * min((k + 1) ** -0.5, (k + 1) * 4**-1.5),
    ),
    "custom": (s.custom(lambda k: 3 * k), lambda k: 3 * k),
    "cyclic": (
        s.cyclic(4, 3, 5),
        lambda k: 1 + 3 * min(k % 8 / 3, (8 - k % 8) / 5),
    ),
    "cyclic of a function": (
        s.cyclic(2, 3, scale=lambda k: k / 10, scale_by="iterations"),
        lambda k: 1 + min(k % 6 / 3, (6 - k % 6) / 3) * k / 10,
    ),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name):
    schedule, formula = FORMULAS[name]
    steps = [*range(30), 0.5, 4.25, 12.75]
    expected = pytest.approx([formula(k) for k in steps], rel=1e-14, abs=1e-15)
    assert [schedule.value_at(k) for k in steps] == expected
    assert schedule.value_at(steps) == expected


@pytest.mark.parametrize("name", FORMULAS)
def test_a_number_gives_a_float(name):
    schedule, _ = FORMULAS[name]
    for step in (3, 3.0, np.int32(3), np.float32(3), np.array(3)):
        assert type(schedule(step)) is float
        assert schedule(step) == schedule.value_at(3)


@pytest.mark.parametrize("name", FORMULAS)
def test_an_array_gives_an_array_of_its_shape(name):
    schedule, _ = FORMULAS[name]
    for steps in (np.arange(6).reshape(2, 3), np.zeros((0, 2)), [1, 2], range(3), []):
        values = schedule.value_at(steps)
        assert values.dtype == np.float64
        assert values.shape == np.shape(steps)


@pytest.mark.parametrize(
    "schedule",
    [
        s.linear(1 / 3, 0.7, 7),
        s.linear(0.1, 0.7, 0),
        s.polynomial(7, 0.5, 0.7),
        s.cosine(7, 0.7),
        s.rex(7, 0.7),
        s.warmup_cosine(3, 7, 0.7),
        *(s.wsd(2, 2, 3, 0.7, shape) for shape in ("linear", "cosine", "sqrt")),
    ],
    ids=repr,
)
def test_the_end_is_exact(schedule):
    for step in (7, 7.5, 8, 10**6):
        assert schedule.value_at(step) == 0.7
        assert schedule.value_at([step])[0] == 0.7


@pytest.mark.parametrize("start", [0.0, 0.1, 1 / 3, 2.0])
def test_the_last_step_of_a_warmup_is_the_base_value(start):
    for steps in range(1, 60):
        assert s.warmup(steps, start).value_at(steps - 1) == 1.0
        assert s.warmup(steps, start).value_at(steps - 0.5) == 1.0
    assert s.warmup(0, start).value_at(0) == 1.0


def test_wsd_is_its_three_parts():
    decays = {"linear": s.polynomial(9, 1, 0.1), "cosine": s.cosine(9, 0.1)}
    steps = np.arange(40)
    for shape, decay in decays.items():
        parts = s.warmup(4) | s.constant().until(6) | decay
        assert s.wsd(4, 6, 9, 0.1, shape).value_at(steps) == pytest.approx(
            parts.value_at(steps), abs=1e-15
        )
    assert s.wsd(4, 6, 4, shape="sqrt").value_at(11) == 0.5


def test_warmup_cosine_is_its_parts_to_the_last_bit():
    parts = s.warmup(4) | s.cosine(9, 0.1)
    for step in [*range(20), 3.5, 8.25]:
        assert s.warmup_cosine(4, 13, 0.1).value_at(step) == parts.value_at(step)


@pytest.mark.parametrize(("first", "mult"), [(1, 1), (7, 1), (1, 2), (10, 3)])
def test_position_counts_from_the_last_restart(first, mult):
    schedule = s.cosine_restarts(first, mult)
    since, length = 0, first
    for step in range(500):
        assert schedule.position(step) == (since, length)
        assert schedule.position(step + 0.5) == (since + 0.5, length)
        since += 1
        if since == length:
            since, length = 0, length * mult


def test_position_is_exact_however_late():
    restart = 10 * (2**60 - 1)
    assert s.cosine_restarts(10, 2).position(restart - 1) == (
        10 * 2**59 - 1,
        10 * 2**59,
    )
    assert s.cosine_restarts(10, 2).position(restart) == (0, 10 * 2**60)
    assert s.cosine_restarts(7).position(10**30) == (10**30 % 7, 7)


def test_position_of_an_array():
    schedule = s.cosine_restarts(3, 2)
    since, lengths = schedule.position(np.arange(50))
    assert list(zip(since, lengths, strict=True)) == [
        schedule.position(k) for k in range(50)
    ]
    huge = s.cosine_restarts(1, 2**40).value_at([0, 1, 1 + 2**40])
    assert huge == pytest.approx([1, 1, 1])


def test_restart_begins_at_the_base_value():
    schedule = s.cosine_restarts(5, 2, final=0.3)
    assert [schedule.value_at(k) for k in (0, 5, 15, 35)] == [1, 1, 1, 1]
    assert schedule.value_at(10) == pytest.approx(0.65)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 37])
@pytest.mark.parametrize("pct", [0.0, 0.1, 0.3, 1 / 3, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("three_phase", [False, True])
def test_one_cycle_is_finite_for_every_split(steps, pct, three_phase):
    schedule = s.one_cycle(steps, pct, three_phase=three_phase)
    values = [schedule.value_at(k) for k in range(steps + 5)]
    assert all(0 < value <= 1 for value in values)
    assert len(set(values[steps - 1 :])) == 1


def test_one_cycle_reaches_its_levels():
    schedule = s.one_cycle(100, 0.25, three_phase=True)
    assert [schedule.between(k, 0.25, 2.0, 0.125) for k in (0, 24, 48, 99, 200)] == [
        0.25,
        2.0,
        0.25,
        0.125,
        0.125,
    ]


def test_a_phase_of_no_length_is_at_its_end():
    assert s.one_cycle(10, pct_start=0.1).value_at(0) == 1.0
    assert s.one_cycle(10, pct_start=0.1, three_phase=True).value_at([0])[0] == 1.0


def test_levels_may_be_tensors():
    import torch

    low, high = torch.tensor(0.25), torch.tensor(0.5)
    assert s.one_cycle(10, 0.5).between(4, low, high, low) == high


def test_height_is_within_0_and_1():
    steps = np.linspace(0, 100, 1001)
    for mode in ("triangular", "triangular2", "exp_range"):
        heights = s.cyclic(3, 4, 7, mode, gamma=0.9).height(steps)
        assert heights.min() >= 0
        assert heights.max() <= 1


def test_cyclic_without_a_fall_is_a_saw():
    assert s.cyclic(2, 4, 0).value_at(range(9)).tolist() == [
        *(1, 1.25, 1.5, 1.75, 1, 1.25, 1.5, 1.75, 1),
    ]


def test_decays_too_deep_for_a_float_are_zero_and_growths_infinite():
    for step in (10**6, [10**6]):
        assert s.exponential(0.5).value_at(step) == 0
        assert s.exponential(2).value_at(step) == math.inf
        assert s.cyclic(2, 1, mode="triangular2").value_at(step) == 1


@pytest.mark.parametrize(
    ("schedule", "length"),
    [
        (s.linear(1, 0, 4), 4),
        (s.linear(1, 0, 4.5), 5),
        (s.polynomial(4.5), 5),
        (s.cosine(4.5), 5),
        (s.cosine(4, periodic=True), None),
        (s.rex(4), 4),
        (s.warmup(4), 4),
        (s.warmup_cosine(2, 9), 9),
        (s.wsd(1, 2, 3), 6),
        (s.one_cycle(9), 9),
        (s.constant(), None),
        (s.step(3), None),
        (s.multistep([3]), None),
        (s.exponential(0.9), None),
        (s.cosine_restarts(3), None),
        (s.cyclic(2, 3), None),
        (s.inverse_sqrt(3), None),
        (s.custom(abs), None),
        (s.multiplicative(abs), None),
    ],
    ids=repr,
)
def test_length(schedule, length):
    assert schedule.length == length


class Counted:
    """A function that counts its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, j):
        self.calls.append(j)
        return 1 - 1 / (j + 2)


def test_multiplicative_walks_on_from_where_it_was():
    function = Counted()
    schedule = s.multiplicative(function)
    for step in range(10):
        schedule.value_at(step)
    assert function.calls == [*range(1, 10)]
    schedule.value_at(9)
    assert function.calls == [*range(1, 10)]


def test_multiplicative_has_the_same_bits_however_it_is_reached():
    walked, jumped = s.multiplicative(Counted()), s.multiplicative(Counted())
    values = [walked.value_at(k) for k in range(50)]
    assert [jumped.value_at(k) for k in range(49, -1, -1)] == values[::-1]
    assert jumped.value_at([30, 7, 49, 0]).tolist() == [
        values[k] for k in (30, 7, 49, 0)
    ]


def test_multiplicative_survives_a_function_that_fails():
    def fails_once(j):
        if j == 3 and not failed:
            failed.append(j)
            raise RuntimeError("not now")
        return 0.5

    failed = []
    schedule = s.multiplicative(fails_once)
    schedule.value_at(2)
    with pytest.raises(RuntimeError, match="not now"):
        schedule.value_at(5)
    assert schedule.value_at(5) == 0.5**5


def test_a_function_gets_python_numbers():
    rates = [0.5, 0.25, 0.125]
    assert s.custom(lambda k: rates[k]).value_at([2, 0, 1]).tolist() == [
        0.125,
        0.5,
        0.25,
    ]
    assert s.custom(rates.__getitem__).in_epochs(10).value_at(25) == 0.125
