"""What is drawn for each hyperparameter: the values of torch's table, and beyond."""

from __future__ import annotations

import functools
from collections.abc import Callable
from random import Random
from typing import Any

from tests.contract.harness import takes

Draw = Callable[[Random], Any]


def one_of(*values: Any) -> Draw:
    """Each as often."""
    return lambda rng: rng.choice(values)


def between(low: float, high: float, *often: float) -> Draw:
    """What is ``often`` given in half of all cases, else any number, and the ends."""
    width = high - low

    def draw(rng: Random) -> float:
        if often and rng.random() < 0.5:
            return rng.choice(often)
        near = width * 10 ** rng.uniform(-12, 0)
        ends = (float(low), float(high), low + near, high - near)
        return rng.choice((*ends, rng.uniform(low, high)))

    return draw


def several(*draws: Draw) -> Draw:
    """A tuple."""
    return lambda rng: tuple(draw(rng) for draw in draws)


_decay = between(0, 0.9999, 0.0, 0.5, 0.9, 0.99, 0.999)
_flag = one_of(False, True)

VALUES: dict[str, Draw] = {
    "lr": between(0, 0.5, 0.01, 1e-3, 0.1, 0.0, 1.0),
    "weight_decay": between(0, 2, 0.0, 0.1, 0.9),
    "betas": lambda rng: (
        rng.choice(((0.9, 0.999), (0.0, 0.9), (0.5, 0.0)))
        if rng.random() < 0.5
        else (_decay(rng), _decay(rng))
    ),
    "eps": between(1e-12, 1, 1e-8, 1e-3, 0.1),
    "momentum": between(0, 0.9999, 0.0, 0.9),
    "dampening": between(0, 1, 0.0, 0.5),
    "alpha": between(0, 1, 0.99, 0.75, 0.0),
    "rho": between(0, 1, 0.9, 0.95, 0.0),
    "lr_decay": between(0, 1, 0.0, 0.5),
    "initial_accumulator_value": one_of(0.0, 0.125, 0.5, 1.75),
    "lambd": between(0, 1, 1e-4, 0.1),
    "t0": one_of(1e6, 0, 2, 3),
    "etas": several(between(0.1, 0.9), between(1.1, 2)),
    "step_sizes": several(between(1e-7, 1e-3), between(0.01, 50)),
    "momentum_decay": between(0, 1, 0.004, 0.0, 2.0),
    "beta2_decay": between(-2, 0, -0.8, -1.0, 0.0),
    "d": between(1, 5, 1.0, 1.5),
    "ns_steps": one_of(*range(1, 8)),
    "ns_coefficients": one_of(
        (3.4445, -4.775, 2.0315), (1.875, -1.25, 0.375), (3.4, -4.7, 2.0)
    ),
    "adjust_lr_fn": one_of(None, "original", "match_rms_adamw"),
    "max_iter": one_of(*range(1, 13)),
    "max_eval": one_of(None, *range(1, 13)),
    "history_size": one_of(*range(1, 7)),
    "line_search_fn": one_of(None, "strong_wolfe"),
    "tolerance_grad": one_of(1e-7, 0.0, 1e-3),
    "tolerance_change": one_of(1e-9, 0.0, 1e-4),
    **dict.fromkeys(
        ("amsgrad", "centered", "nesterov", "decoupled_weight_decay", "maximize"), _flag
    ),
}
# Of one optimizer, where the others' mean something else.
OWN: dict[tuple[str, str], Draw] = {
    ("Adafactor", "eps"): one_of((None, 1e-3), (1e-3, 0.1)),
    ("Muon", "eps"): one_of(1e-7, 1e-3),
    # State begins with it, of single precision where polyak's is of half: numbers that
    # are in both. So it is with Adagrad's initial value.
    ("Rprop", "lr"): one_of(2**-6, 2**-10, 0.125, 0.0, 0.5),
    ("SparseAdam", "lr"): between(1e-4, 0.5, 0.01, 1e-3),
}
# What polyak does besides the rule, and torch by separate calls.
STAGES: dict[str, Draw] = {
    "ema_decay": between(0, 1, 0.9, 0.999, 0.0, 1.0),
    "clip_grad_norm": between(1e-3, 100, 1.0),
    "clip_grad_value": between(1e-3, 10, 1.0),
    "nonfinite": one_of("skip"),
    "clear_grads": one_of(True),
}
# How a step is computed, which must not change what it computes.
FLAGS = ("foreach", "fused", "capturable", "differentiable")
# What may change while a run goes on; the others shape what state there is.
CHANGING = (
    "lr",
    "weight_decay",
    "betas",
    "eps",
    "momentum",
    "dampening",
    "alpha",
    "rho",
    "lr_decay",
    "lambd",
    "t0",
    "etas",
    "momentum_decay",
    "beta2_decay",
    "d",
    "ns_steps",
    "maximize",
)


def value_of(optimizer: str, name: str) -> Draw:
    """The values of an optimizer's hyperparameter."""
    return OWN.get((optimizer, name), VALUES[name])


@functools.cache
def names_of(optimizer: str) -> list[str]:
    """The hyperparameters that an optimizer has."""
    return [name for name in VALUES if takes(optimizer, name)]
