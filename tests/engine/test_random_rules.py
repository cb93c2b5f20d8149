"""Rules of all kinds: kernel, eager engine and listing agree to the last bit.

The numbers are small multiples of powers of two, of which sums and products are exact
in float64: there is no rounding that could differ.
"""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from .support import engines, parameter, probe

PARAM = [0.0, 1.0, -1.0, 0.5, 2.0, -0.25, 3.0, -0.0, 4.0]
GRAD = [1.0, 1.0, 0.5, -0.5, 0.0, 2.0, -3.0, -0.0, 0.25]
SLOT = [2.0, 0.0, -1.0, 0.5, 1.0, -2.0, 3.0, 0.0, -0.25]
FUNCTIONS = {"where": torch.where, "sqrt": torch.sqrt, "floor": torch.floor, "abs": abs}

scalars = st.recursive(
    st.sampled_from(["lr", "step", "beta", "2", "-0.5", "(-1)"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), inner).map(
            "({0[0]} {0[1]} {0[2]})".format
        ),
        st.tuples(inner, inner).map("max({0[0]}, {0[1]})".format),
        st.tuples(inner, inner, inner).map(
            "({0[0]} if {0[1]} > {0[2]} else -1)".format
        ),
    ),
    max_leaves=3,
)


def larger(inner):
    number = inner | scalars
    mask = st.one_of(
        st.tuples(
            inner, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), number
        ).map("({0[0]} {0[1]} {0[2]})".format),
        inner.map("torch.logical_not({})".format),
        st.tuples(inner, inner).map("(({0[0]} > 0) & ({0[1]} != 1))".format),
        st.tuples(inner, inner).map("(({0[0]} > 0) | ~({0[1]} < 1))".format),
    )
    return st.one_of(
        st.tuples(inner, st.sampled_from("+-*"), number).map(
            "({0[0]} {0[1]} {0[2]})".format
        ),
        st.tuples(scalars, st.sampled_from("+-*"), inner).map(
            "({0[0]} {0[1]} {0[2]})".format
        ),
        inner.map("({} / 2)".format),
        inner.map("(-{})".format),
        inner.map("abs({})".format),
        inner.map("torch.sign({})".format),
        inner.map("torch.floor({})".format),
        inner.map("torch.relu({})".format),
        inner.map("torch.square({})".format),
        inner.map("({} ** 2)".format),
        inner.map("torch.clamp({}, -2, 2)".format),
        st.tuples(inner, inner).map("torch.maximum({0[0]}, {0[1]})".format),
        st.tuples(inner, inner).map("torch.minimum({0[0]}, {0[1]})".format),
        st.tuples(mask, inner, number).map(
            "torch.where({0[0]}, {0[1]}, {0[2]})".format
        ),
        st.tuples(mask, inner).map("({0[0]} * {0[1]})".format),
        st.tuples(inner, inner).map("torch.lerp({0[0]}, {0[1]}, 0.25)".format),
        st.tuples(inner, inner, inner).map(
            "torch.addcmul({0[0]}, {0[1]}, {0[2]}, value=-0.5)".format
        ),
    )


tensors = st.recursive(st.sampled_from(["param", "grad", "slot"]), larger, max_leaves=6)


def stepped(rule, foreach, values):
    """The optimizer after a step, and what it wrote."""
    param = parameter(values["param"], values["grad"], torch.float64)
    kind = probe(rule)
    optimizer = kind([param], lr=0.5, beta=values["beta"], foreach=foreach)
    slot = torch.tensor(values["slot"], dtype=torch.float64)
    optimizer.state[param] |= {"slot": slot, "step": torch.tensor(2.0)}
    optimizer.step()
    return optimizer, [param.detach(), slot]


@settings(max_examples=60)
@given(tensors, tensors, st.sampled_from([0.25, -1.0, 2.0]))
def test_any_rule(new_param, new_slot, beta):
    """Whatever is written with operators."""
    namespace = {"torch": torch}
    exec(
        "def rule(param, grad, slot, *, step, lr, beta):\n"
        f"    return {new_param}, {new_slot}\n",
        namespace,
    )
    values = {"param": PARAM, "grad": GRAD, "slot": SLOT, "beta": beta}
    optimizer, found = stepped(namespace["rule"], None, values)
    assert engines(optimizer) == "kernel"
    _, expected = stepped(namespace["rule"], False, values)
    assert all(map(torch.equal, found, expected))

    listing = optimizer._plan.buckets[0].kernel.listing
    listed = {
        name: list(torch.tensor(values[name], dtype=torch.float64))
        for name in ("param", "grad", "slot")
    }
    numbers = {"n": len(PARAM), "lr": 0.5, "beta": beta, "step": 3.0}
    exec(listing, {**FUNCTIONS, **numbers, **listed})
    for name, due in zip(("param", "slot"), expected, strict=True):
        assert [float(number) for number in listed[name]] == due.tolist()
