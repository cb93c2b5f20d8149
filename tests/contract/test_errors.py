"""What torch refuses is refused here: the same type of error, in torch's words."""

import inspect
import re

import pytest
import torch
from torch.nn import Parameter

from tests.contract.harness import (
    NAMES,
    case_of,
    every_optimizer,
    find_case,
    make,
    ours,
    parameters,
    reference,
    torch_table,
)

BAD_VALUES = (-1, -0.5, 1.5, float("nan"), "0.1", None, [0.1])


def table_errors():
    """The error inputs of torch's own test table."""
    for name in NAMES:
        if name not in torch_table():
            continue
        errors = torch_table()[name].optim_error_inputs_func("cpu", torch.float32)
        case = find_case(name)
        for index, error in enumerate(errors):
            if case and error.optimizer_error_input.desc in case.takes:
                continue
            words = re.sub(r"\W+", "_", error.optimizer_error_input.desc)
            yield pytest.param(name, error, id=f"{name}-{index}-{words}")


@pytest.mark.parametrize(("name", "error"), list(table_errors()))
def test_error_inputs_of_torchs_table(name, error):
    """At construction or at the step, as torch's table says."""
    given = error.optimizer_error_input
    params = [Parameter(torch.randn(2, 3))] if given.params is None else given.params
    check = pytest.warns if issubclass(error.error_type, Warning) else pytest.raises
    if error.error_on.name == "CONSTRUCTION_ERROR":
        with check(error.error_type, match=error.error_regex):
            make(ours(name), params, given.kwargs)
    else:
        optimizer = make(ours(name), params, given.kwargs)
        with check(error.error_type, match=error.error_regex):
            optimizer.step()


def refused_values():
    """Each hyperparameter with values of every kind, alone and inside of a pair."""
    for name in NAMES:
        for key, parameter in inspect.signature(ours(name)).parameters.items():
            default = parameter.default
            if key == "params" or isinstance(default, bool | str):
                continue
            for value in BAD_VALUES:
                yield name, key, value
            if isinstance(default, tuple):
                for index in range(len(default)):
                    for value in BAD_VALUES[:4]:
                        parts = list(default)
                        parts[index] = value
                        yield name, key, tuple(parts)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [pytest.param(*entry, id="-".join(map(str, entry))) for entry in refused_values()],
)
def test_values_that_torch_refuses(name, key, value):
    """Whatever torch raises for a hyperparameter's value, polyak raises."""
    try:
        make(reference(name), parameters(name), {key: value})
    except (ValueError, RuntimeError) as error:
        due, words = type(error), re.escape(str(error))
    except (TypeError, IndexError):
        # Python's own words, about an operation inside of torch.
        due, words = (TypeError, ValueError), None
    else:
        return
    with pytest.raises(due, match=words):
        make(ours(name), parameters(name), {key: value})


@every_optimizer
def test_values_that_the_case_refuses(name):
    """What the optimizer's own case says must be refused."""
    for arguments, kind, words in case_of(name).error_arguments:
        with pytest.raises(kind, match=words):
            make(ours(name), parameters(name), arguments)


@every_optimizer
def test_a_number_out_of_bounds_names_class_value_and_bound(name):
    """An error says whose value it is, what it is and what it may be."""
    key, value = find_case(name).bounded
    with pytest.raises(ValueError, match=re.escape(str(value))) as caught:
        make(ours(name), parameters(name), {key: value})
    assert name in str(caught.value)
    assert key in str(caught.value)
