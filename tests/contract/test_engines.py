"""Whoever runs the rule, the step is the same: a kernel, eager torch, many threads."""

import pytest
import torch
from torch.nn import Parameter

from polyak.engine import team
from tests.contract.comparison import assert_same, assert_same_training, states_of
from tests.contract.harness import (
    DENSE,
    NAMES,
    argument_sets,
    case_of,
    every_kernel_of_vectors,
    every_separable_optimizer,
    find_case,
    give_gradients,
    in_kernels,
    make,
    ours,
    parameters,
    params_of,
    train,
)

STEPS = 5
DTYPES = {"float32": torch.float32, "complex64": torch.complex64}
# Chunks have 65,536 numbers: several, a full one, and remainders of every kind.
SIZES = (300_001, 65_536, 131_075, 64, 7)


def cases():
    """Each optimizer that has a kernel, with each dtype and each set of arguments."""
    for name in NAMES:
        case = find_case(name)
        if case is None or case.kernel:
            for set_name, arguments in argument_sets(name).items():
                for label, dtype in DTYPES.items():
                    if not dtype.is_complex or case is None or case.complex:
                        words = f"{name}-{label}-{set_name}"
                        yield pytest.param(name, dtype, arguments, id=words)


@pytest.fixture
def many_threads(monkeypatch):
    """Steps share any work among two threads, however small it is."""
    monkeypatch.setattr(team, "SERIAL_BYTES", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    assert team.threads_for(1) == 2
    yield
    torch.set_num_threads(before)


def large(name, seed=0):
    """Large parameters with gradients, in their own rows of the table."""
    rng = torch.Generator().manual_seed(seed)
    params = [Parameter(torch.randn(size, generator=rng)) for size in SIZES]
    for param in params:
        param.grad = torch.randn(param.shape, generator=rng)
    return params


@pytest.mark.parametrize(("name", "dtype", "arguments"), list(cases()))
def test_eager_and_fused_differ_by_rounding_alone(name, dtype, arguments):
    """A few units in the last place a step, for every layout that kernels serve."""
    layouts = in_kernels(name)
    fused = make(ours(name), parameters(name, layouts, dtype), arguments)
    eager = make(ours(name), parameters(name, layouts, dtype), arguments)
    eager.param_groups[0]["foreach"] = False
    scales = {}
    for step in range(STEPS):
        for optimizer in (fused, eager):
            give_gradients(name, params_of(optimizer), step)
            optimizer.step()
        assert_same_training(fused, eager, case_of(name).ulps * (step + 1), scales)
    assert not fused._plan.eager, fused._plan.eager[0].reason
    assert not eager._plan.buckets


@every_kernel_of_vectors
def test_threads_do_not_change_a_bit(name, many_threads):
    """One thread and two, on tensors of several chunks and on small ones."""
    runs = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        params = large(name)
        optimizer = ours(name)(params)
        for _ in range(3):
            optimizer.step()
        runs.append((params, states_of(optimizer)))
    assert_same(*runs)


@every_separable_optimizer
def test_company_does_not_change_a_bit(name):
    """A parameter's step does not depend on what else the optimizer holds."""
    together = ours(name)(parameters(name, DENSE))
    apart = [ours(name)([param]) for param in parameters(name, DENSE)]
    grouped = ours(name)([{"params": [param]} for param in parameters(name, DENSE)])
    train(name, together, params_of(together), range(STEPS))
    train(name, grouped, params_of(grouped), range(STEPS))
    alone = [param for optimizer in apart for param in params_of(optimizer)]
    for step in range(STEPS):
        give_gradients(name, alone, step)
        for optimizer in apart:
            optimizer.step()
    assert_same_training(grouped, together)
    assert_same(alone, params_of(together))
    assert_same([s for o in apart for s in states_of(o)], states_of(together))
