"""polyak.leaf: functions of tensors that no engine looks into."""

from typing import NamedTuple

import pytest
import torch

import polyak

from .support import engines, parameter, probe, random_gradients, state_of, why_eager

SHAPES = ((3, 4), (4, 4), (3, 4), (4, 4), (4, 4), (4, 4), (0, 3), (5,), (), (5,), ())


def parameters(shapes=SHAPES, dtype=torch.float32):
    generator = torch.Generator().manual_seed(7)
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    return [each.to(dtype).requires_grad_() for each in drawn]


def compare(rule, *, engine="kernel", params=parameters, steps=3, **arguments):
    """Steps with kernels around the leaves are those of the eager engine."""
    runs = []
    for fused in (None, False):
        group = params()
        optimizer = probe(rule)(group, **{"lr": 0.1, "fused": fused, **arguments})
        for step in range(steps):
            random_gradients(group, step)
            optimizer.step()
        assert engines(optimizer) == ("eager" if fused is False else engine)
        runs.append((optimizer, state_of(optimizer, group)))
    torch.testing.assert_close(*(state for _, state in runs), rtol=4e-6, atol=4e-6)
    return runs[0][0]


@polyak.leaf
def unit(x, scale=1.0):
    """x over its norm."""
    return scale * x / x.norm()


@polyak.leaf
def doubled(x):
    return 2 * x


def positional(param, grad, *, lr):
    return param - lr * unit(grad)


def by_keyword(param, grad, *, lr):
    return param - lr * unit(x=grad, scale=lr)


def in_a_list(param, grad, *, lr):
    joined = polyak.leaf(lambda tensors: tensors[0] / tensors[1].norm())
    return param - joined([grad, param]) * lr


def side_by_side(param, grad, *, lr):
    return param - lr * unit(grad) * unit(param + grad) + lr * unit(grad)


def one_after_another(param, grad, *, lr):
    return param - lr * doubled(unit(grad) * param)


def used_twice(param, grad, *, lr):
    direction = unit(grad)
    return param * (1 + direction) - lr * direction


def unused(param, grad, *, lr):
    unit(grad)
    return param - lr * grad


@pytest.mark.parametrize(
    "rule",
    [
        *(positional, by_keyword, in_a_list, side_by_side),
        *(one_after_another, used_twice, unused),
    ],
    ids=lambda rule: rule.__name__,
)
def test_kernels_run_around_leaves(rule):
    """What a leaf does is not looked into: it is called between two kernels."""
    compare(rule)


def with_a_slot(param, grad, buffer, *, step, lr):
    buffer = 0.5 * buffer + grad
    return doubled(param) - param - lr / step * unit(buffer), doubled(unit(buffer))


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_state_and_dtypes(dtype, maximize):
    """A leaf is given, and may give, what is returned; as wide as the kernel."""
    seen = set()

    @polyak.leaf
    def looked_at(x):
        seen.add(x.dtype)
        return x

    def rule(param, grad, buffer, *, step, lr):
        new = with_a_slot(param, looked_at(grad), buffer, step=step, lr=lr)
        return new[0], looked_at(new[1])

    compare(rule, params=lambda: parameters(dtype=dtype), maximize=maximize)
    assert seen == {torch.float64 if dtype == torch.float64 else torch.float32}


# What a leaf gives

GIVEN = {
    "a number for each": lambda x: x.norm(),
    "a number for each column": lambda x: x.mean(0),
    "the same for all": lambda x: torch.tensor([2.0]),
    "a number": lambda x: 0.5,
    "another dtype": lambda x: x.double() / 3,
    "truth values": lambda x: x > 0,
    "what it was given": lambda x: x,
    "a view of it": lambda x: x.flip(0).flip(0).mT.mT,
    "what it has written to": lambda x: x.mul_(2),
    "a view that is negated when it is read": lambda x: torch.complex(x, x).conj().imag,
    "other strides": lambda x: x.mT.contiguous().mT,
}


@pytest.mark.parametrize("given", GIVEN)
def test_what_a_leaf_gives_is_spread_over_the_parameter(given):
    """As operators spread it: along its last dimensions, in the kernel's dtype."""
    function = polyak.leaf(GIVEN[given])

    def rule(param, grad, *, lr):
        return param - lr * function(grad * 1) + lr * grad

    compare(rule, params=lambda: parameters([(3, 4), (4, 4), (3, 4)] + [(4, 4)] * 3))


def test_a_batched_leaf_may_give_a_view_that_is_negated():
    """It is read as it is meant."""
    function = polyak.leaf(torch._neg_view, batched=True)

    def rule(param, grad, *, lr):
        return param - lr * function(grad)

    compare(rule)


def test_each_group_has_its_own_numbers_for_a_leaf():
    """Though the shape is the same."""

    def rule(param, grad, *, lr):
        return param - unit(grad, scale=lr)

    params = parameters([(3, 4)] * 2)
    for param in params:
        param.grad = torch.ones(3, 4)
    before = [param.detach().clone() for param in params]
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.5}]
    probe(rule)(groups, lr=0.1).step()
    moved = [(b - p.detach()).norm() for b, p in zip(before, params, strict=True)]
    torch.testing.assert_close(torch.stack(moved), torch.tensor([0.1, 0.5]))


def test_leaves_give_each_other_tensors_of_any_shape():
    """No kernel takes part in that."""
    gram, times = polyak.leaf(lambda x: x @ x.mT), polyak.leaf(lambda g, x: g @ x)

    def rule(param, grad, *, lr):
        return param - lr * times(gram(grad), times(gram(gram(param)), grad + param))

    compare(rule, params=lambda: parameters([(3, 4), (4, 4), (3, 4), (2, 5)]), steps=1)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)], ids=str)
def test_a_shape_that_does_not_fit_is_an_error(shape, batched, count):
    """It names the leaf, and nothing was written."""

    def strange(x):
        return torch.ones(shape)

    function = polyak.leaf(strange, batched=batched)

    def rule(param, grad, *, lr):
        return param - lr * function(grad)

    params = parameters([(3, 4)] * count)
    random_gradients(params, 0)
    before = [param.detach().clone() for param in params]
    with pytest.raises(RuntimeError, match=rf"^strange gave .* {count} parameters"):
        probe(rule)(params, lr=0.1).step()
    assert all(map(torch.equal, params, before))
    assert all(param._version == 0 for param in params)


def test_a_device_that_is_the_default_is_not_the_leafs():
    """Memory for a kernel is on the CPU."""
    params, expected = parameters(), parameters()
    for each in (params, expected):
        random_gradients(each, 0)
    probe(positional)(expected, lr=0.1).step()
    optimizer = probe(positional)(params, lr=0.1)
    with torch.device("meta"):
        optimizer.step()
    assert engines(optimizer) == "kernel"
    assert all(map(torch.equal, params, expected))


# What a leaf is given


class Pair(NamedTuple):
    first: object
    second: object


def test_arguments_arrive_as_they_were():
    """Whatever they are: containers, numbers of their own type, foreign objects."""
    seen = []
    table, other = torch.eye(3), object()
    gain = torch.nn.Parameter(torch.ones(2))

    @polyak.leaf
    def looked_at(x, *args, **kwargs):
        seen.append((args, kwargs))
        return x

    def rule(param, grad, *, lr, count, name):
        pair = Pair([param, lr], {"n": count, "none": None})
        return param - lr * looked_at(
            grad,
            pair,
            (table, gain),
            slice(1, None),
            where=other,
            name=name,
            n=(7, 2.5),
        )

    compare(rule, params=lambda: parameters([(3, 4)]), count=5, name="a", steps=1)
    for (pair, tensors, part), named in seen:
        assert type(pair) is Pair
        assert type(pair.first) is list
        assert pair.first[0].shape[-2:] == (3, 4)
        assert pair.first[1] == 0.1
        assert type(pair.second) is dict
        assert pair.second == {"n": 5, "none": None}
        assert type(pair.second["n"]) is int
        assert tensors[0] is table
        assert tensors[1] is gain
        assert part == slice(1, None)
        assert named == {"where": other, "name": "a", "n": (7, 2.5)}
    assert len(seen) == 2


def test_what_a_leaf_writes_to_is_its_own():
    """Neither the gradient nor another leaf sees it."""
    spoiled = polyak.leaf(lambda x: x.zero_())

    def rule(param, grad, *, lr):
        return param - lr * spoiled(grad) - lr * unit(grad)

    params, expected = parameters([(3, 4)]), parameters([(3, 4)])
    for each in (params, expected):
        random_gradients(each, 0)
    probe(rule)(params, lr=0.1).step()
    probe(positional)(expected, lr=0.1).step()
    assert torch.equal(params[0], expected[0])
    assert torch.equal(params[0].grad, expected[0].grad)


def test_names_do_not_clash():
    """Those of slots, leaves, and operators are each by themselves."""
    mean = polyak.leaf(lambda x: 3 * x)
    mean.__wrapped__.__name__ = "mean"

    def rule(param, grad, mean0, mean0_in0, *, lr):
        mean0 = 0.5 * mean0 + grad
        mean0_in0 = mean0_in0 - grad
        return param - lr * mean(mean0 * 2) + mean0_in0, mean0, mean0_in0

    compare(rule)


# Where kernels cannot serve


def on_truth_values(param, grad, *, lr):
    return param - lr * polyak.leaf(torch.where)(grad > 0, grad, param)


def with_sums(param, grad, *, lr):
    return param - lr * unit(grad) / grad.norm()


def on_a_sum(param, grad, *, lr):
    return param - lr * doubled(grad.mean(-1, keepdim=True))


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (on_truth_values, "the rule calls where, a leaf, on truth values"),
        (with_sums, "the rule calls unit, a leaf, and takes sums"),
        (on_a_sum, "the rule calls doubled, a leaf, and takes sums"),
    ],
)
def test_some_rules_with_leaves_run_eagerly(rule, why):
    """For a reason that is told."""
    optimizer = compare(
        rule, engine="eager", params=lambda: parameters([(3, 4), (3, 4)])
    )
    assert set(why_eager(optimizer)) == {why}


def test_some_parameters_run_eagerly():
    """A leaf is given what lies in order, and real."""
    for param in (torch.ones(3, 4).t(), torch.ones(3, 4, dtype=torch.complex64)):
        param.requires_grad_()
        param.grad = torch.ones_like(param)
        optimizer = probe(positional)([param], lr=0.1)
        optimizer.step()
        assert engines(optimizer) == "eager"


def after_a_guard(param, grad, *, lr, step):
    return param - lr * (unit(grad) if step % 2 == 0 else grad)


def test_a_leaf_behind_a_branch():
    """A rule may call a leaf in some steps; a kernel serves the others alone."""
    param = parameter([1.0, 2.0], [3.0, 4.0])
    expected = param.detach().clone()
    optimizer = probe(after_a_guard)([param], lr=0.5)
    for step in range(1, 5):
        optimizer.step()
        assert engines(optimizer) == "kernel"
        (bucket,) = optimizer._plan.buckets
        assert len(bucket.kernel.calls) == (step % 2 == 0)
        expected = after_a_guard(expected, param.grad, lr=0.5, step=step)
    torch.testing.assert_close(param.detach(), expected)


def test_a_leaf_is_the_function_elsewhere():
    """Outside a rule a leaf is the function it was made of, name and text included."""
    assert torch.equal(unit(torch.tensor([3.0, 4.0])), torch.tensor([0.6, 0.8]))
    assert unit.__name__ == "unit"
    assert unit.__doc__ == "x over its norm."
    first = polyak.leaf(lambda x: x / x.sum(1, keepdim=True), batched=True)
    assert first(torch.tensor([3.0, 1.0])).tolist() == [0.75, 0.25]
