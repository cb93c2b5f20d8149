"""Schedules: pure functions of the step, that compose.

A schedule is a factor of a base value. The curves are made like functions are called,
``a | b`` puts one after another, ``a * b`` multiplies them, and every one can be
evaluated at any step, or at a million of them, without an optimizer:

>>> from polyak.schedules import cosine, warmup
>>> schedule = warmup(500) | cosine(10_000)
>>> schedule.value_at([0, 499, 500, 5500, 10_500])
array([0.002, 1.   , 1.   , 0.5  , 0.   ])

It is printed as it is written, and :func:`parse` reads it again, from a configuration
file or a command line:

>>> schedule
warmup(500) | cosine(10000)
>>> parse("warmup(500) | cosine(10000)") == schedule
True
"""

from __future__ import annotations

from .compose import absolute
from .cycles import cosine_restarts, cyclic, one_cycle
from .decays import (
    constant,
    cosine,
    exponential,
    linear,
    multistep,
    polynomial,
    rex,
    step,
)
from .expression import parse
from .functions import custom, multiplicative
from .schedule import Schedule
from .warmups import inverse_sqrt, warmup, warmup_cosine, wsd

__all__ = [
    "Schedule",
    "absolute",
    "constant",
    "cosine",
    "cosine_restarts",
    "custom",
    "cyclic",
    "exponential",
    "inverse_sqrt",
    "linear",
    "multiplicative",
    "multistep",
    "one_cycle",
    "parse",
    "polynomial",
    "rex",
    "step",
    "warmup",
    "warmup_cosine",
    "wsd",
]
