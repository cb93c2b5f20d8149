"""Sparse gradients mean what dense ones do, or are refused in torch's words."""

import re

import pytest
import torch
from torch.nn import Embedding, Parameter

from tests.contract.comparison import (
    assert_nothing_changed,
    assert_same,
    assert_same_training,
    everything,
)
from tests.contract.harness import (
    NAMES,
    argument_sets,
    case_of,
    find_case,
    give_gradients,
    make,
    optimizers,
    ours,
    params_of,
    reference,
    sparse_gradient,
)

STEPS = 5
SHAPES = ((6, 4), (5, 2, 3), (7,))


def cases(*kinds, without=()):
    """Each optimizer of a kind with each set of arguments, but those that do more."""
    for name in NAMES:
        case = find_case(name)
        if case is None or case.sparse not in kinds or case.closure:
            continue
        for set_name, arguments in argument_sets(name).items():
            if not any(arguments.get(key) for key in (*case.sparse_refuses, *without)):
                yield pytest.param(name, arguments, id=f"{name}-{set_name}")


def tables(name):
    """Parameters whose rows may have gradients of their own."""
    rng = torch.Generator().manual_seed(0)
    shapes = [s for s in SHAPES if "vector" in case_of(name).layouts or len(s) == 2]
    return [Parameter(torch.randn(shape, generator=rng)) for shape in shapes]


def give_sparse(params, step, form="repeated_rows"):
    """Sparse gradients; now and then a parameter has none."""
    rng = torch.Generator().manual_seed(step)
    for index, param in enumerate(params):
        grad = sparse_gradient(param, rng)
        if form == "coalesced":
            grad = grad.coalesce()
        elif form == "dense":
            grad = grad.to_dense()
        elif form == "empty" and step % 2:
            grad = torch.zeros_like(param).to_sparse(1)
        elif form == "dense_in_turn" and step % 2:
            grad = grad.to_dense()
        param.grad = None if (step + index) % 4 == 3 else grad


def refusals():
    """Each optimizer that refuses sparse gradients, with arguments that make it."""
    for name in NAMES:
        case = find_case(name)
        if case and case.sparse == "no" and not case.closure:
            yield pytest.param(name, {}, id=name)
        for key in case.sparse_refuses if case else ():
            yield pytest.param(name, {key: 0.1}, id=f"{name}-{key}")


def error_of(name, arguments):
    """What torch says to a sparse gradient, without the class: AdamW says Adam."""
    optimizer = make(reference(name), tables(name), arguments)
    give_sparse(params_of(optimizer), 0)
    try:
        optimizer.step()
    except RuntimeError as error:
        return str(error).partition(" ")[2]
    raise AssertionError("torch takes it")


@pytest.mark.parametrize("form", ["repeated_rows", "coalesced", "dense_in_turn"])
@pytest.mark.parametrize(("name", "arguments"), list(cases("also")))
def test_sparse_gradients_mean_what_dense_ones_do(name, arguments, form):
    """Against torch's optimizer on the dense gradients, with every set of arguments."""
    actual = make(ours(name), tables(name), arguments)
    expected = make(reference(name), tables(name), arguments)
    scales = {}
    for step in range(STEPS):
        give_sparse(params_of(actual), step, form)
        give_sparse(params_of(expected), step, "dense")
        actual.step()
        expected.step()
        assert_same_training(actual, expected, case_of(name).ulps * (step + 1), scales)


@pytest.mark.parametrize("form", ["repeated_rows", "coalesced", "empty"])
@pytest.mark.parametrize(("name", "arguments"), list(cases("only")))
def test_sparse_gradients_give_torchs_steps(name, arguments, form):
    """Where sparse gradients have a meaning of their own: torch's."""
    actual = make(ours(name), tables(name), arguments)
    expected = make(reference(name), tables(name), arguments)
    scales = {}
    for step in range(STEPS):
        for optimizer in (actual, expected):
            give_sparse(params_of(optimizer), step, form)
            optimizer.step()
        assert_same_training(actual, expected, case_of(name).ulps * (step + 1), scales)


@pytest.mark.parametrize(("name", "arguments"), list(cases("also", "only")))
def test_an_embedding_trains(name, arguments):
    """The gradients that autograd makes for ``nn.Embedding(sparse=True)``."""
    pair = []
    for kind in (ours(name), reference(name)):
        torch.manual_seed(0)
        # torch refuses some sparse gradients that polyak takes: it gets dense ones.
        sparse = kind is ours(name) or case_of(name).sparse == "only"
        model = Embedding(9, 4, sparse=sparse)
        optimizer = make(kind, model.parameters(), arguments)
        for words in ([1, 1, 5], [5, 8, 0, 8], [2]):
            optimizer.zero_grad()
            model(torch.tensor(words)).square().sum().backward()
            optimizer.step()
        pair.append(optimizer)
    assert_same_training(*pair, case_of(name).ulps * 3)


@pytest.mark.parametrize(("name", "arguments"), list(refusals()))
@pytest.mark.parametrize("steps", [0, 2], ids=["first_step", "later_step"])
def test_refused_in_torchs_words_with_nothing_changed(name, arguments, steps):
    """Whatever dense gradients there are beside the sparse one."""
    optimizer = make(ours(name), tables(name), arguments)
    params = params_of(optimizer)
    for step in range(steps):
        give_gradients(name, params, step)
        optimizer.step()
    give_gradients(name, params, steps)
    give_sparse(params[-1:], 0)
    before = everything(optimizer)
    with pytest.raises(RuntimeError, match=re.escape(error_of(name, arguments))):
        optimizer.step()
    assert_nothing_changed(optimizer, before)
    give_gradients(name, params, steps)
    optimizer.step()


@optimizers(lambda case: case.sparse == "only")
def test_dense_gradients_are_refused_where_sparse_ones_are_due(name):
    """In torch's words, and nothing changes."""
    words = []
    for kind in (reference(name), ours(name)):
        optimizer = make(kind, tables(name), {})
        give_sparse(params_of(optimizer), 0)
        params_of(optimizer)[-1].grad = torch.ones(SHAPES[-1])
        before = everything(optimizer)
        with pytest.raises(RuntimeError) as caught:
            optimizer.step()
        words.append(str(caught.value))
        if kind is ours(name):
            assert_nothing_changed(optimizer, before)
    assert words[1].startswith(words[0])


@pytest.mark.parametrize(
    ("name", "arguments"),
    list(cases("also", "only", without=("weight_decay", "momentum"))),
)
def test_rows_without_gradient_keep_their_bits(name, arguments):
    """Where nothing but the gradient moves a row: no decay and no momentum."""
    table, *_ = tables(name)
    optimizer = make(ours(name), [table], arguments)
    before = table.detach().clone()
    for step in range(3):
        values = torch.full((2, 4), 1.0 + step)
        table.grad = torch.sparse_coo_tensor(
            [[1, 4]], values, table.shape, check_invariants=True
        )
        optimizer.step()
    still = [0, 2, 3, 5]
    assert_same(table.detach()[still], before[still])
    assert (table.detach()[[1, 4]] != before[[1, 4]]).all()
