"""Compositions at random: against the formula, built anywhere, changed, and resumed."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lr_scheduler.cases import PLATEAU
from tests.lr_scheduler.harness import Run, assert_close, start_node
from tests.lr_scheduler.nodes import (
    RATES,
    STEPS,
    Node,
    chain,
    harmonic,
    node,
    parameter,
    sequence,
    sgd,
)
from tests.lr_scheduler.reference import value
from tests.lr_scheduler.resuming import ORDERS, load

small = st.integers(1, 6)
factors = st.sampled_from([0.25, 0.5, 0.9, 1.0])
LEAVES = st.one_of(
    st.builds(lambda s, g: node("StepLR", step_size=s, gamma=g), small, factors),
    st.builds(
        lambda m, g: node("MultiStepLR", milestones=sorted(m), gamma=g),
        st.lists(st.integers(0, 12), max_size=4),
        factors,
    ),
    st.builds(lambda f, t: node("ConstantLR", factor=f, total_iters=t), factors, small),
    st.builds(
        lambda a, b, t: node("LinearLR", start_factor=a, end_factor=b, total_iters=t),
        factors,
        factors,
        small,
    ),
    st.builds(lambda g: node("ExponentialLR", gamma=g), factors),
    st.builds(
        lambda t, p: node("PolynomialLR", total_iters=t, power=p),
        small,
        st.sampled_from([0.5, 1.0, 2.0]),
    ),
    st.builds(lambda t: node("CosineAnnealingLR", T_max=t), small),
    st.builds(
        lambda t, m: node("CosineAnnealingWarmRestarts", T_0=t, T_mult=m),
        small,
        st.integers(1, 3),
    ),
    st.just(node("LambdaLR", lr_lambda=harmonic)),
    st.just(node("MultiplicativeLR", lr_lambda=harmonic)),
)


@st.composite
def sequences(draw: st.DrawFn, parts: st.SearchStrategy[Node]) -> Node:
    """Schedulers one after another, at any milestones."""
    children = draw(st.lists(parts, min_size=1, max_size=3))
    count = len(children) - 1
    milestones = draw(
        st.lists(st.integers(0, 12), min_size=count, max_size=count, unique=True)
    )
    return sequence(sorted(milestones), *children)


def chains(parts: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    """Schedulers at once."""
    return st.lists(parts, min_size=1, max_size=3).map(lambda made: chain(*made))


def nodes(leaves: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    """Schedulers of these, nested at will."""
    return st.recursive(
        leaves, lambda parts: st.one_of(sequences(parts), chains(parts)), max_leaves=6
    )


NODES = nodes(LEAVES)


@settings(max_examples=150, deadline=None)
@given(made=NODES)
def test_random_compositions_step_along_the_formula(made):
    """Every step, in every group."""
    run = start_node(made, sgd(3))
    for epoch in range(STEPS):
        due = [value(made, base, epoch) for base in RATES]
        assert_close(run.lrs, due, 1e-12, f"epoch {epoch}")
        run.step()


@settings(max_examples=150, deadline=None)
@given(made=NODES, last_epoch=st.integers(-1, 20))
def test_random_compositions_begin_anywhere(made, last_epoch):
    """Built at an epoch: the bits of the run that walked there, before and after."""
    walked = start_node(made, sgd(2)).steps(last_epoch + 1)
    built = start_node(made, sgd(2), last_epoch=last_epoch)
    assert_close(built.trace(6), walked.trace(6), 0)


# What happens to a run


def edited(optimizer: Any) -> None:
    """A user turns the rates down."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * 0.5


def shrunk(optimizer: Any) -> None:
    """The first group is frozen."""
    if len(optimizer.param_groups) > 1:
        for param in optimizer.param_groups.pop(0)["params"]:
            optimizer.state.pop(param, None)


def grown(optimizer: Any) -> None:
    """A group is unfrozen."""
    optimizer.add_param_group({"params": [parameter()], "lr": 0.07})


MEMORIES = st.one_of(
    st.just(PLATEAU),
    st.just(node("Shrink")),
    st.just(node("Wave")),
    st.builds(lambda n: node("Halve", every=n), small),
)
HISTORIES = st.dictionaries(
    st.integers(0, 10), st.sampled_from([edited, shrunk, grown]), max_size=3
)


@settings(max_examples=200, deadline=None)
@given(
    made=nodes(LEAVES | MEMORIES),
    history=HISTORIES,
    split=st.integers(0, 12),
    order=st.sampled_from(list(ORDERS)),
)
def test_random_compositions_resume(made, history, split, order):
    """Whatever has happened, and in whatever order they are loaded."""
    old = start_node(made, sgd(2))
    for epoch in range(split + 1):
        if epoch in history:
            history[epoch](old.optimizer)
        if epoch < split:
            old.step()
    states = (old.optimizer.state_dict(), old.scheduler.state_dict())
    new = Run(sgd(2), None, old.metrics, old.epoch)
    while len(new.optimizer.param_groups) < len(old.optimizer.param_groups):
        grown(new.optimizer)
    while len(new.optimizer.param_groups) > len(old.optimizer.param_groups):
        shrunk(new.optimizer)
    load(new, made, states, order)
    due = old.trace(6)
    # What was done after the last step is not in get_last_lr.
    due[0]["last_lr"] = None
    assert_close(new.trace(6), due, 0)
