"""What a schedule refuses, and how it says so."""

import math
import re

import numpy as np
import pytest

from polyak import schedules as s


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: s.constant(math.inf), "Invalid factor: inf (constant needs a finite"),
        (lambda: s.constant(math.nan), "Invalid factor: nan (constant needs a finite"),
        (lambda: s.constant(10**400), "(constant needs a finite number for factor)"),
        (lambda: s.step(0), "Invalid size: 0 (step needs size >= 1)"),
        (lambda: s.step(2.5), "Invalid size: 2.5 (step needs a whole number for size)"),
        (lambda: s.step(3, -1), "Invalid gamma: -1 (step needs gamma >= 0)"),
        (lambda: s.multistep([3, -1]), "Invalid milestones[1]: -1 (multistep needs"),
        (lambda: s.multistep([3, 2]), "(multistep needs milestones in increasing ord"),
        (lambda: s.linear(1, 0, -1), "Invalid steps: -1 (linear needs steps >= 0)"),
        (lambda: s.linear(1, 0, math.nan), "Invalid steps: nan (linear needs steps"),
        (lambda: s.exponential(-2), "Invalid gamma: -2 (exponential needs gamma >= 0)"),
        (lambda: s.polynomial(0), "Invalid steps: 0 (polynomial needs steps > 0)"),
        (lambda: s.polynomial(5, -1), "Invalid power: -1 (polynomial needs power >= 0"),
        (lambda: s.cosine(0), "Invalid steps: 0 (cosine needs steps > 0)"),
        (lambda: s.cosine(math.inf), "Invalid steps: inf (cosine needs a finite numb"),
        (lambda: s.rex(-1), "Invalid steps: -1 (rex needs steps > 0)"),
        (lambda: s.cosine_restarts(0), "Invalid first: 0 (cosine_restarts needs first"),
        (lambda: s.cosine_restarts(3, 1.5), "(cosine_restarts needs a whole number fo"),
        (lambda: s.cyclic(2, 0), "Invalid up: 0 (cyclic needs up > 0)"),
        (lambda: s.cyclic(2, 1, -1), "Invalid down: -1 (cyclic needs down >= 0)"),
        (lambda: s.cyclic(2, 1, mode="triangle"), "Did you mean 'triangular'?"),
        (lambda: s.one_cycle(0), "Invalid steps: 0 (one_cycle needs steps >= 1)"),
        (lambda: s.one_cycle(9, 1.1), "(one_cycle needs pct_start in [0, 1])"),
        (lambda: s.one_cycle(9, anneal="cosine"), "Did you mean 'cos'?"),
        (lambda: s.one_cycle(9, anneal=["cos"]), "(one_cycle needs one of 'cos', 'li"),
        (lambda: s.one_cycle(9, div_factor=0), "(one_cycle needs div_factor > 0)"),
        (lambda: s.warmup(-1), "Invalid steps: -1 (warmup needs steps >= 0)"),
        (lambda: s.warmup(5, -0.1), "Invalid start: -0.1 (warmup needs start >= 0)"),
        (lambda: s.warmup_cosine(5, 5), "(warmup_cosine needs steps > warmup_steps, "),
        (lambda: s.wsd(1, 2, 0), "Invalid decay_steps: 0 (wsd needs decay_steps >= 1)"),
        (lambda: s.wsd(1, 2, 3, shape="sqr"), "Did you mean 'sqrt'?"),
        (lambda: s.inverse_sqrt(0), "(inverse_sqrt needs warmup_steps >= 1)"),
        (lambda: s.cosine(3).until(-1), "Invalid n: -1 (until needs n >= 0)"),
        (lambda: s.cosine(3).in_epochs(0), "(in_epochs needs steps_per_epoch >= 1)"),
        (lambda: math.nan * s.cosine(3), "Invalid factor: nan (* needs a finite numb"),
    ],
)
def test_a_value_out_of_its_range(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: s.step("5"), "step needs a number for size, got '5' of type str"),
        (lambda: s.step(True), "step needs a number for size, got True of type bool"),
        (lambda: s.cosine(None), "cosine needs a number for steps, got None"),
        (lambda: s.cosine(5, periodic=1), "cosine needs True or False for periodic"),
        (lambda: s.multistep(3), "multistep needs a list of whole numbers for miles"),
        (lambda: s.multistep("3"), "multistep needs a list of whole numbers for mil"),
        (lambda: s.custom(3), "custom needs a function for function, got 3"),
        (lambda: s.cyclic(2, 3, scale=1), "cyclic needs a function for scale, got 1"),
        (lambda: s.absolute(0.1), "absolute needs a schedule, got 0.1 of type float"),
    ],
)
def test_a_value_of_another_kind(make, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("schedule", [s.cosine(5), s.warmup(2) | s.step(3)], ids=repr)
@pytest.mark.parametrize("step", [-1, -0.5, math.nan, math.inf, np.int8(-3)])
def test_a_step_out_of_range(schedule, step):
    message = re.escape(f"Invalid step: {step} (a schedule needs a finite step >= 0)")
    for steps in (step, [0, step], np.array([[step]])):
        with pytest.raises(ValueError, match=message):
            schedule.value_at(steps)


@pytest.mark.parametrize("step", ["3", None, True, [True], 1j, ["a"], {}])
def test_a_step_that_is_no_number(step):
    with pytest.raises(TypeError, match="A schedule needs a step, a number or an arr"):
        s.cosine(5).value_at(step)


@pytest.mark.parametrize(
    "method",
    [
        s.cosine_restarts(3).position,
        s.cyclic(2, 3).height,
        lambda k: s.cyclic(2, 3).height(k),
        lambda k: s.one_cycle(9).between(k, 0, 1, 0),
    ],
)
def test_methods_check_their_steps_too(method):
    with pytest.raises(ValueError, match="Invalid step: -1"):
        method(-1)


@pytest.mark.parametrize("steps", [0.5, [1, 0.5]])
def test_a_running_product_has_no_value_between_steps(steps):
    with pytest.raises(ValueError, match=r"Invalid step: 0.5 \(multiplicative "):
        s.multiplicative(abs).value_at(steps)
    assert s.multiplicative(abs).value_at(2.0) == 2
