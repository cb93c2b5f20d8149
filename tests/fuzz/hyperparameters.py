"""What is drawn for each hyperparameter: the values of torch's table, and beyond."""

from __future__ import annotations

import functools
from typing import Any

from hypothesis import strategies as st

from tests.contract.harness import takes

_decay = st.sampled_from((0.0, 0.5, 0.9, 0.99, 0.999)) | st.floats(0, 0.9999)
_betas = st.sampled_from(((0.9, 0.999), (0.0, 0.9), (0.5, 0.0))) | st.tuples(
    _decay, _decay
)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "lr": st.sampled_from((0.01, 1e-3, 0.1, 0.0, 1.0)) | st.floats(0, 0.5),
    "weight_decay": st.sampled_from((0.0, 0.1, 0.9)) | st.floats(0, 2),
    "betas": _betas,
    "eps": st.sampled_from((1e-8, 1e-3, 0.1)) | st.floats(1e-12, 1),
    "momentum": st.sampled_from((0.0, 0.9)) | st.floats(0, 0.9999),
    "dampening": st.sampled_from((0.0, 0.5)) | st.floats(0, 1),
    "alpha": st.sampled_from((0.99, 0.75, 0.0)) | st.floats(0, 1),
    "rho": st.sampled_from((0.9, 0.95, 0.0)) | st.floats(0, 1),
    "lr_decay": st.sampled_from((0.0, 0.5)) | st.floats(0, 1),
    "initial_accumulator_value": st.sampled_from((0.0, 0.125, 0.5, 1.75)),
    "lambd": st.sampled_from((1e-4, 0.1)) | st.floats(0, 1),
    "t0": st.sampled_from((1e6, 0, 2, 3)),
    "etas": st.tuples(st.floats(0.1, 0.9), st.floats(1.1, 2)),
    "step_sizes": st.tuples(st.floats(1e-7, 1e-3), st.floats(0.01, 50)),
    "momentum_decay": st.sampled_from((0.004, 0.0, 2.0)) | st.floats(0, 1),
    "beta2_decay": st.sampled_from((-0.8, -1.0, 0.0)) | st.floats(-2, 0),
    "d": st.sampled_from((1.0, 1.5)) | st.floats(1, 5),
    "ns_steps": st.integers(1, 7),
    "ns_coefficients": st.sampled_from(
        ((3.4445, -4.775, 2.0315), (1.875, -1.25, 0.375), (3.4, -4.7, 2.0))
    ),
    "adjust_lr_fn": st.sampled_from((None, "original", "match_rms_adamw")),
    "max_iter": st.integers(1, 12),
    "max_eval": st.none() | st.integers(1, 12),
    "history_size": st.integers(1, 6),
    "line_search_fn": st.sampled_from((None, "strong_wolfe")),
    "tolerance_grad": st.sampled_from((1e-7, 0.0, 1e-3)),
    "tolerance_change": st.sampled_from((1e-9, 0.0, 1e-4)),
    **dict.fromkeys(
        ("amsgrad", "centered", "nesterov", "decoupled_weight_decay", "maximize"),
        st.booleans(),
    ),
}
# Of one optimizer, where the others' mean something else.
OWN: dict[tuple[str, str], st.SearchStrategy[Any]] = {
    ("Adafactor", "eps"): st.sampled_from(((None, 1e-3), (1e-3, 0.1))),
    ("Muon", "eps"): st.sampled_from((1e-7, 1e-3)),
    # State begins with it, of single precision where polyak's is of half: numbers that
    # are in both. So it is with Adagrad's initial value.
    ("Rprop", "lr"): st.sampled_from((2**-6, 2**-10, 0.125, 0.0, 0.5)),
    ("SparseAdam", "lr"): st.sampled_from((0.01, 1e-3)) | st.floats(1e-4, 0.5),
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


def value_of(optimizer: str, name: str) -> st.SearchStrategy[Any]:
    """The values of an optimizer's hyperparameter."""
    return OWN.get((optimizer, name), VALUES[name])


@functools.cache
def names_of(optimizer: str) -> list[str]:
    """The hyperparameters that an optimizer has."""
    return [name for name in VALUES if takes(optimizer, name)]
