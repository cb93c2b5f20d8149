"""Schedules of all kinds, drawn at random."""

from hypothesis import strategies as st

from polyak import schedules as s


def halve(k):
    return 1 / (2 + k)


def slow(j):
    return 1 - 1 / (2 + j)


def per_cycle(cycle):
    return 1 / cycle


def reals(low, high):
    return st.one_of(
        st.integers(int(low), int(high)), st.floats(low, high, allow_subnormal=False)
    )


factors = reals(-3, 3)
gammas = st.floats(0.01, 1.0)
counts = st.integers(0, 40)
sizes = st.integers(1, 40)
spans = st.one_of(sizes, st.floats(0.5, 40))

finite = st.one_of(
    st.builds(s.linear, factors, factors, st.one_of(st.just(0), spans)),
    st.builds(s.polynomial, spans, st.floats(0.1, 4), factors),
    st.builds(s.cosine, spans, factors),
    st.builds(s.rex, spans, factors),
    st.builds(s.warmup, counts, reals(0, 3)),
    st.builds(
        lambda w, n, final: s.warmup_cosine(w, w + n, final), counts, sizes, factors
    ),
    st.builds(
        s.wsd,
        counts,
        counts,
        sizes,
        factors,
        st.sampled_from(["linear", "cosine", "sqrt"]),
    ),
    st.builds(
        s.one_cycle,
        sizes,
        st.floats(0, 1),
        st.sampled_from(["cos", "linear"]),
        st.floats(1, 50),
        st.floats(1, 1e5),
        st.booleans(),
    ),
)

endless = st.one_of(
    st.builds(s.constant, factors),
    st.builds(s.step, sizes, gammas),
    st.builds(
        lambda milestones, gamma: s.multistep(sorted(milestones), gamma),
        st.lists(counts, max_size=5),
        gammas,
    ),
    st.builds(s.exponential, gammas),
    st.builds(s.cosine, spans, factors, st.just(True)),
    st.builds(s.cosine_restarts, sizes, st.integers(1, 4), factors),
    st.builds(
        s.cyclic,
        factors,
        spans,
        st.one_of(st.none(), st.just(0), spans),
        st.sampled_from(["triangular", "triangular2", "exp_range"]),
        gammas,
    ),
    st.builds(s.inverse_sqrt, sizes),
)

# The ones with a function: no text says them.
functional = st.one_of(
    st.just(s.custom(halve)),
    st.just(s.multiplicative(slow)),
    st.builds(lambda up: s.cyclic(2, up, scale=per_cycle), sizes),
)


def _ending(schedules):
    """The same schedules, cut where they do not end by themselves."""
    return st.tuples(schedules, counts).map(
        lambda pair: pair[0] if pair[0].length is not None else pair[0].until(pair[1])
    )


def _composed(inner):
    return st.one_of(
        st.tuples(_ending(inner), inner).map(lambda pair: pair[0] | pair[1]),
        st.tuples(inner, inner).map(lambda pair: pair[0] * pair[1]),
        st.tuples(factors, inner).map(lambda pair: pair[0] * pair[1]),
        st.tuples(inner, counts).map(lambda pair: pair[0].until(pair[1])),
        st.builds(s.Schedule.in_epochs, inner, sizes, st.booleans()),
    )


curves = finite | endless
ending = _ending(st.recursive(curves, _composed, max_leaves=4))
written = st.recursive(curves, _composed, max_leaves=6)
"""Schedules that an expression can say."""

steps = st.one_of(st.integers(0, 300), st.floats(0, 300), st.integers(0, 10**6))
