"""polyak.leaf: functions of tensors that no engine looks into."""

import pytest
import torch

import polyak

from .support import engines, parameter, probe


@polyak.leaf
def unit(x, scale=1.0):
    """x over its norm."""
    return scale * x / x.norm()


def positional(param, grad, *, lr):
    return param - lr * unit(grad)


def by_keyword(param, grad, *, lr):
    return param - lr * unit(x=grad, scale=lr)


def in_a_list(param, grad, *, lr):
    joined = polyak.leaf(lambda tensors: tensors[0] / tensors[1].norm())
    return param - joined([grad, param]) * lr


def after_a_guard(param, grad, *, lr, step):
    return param - lr * (unit(grad) if step % 2 == 0 else grad)


@pytest.mark.parametrize(
    "rule", [positional, by_keyword, in_a_list], ids=lambda rule: rule.__name__
)
def test_a_leaf_runs_eagerly(rule):
    """What a leaf does is not looked into: the rule runs on tensors."""
    param = parameter([1.0, 2.0], [3.0, 4.0])
    expected = rule(param.detach().clone(), param.grad.clone(), lr=0.5)
    optimizer = probe(rule)([param], lr=0.5)
    optimizer.step()
    assert torch.equal(param.detach(), expected)
    assert engines(optimizer) == "eager"


def test_a_leaf_behind_a_branch_changes_the_engine():
    """A rule that calls a leaf in some steps runs eagerly in those."""
    param = parameter([1.0, 2.0], [3.0, 4.0])
    expected, used = param.detach().clone(), []
    optimizer = probe(after_a_guard)([param], lr=0.5)
    for step in range(1, 5):
        optimizer.step()
        used.append(engines(optimizer))
        expected = after_a_guard(expected, param.grad, lr=0.5, step=step)
    torch.testing.assert_close(param.detach(), expected)
    assert used == ["kernel", "eager", "kernel", "eager"]


def test_a_leaf_is_the_function_elsewhere():
    """Outside a rule a leaf is the function it was made of, name and text included."""
    assert torch.equal(unit(torch.tensor([3.0, 4.0])), torch.tensor([0.6, 0.8]))
    assert unit.__name__ == "unit"
    assert unit.__doc__ == "x over its norm."
