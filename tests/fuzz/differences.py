"""Where polyak is known not to do what torch does, by name, with the reason.

A scenario in which one of these plays a part is not compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from tests.fuzz.scenario import Add, Change, Drop, Freeze, Scenario, Step


@dataclass(frozen=True)
class Difference:
    """What differs.

    Args:
        reason: what torch does, and why polyak does not.
        plays_a_part: whether it matters in a scenario.
    """

    reason: str
    plays_a_part: Callable[[Scenario], bool]


def difference_in(scenario: Scenario) -> str | None:
    """The name of a known difference that plays a part in a scenario."""
    return next((n for n, d in DIFFERENCES.items() if d.plays_a_part(scenario)), None)


def _values(scenario: Scenario, name: str) -> list[float]:
    """All that a hyperparameter is given in a scenario."""
    found = [arguments.get(name) for arguments in scenario.argument_sets]
    found += [
        event.value
        for event in scenario.events
        if isinstance(event, Change) and event.name == name
    ]
    return [float(value) for value in found if value is not None]


def _nothing_to_search(scenario: Scenario) -> bool:
    empty = not any(prod(spec.shape) for spec in scenario.specs)
    return scenario.name == "LBFGS" and (empty or 0 in _values(scenario, "lr"))


def _nesterov_without_momentum(scenario: Scenario) -> bool:
    return (
        scenario.name == "SGD"
        and any(_values(scenario, "nesterov"))
        and (0 in _values(scenario, "momentum") or any(_values(scenario, "dampening")))
    )


def _no_columns(scenario: Scenario) -> bool:
    return scenario.name == "Muon" and any(
        prod(spec.shape[1:]) == 0 and spec.shape[0] for spec in scenario.specs
    )


def _bad_number(scenario: Scenario) -> bool:
    """Given, or as the mean of squares that half precision does not hold."""
    steps = [event for event in scenario.events if isinstance(event, Step)]
    half = any(spec.dtype == "float16" for spec in scenario.specs)
    given = scenario.stages.get("nonfinite") != "skip" and any(
        step.bad is not None for step in steps
    )
    too_large = half and any(step.scale**2 > 1000 for step in steps)
    return scenario.name == "Adafactor" and (given or too_large)


def _two_precisions(scenario: Scenario) -> bool:
    return scenario.name == "Adafactor" and any(
        {"float64"} < {spec.dtype for spec in group.specs}
        for group in scenario.all_groups
    )


def _equal_gradients(scenario: Scenario) -> bool:
    return any(
        isinstance(event, Step) and event.layout in ("expanded", "rows")
        for event in scenario.events
    )


def _long_sums(scenario: Scenario) -> bool:
    equal = "clip_grad_value" in scenario.stages or _equal_gradients(scenario)
    large = any(
        len(spec.shape) > 1 and prod(spec.shape) > 2**16 for spec in scenario.specs
    )
    return scenario.name == "Adafactor" and equal and large


def _norm_of_equal_numbers(scenario: Scenario) -> bool:
    double = any(spec.dtype in ("float64", "complex128") for spec in scenario.specs)
    clips = "clip_grad_norm" in scenario.stages
    return clips and double and _equal_gradients(scenario)


def _initial_value_of_an_added_group(scenario: Scenario) -> bool:
    return scenario.name == "Adagrad" and any(
        "initial_accumulator_value" in event.group.arguments
        for event in scenario.events
        if isinstance(event, Add)
    )


def _one_number_with_a_stride(scenario: Scenario) -> bool:
    return scenario.name == "SparseAdam" and any(
        spec.layout == "sliced" and 1 in spec.shape for spec in scenario.specs
    )


def _variance_of_one(scenario: Scenario) -> bool:
    return (
        scenario.name == "RMSprop"
        and any(_values(scenario, "centered"))
        and min(_values(scenario, "alpha"), default=1) < 1e-3
    )


def _variance_of_none(scenario: Scenario) -> bool:
    alpha = max(_values(scenario, "alpha"), default=0)
    return scenario.name == "RMSprop" and alpha == 1


def _short_memory(scenario: Scenario) -> bool:
    pairs = [arguments.get("betas") for arguments in scenario.argument_sets]
    pairs += [
        event.value
        for event in scenario.events
        if isinstance(event, Change) and event.name == "betas"
    ]
    return scenario.name == "SparseAdam" and any(
        pair is not None and pair[1] < 0.5 for pair in pairs
    )


def _rehearsal(scenario: Scenario) -> bool:
    """It may be one: rates of zero, and gradients of zero or of no numbers."""
    empty = any(prod(spec.shape) == 0 for spec in scenario.specs)
    first = [spec for group in scenario.groups for spec in group.specs]
    fewer = any(isinstance(event, Drop | Freeze) for event in scenario.events)
    still = not any(prod(spec.shape) for spec in first) or (fewer and empty)
    steps = [event for event in scenario.events if isinstance(event, Step)]
    return 0 in _values(scenario, "lr") and (
        still or any(step.scale == 0 or step.missing for step in steps)
    )


def _momentum_turned_on(scenario: Scenario) -> bool:
    return scenario.name == "RMSprop" and any(
        isinstance(event, Change) and event.name == "momentum" and event.value
        for event in scenario.events
    )


def _average_of_rows(scenario: Scenario) -> bool:
    return "ema_decay" in scenario.stages and any(
        isinstance(event, Step) and event.layout == "sparse"
        for event in scenario.events
    )


# Numbers of the state that torch casts to the parameter's dtype when it loads them.
CAST_BY_TORCH = ("['eta']", "['mu']", "['mu_product']")

DIFFERENCES = {
    "a first step that is none": Difference(
        "A first step with rates of 0 and gradients of 0 is how torch's distributed "
        "checkpoints make state: polyak makes it and does not count the step.",
        _rehearsal,
    ),
    "Muon of no columns": Difference(
        "torch's Muon divides by the number of columns, also where it is 0.",
        _no_columns,
    ),
    "RMSprop's variance of one gradient": Difference(
        "`centered` with `alpha` of nearly 0 divides by the root of a difference that "
        "is 0 but for rounding: NaN in one and a large number in the other.",
        _variance_of_one,
    ),
    "RMSprop's variance of no gradient": Difference(
        "At `alpha=1` the variance stays 0, and a step is the gradient over `eps`: "
        "numbers soon overflow. Of a square that does, torch's `(1 - alpha) * g * g` "
        "is 0, polyak's `(1 - alpha) * (g * g)` NaN.",
        _variance_of_none,
    ),
    "SparseAdam's short memory": Difference(
        "torch's SparseAdam adds `(1 - beta2) * (new - old)` to the old second moment: "
        "where the new one is much smaller, its digits are those of the old. polyak's "
        "is `beta2 * old + (1 - beta2) * new`.",
        _short_memory,
    ),
    "Adafactor's bad numbers": Difference(
        "A gradient with a NaN, or one whose squares float16 does not hold, makes all "
        "of the parameter NaN, as its norm is. torch takes `max(1.0, nan)`, which is "
        "1.0, and spoils some of the numbers.",
        _bad_number,
    ),
    "Adafactor of two precisions": Difference(
        "The first epsilon is by default that of the parameter's dtype. torch takes "
        "that of the group's first parameter for all.",
        _two_precisions,
    ),
    "Adafactor's sums of equal numbers": Difference(
        "torch adds the squares of a column one to the other; where they are equal, "
        "all sums are rounded the same way. Of 300 by 301 equal numbers torch's mean "
        "is 23 units in the last place off, polyak's 2.5; of 100,000 by 2, 7,471 and "
        "10.",
        _long_sums,
    ),
    "norms of equal numbers": Difference(
        "Gradients that no kernel reads, such as expanded ones, are clipped by torch's "
        "`vector_norm`: of 1,025 equal numbers in double precision it is up to 35 "
        "units in the last place off, as the fuzzer's pairwise sum is not.",
        _norm_of_equal_numbers,
    ),
    "Adagrad's initial value in an added group": Difference(
        "torch's Adagrad ignores the group's own and takes the constructor's.",
        _initial_value_of_an_added_group,
    ),
    "SparseAdam on one number in a view": Difference(
        "torch loses what is added to a strided view of one number: "
        "`x = torch.zeros(3)[1::2]; x.add_(torch.ones(1).to_sparse())` leaves 0.",
        _one_number_with_a_stride,
    ),
    "LBFGS of nothing": Difference(
        "torch's LBFGS raises where all parameters are empty; polyak's has nothing to "
        "do. At a rate of 0 their searches end in the same place with `t` an int or a "
        "tensor.",
        _nothing_to_search,
    ),
    "SGD's nesterov without momentum in a group": Difference(
        "torch checks the constructor's values alone; polyak each group's.",
        _nesterov_without_momentum,
    ),
    "averages of rows without gradient": Difference(
        "A sparse gradient advances the averages of its rows (`ema_decay`); torch's "
        "averages are told nothing of gradients, and advance as a whole.",
        _average_of_rows,
    ),
    "RMSprop's momentum turned on": Difference(
        "torch's RMSprop makes a momentum buffer with a parameter's first gradient or "
        "never: turned on later, `momentum` is a KeyError. polyak's begins with zeros.",
        _momentum_turned_on,
    ),
}
