"""Schedules are values: equality, hash, repr, parse, copies."""

import copy
import dataclasses
import pickle
from operator import neg

import numpy as np
import pytest
import torch
from hypothesis import given

from polyak import schedules as s

from .strategies import functional, halve, slow, written


@given(written)
def test_what_is_printed_is_read_again(schedule):
    again = s.parse(repr(schedule))
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert repr(again) == repr(schedule)


@given(written | functional)
def test_copies_are_equal(schedule):
    schedule.value_at(7)
    for again in (
        pickle.loads(pickle.dumps(schedule)),
        copy.deepcopy(schedule),
        copy.copy(schedule),
        dataclasses.replace(schedule),
    ):
        assert again == schedule
        assert hash(again) == hash(schedule)
        assert again.value_at(5) == schedule.value_at(5)


@pytest.mark.parametrize(
    "text",
    [
        "warmup(500) | cosine(10000)",
        "warmup(500, 0.1) | 0.5 * cosine(10000, periodic=True).until(300) | constant()",
        "cosine(10.5, 0.1)",
        "linear(1, 0.25, 10).in_epochs(391)",
        "linear(1, 0.25, 10).in_epochs(391, True)",
        "multistep((30, 80), 0.5)",
        "multistep((30,))",
        "multistep(())",
        "cyclic(5, 2000, mode='exp_range', gamma=0.99)",
        "one_cycle(100, anneal='linear', three_phase=True)",
        "2 * warmup(5) * (warmup(3) | cosine(5))",
        "-0.5 * (warmup(3) | cosine(5))",
        "(2 * step(5)).until(10)",
        "(warmup(3) | cosine(5)).strict()",
        "cosine(5).in_epochs(2).until(7).strict()",
        "absolute(0.1 * cosine(5))",
        "wsd(1, 2, 3, shape='sqrt')",
        "cosine_restarts(10, final=0.1)",
        "polynomial(10, final=0.1)",
        "exponential(1e-05)",
        "constant(1e+22)",
    ],
)
def test_print(text):
    assert repr(s.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("cosine(steps=1e4, final=.1)", s.cosine(10_000, 0.1)),
        ("warmup(1e3)", s.warmup(1000)),
        ("multistep([30, 80])", s.multistep((30, 80))),
        ("  warmup(5) |\n\tcosine(10)\n", s.warmup(5) | s.cosine(10)),
        ("cosine(2 * 50)", s.cosine(100)),
        ("cosine(10) * 2", 2 * s.cosine(10)),
        ("-2 * cosine(10)", -2 * s.cosine(10)),
        ("cosine(10).absolute()", s.absolute(s.cosine(10))),
        ("constant(-1)", s.constant(-1)),
        ("cyclic(2, 5, None)", s.cyclic(2, 5)),
        ("cosine(5) # to the end", s.cosine(5)),
    ],
)
def test_parse(text, schedule):
    assert s.parse(text) == schedule


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("warmup(5) | cosin(3)", "no 'cosin'. Did you mean 'cosine'?", 12),
        ("cosine(3).untl(2)", "no 'untl'. Did you mean 'until'?", 0),
        ("cosine(3, finl=2)", "no argument 'finl'. Did you mean 'final'?", 10),
        ("cosine(3, final=1, final=2)", "final is given twice", 19),
        ("cosine()", "cosine: missing a required argument: 'steps'", 0),
        ("cosine(1, 2, True, 4)", "cosine: too many positional arguments", 0),
        ("warmup(5) | cosine(-1)", r"Invalid steps: -1 (cosine needs steps > 0)", 12),
        ("step(5) | cosine(3)", "step(5) has no end", 0),
        ("cosine", "cosine lacks its arguments: cosine(...)", 0),
        ("cosines", "no 'cosines'. Did you mean 'cosine'?", 0),
        ("0.5", "0.5 is no schedule; a constant factor is constant(0.5)", 0),
        ("cosine(3) | 1", "1 is no schedule", 12),
        ("'é' | cosine(3)", "'é' is no schedule", 0),
        ("cosine('é') | 'b'", "cosine needs a number for steps, got 'é'", 0),
        ("2 * 'a' * cosine(3)", "'a' is no schedule and no number", 4),
        ("-cosine(3)", "cosine(3) is no number", 1),
        ("cosine(3", "'(' was never closed", 6),
        ("", "invalid syntax", 0),
        ("custom(abs)", "there is no 'abs'", 7),
        ("custom('abs')", "custom needs a function", 0),
        ("cosine(3).steps", "an expression holds", 0),
        ("cosine(3).__class__()", "there is no '__class__'", 0),
        ("cosine(*[3])", "an expression holds", 7),
        ("cosine(**{})", "an expression holds", 7),
        ("(lambda: 1)()", "only schedules and their methods can be called", 1),
        ("cosine(3 + 4)", "an expression holds", 7),
        ("cosine(2 ** 9)", "an expression holds", 7),
        ("cosine(b'3')", "an expression holds", 7),
        ("f'{1}'", "an expression holds", 0),
        ("[cosine(i) for i in (1, 2)]", "an expression holds", 0),
        ("__import__('os').getcwd()", "there is no '__import__'", 0),
        ("value_at(3)", "there is no 'value_at'", 0),
        ("cosine(3); cosine(4)", "invalid syntax", 9),
    ],
)
def test_parse_says_what_is_wrong_and_where(text, message, column):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        s.parse(text)
    first, shown, caret = str(caught.value).split("\n")
    assert message in first
    assert shown == f"    {text}"
    assert caret.index("^") == 4 + column


@pytest.mark.parametrize("text", ["-" * 5000 + "1", "cosine(1)|" * 3000 + "cosine(1)"])
def test_parse_of_too_deep_a_text(text):
    with pytest.raises(ValueError, match="nested too deeply"):
        s.parse(text)


def test_parse_needs_text():
    with pytest.raises(TypeError, match="parse needs a string, got 3 of int"):
        s.parse(3)


def test_numbers_have_one_form():
    for steps in (10, 10.0, np.int64(10), np.float32(10), torch.tensor(10)):
        assert s.cosine(steps) == s.cosine(10)
        assert hash(s.cosine(steps)) == hash(s.cosine(10))
        assert repr(s.cosine(steps)) == "cosine(10)"
        assert repr(s.warmup(steps)) == "warmup(10)"
    assert repr(s.multistep(np.array([3, 8]))) == "multistep((3, 8))"


def test_what_differs_is_not_equal():
    distinct = [
        s.cosine(10),
        s.cosine(11),
        s.cosine(10, 0.1),
        s.rex(10),
        s.cosine(10).until(10),
        s.cosine(10).strict(),
        s.cosine(10).in_epochs(1),
        s.cosine(10).absolute(),
        2 * s.cosine(10),
        s.cosine(10) * s.cosine(10),
        s.cosine(10) | s.rex(10),
        s.rex(10) | s.cosine(10),
    ]
    assert len(set(distinct)) == len(distinct)
    assert s.cosine(10) != "cosine(10)"
    assert 2 * s.cosine(10) != 2


def test_functions_are_equal_as_functions_are():
    assert s.custom(halve) == s.custom(halve) != s.custom(slow)
    assert s.custom(halve) != s.multiplicative(halve)
    assert repr(s.custom(halve)) == "custom(halve)"
    assert repr(s.cyclic(2, 3, scale=neg)) == "cyclic(2, 3, scale=neg)"


def test_the_memory_of_a_product_is_no_part_of_it():
    walked = s.multiplicative(slow)
    walked.value_at(100)
    assert walked == s.multiplicative(slow)
    assert pickle.dumps(walked) == pickle.dumps(s.multiplicative(slow))


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        s.cosine(10).steps = 5


def test_milestones_are_copied():
    milestones = [3, 8]
    schedule = s.multistep(milestones)
    milestones.append(9)
    assert schedule == s.multistep([3, 8])
