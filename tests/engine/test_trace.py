"""Reading a rule: what it may do, and that its kernel does it."""

import numpy as np
import pytest
import torch

from polyak import Slot, ema

from .support import engines, parameter, probe, steps_like_eager


def momentum(param, grad, buffer=None, *, lr, momentum, dampening):
    """A slot that may be absent, and a branch on a scalar."""
    if buffer is None:
        return param - lr * grad, None
    buffer = momentum * buffer + (1 - dampening) * grad
    return param - lr * buffer, buffer


def decay(param, grad, *, lr, weight_decay):
    """A branch on a hyperparameter being zero."""
    if weight_decay:
        grad = grad + weight_decay * param
    return param - lr * grad


def first_step(param, grad, mean, *, lr, step):
    """A branch on the number of the step."""
    mean = grad if step == 1 else ema(mean, grad, 0.5)
    return param - lr * mean, mean


def warm_up(param, grad, *, lr, step, warmup):
    """min and max of scalars."""
    return param - lr * min(1, step / max(1, warmup)) * grad


def unbounded(param, grad, *, lr):
    """Numbers without a literal, as operands of scalars."""
    lr = min(lr, float("inf")) - max(-float("inf"), -lr)
    return param - lr * grad


def alternating(param, grad, *, step):
    """A negative literal as the base of a power."""
    return param - (-0.5) ** step * grad


def every_operator_on_scalars(param, grad, *, step, lr):
    """All that Python's numbers do with operators."""
    a = (step * 7 // 3 + step % 4 - 0.5 ** (-step)) / (abs(-step) + 1)
    b = -a + (+lr) - (step > 2) + (step >= 1) * (step != 3) - (step == 2) ** 2
    return param - (a if a >= b else b) * grad - (a < b) * lr * grad


def repeated(param, grad, *, lr, repeats):
    """A loop whose length is a hyperparameter, and a branch on the same."""
    if repeats:
        for _ in range(repeats):
            grad = grad * lr
    return param - grad


def indexed(param, grad, *, rates, stage):
    """A hyperparameter picks another one."""
    return param - rates[stage] * grad


def of_tuples(param, grad, *, betas, bounds):
    """Tuples, in one of which a None is."""
    low, high = bounds
    grad = betas[0] * grad + betas[1][0] * param
    if low is not None:
        grad = torch.clamp(grad, min=low)
    return param - (grad if high is None else torch.clamp(grad, max=high))


def static_choice(param, grad, *, lr, kind, nesterov):
    """Strings and booleans are known while reading."""
    if kind == "sign":
        grad = torch.sign(grad)
    return param - lr * (2 * grad if nesterov else grad)


def of_numbers(param, grad, speed, *, lr):
    """A slot that is a number: it is computed with and branched on."""
    if speed > 1:
        param = param - lr * grad
    return param - speed * grad, speed * 1.5


def old_values(param, grad, previous, older):
    """A new slot that is an old tensor."""
    return param - 0.1 * grad + older, param, previous


def swapped(param, grad, other):
    """The parameter and a slot change places."""
    return other + 0 * grad, param


def constants(param, grad, zero, five, one, *, lr):
    """A new value may be a number."""
    return param + five, 0, 5 * lr, True


def a_number(param, grad, *, lr):
    """So may that of the parameter."""
    return lr


def nothing(param, grad):
    """A rule may leave everything as it is."""
    return param


def the_gradient(param, grad, first, second):
    """Values may be given out more than once."""
    return grad, grad, grad


def masks(param, grad, *, lr):
    """A mask is a number in arithmetic, and is made of other masks."""
    keep = (grad > 0) & ~(param < 0) | (grad != grad)
    return param - lr * (keep * grad)


SUMMED = {"speed": Slot(lambda param, group: 0.9, number=True)}
PERMITTED = [
    (momentum, {"buffer": Slot(when="momentum")}, dict(momentum=0.9, dampening=0.1)),
    (momentum, {"buffer": Slot(when="momentum")}, dict(momentum=0.0, dampening=0.1)),
    (decay, {}, dict(weight_decay=0.0)),
    (decay, {}, dict(weight_decay=0.1)),
    (decay, {}, dict(weight_decay=False)),
    (first_step, {}, {}),
    (warm_up, {}, dict(warmup=3)),
    (warm_up, {}, dict(warmup=0)),
    (unbounded, {}, {}),
    (alternating, {}, {}),
    (every_operator_on_scalars, {}, {}),
    (repeated, {}, dict(repeats=3)),
    (repeated, {}, dict(repeats=0)),
    (indexed, {}, dict(rates=(0.1, 0.2, 0.3), stage=2)),
    (of_tuples, {}, dict(betas=(0.9, (0.5,)), bounds=(None, 0.4))),
    (of_tuples, {}, dict(betas=[0.9, [0.5]], bounds=[-0.4, None])),
    (static_choice, {}, dict(kind="sign", nesterov=True)),
    (static_choice, {}, dict(kind=None, nesterov=False)),
    (of_numbers, SUMMED, {}),
    (old_values, {}, {}),
    (swapped, {}, {}),
    (constants, {}, {}),
    (a_number, {}, {}),
    (nothing, {}, {}),
    (the_gradient, {}, {}),
    (masks, {}, {}),
]


@pytest.mark.parametrize(
    ("rule", "slots", "hyperparameters"),
    PERMITTED,
    ids=[f"{case[0].__name__}-{i}" for i, case in enumerate(PERMITTED)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_rule_may(rule, slots, hyperparameters, dtype):
    """Each of these rules is read, and its kernel does what the rule says."""
    kind = probe(rule, slots)
    steps_like_eager(
        lambda params, **switches: kind(params, lr=0.3, **hyperparameters, **switches),
        dtype=dtype,
        steps=4,
    )


@pytest.mark.parametrize(
    "number", [np.float32(0.25), np.float64(0.25), np.int64(1), torch.tensor(0.25)]
)
def test_numbers_of_other_libraries_are_numbers(number):
    """A hyperparameter may be numpy's or a 0-d tensor: a scalar like any other."""
    param = parameter([1.0, 2.0], [4.0, 8.0])
    optimizer = probe(decay)([param], lr=number, weight_decay=0.0)
    optimizer.step()
    assert engines(optimizer) == "kernel"
    assert param.tolist() == [1 - number * 4, 2 - number * 8]
    plan, optimizer.param_groups[0]["lr"] = optimizer._plan, type(number)(number * 2)
    optimizer.step()
    assert param.tolist() == [1 - number * 12, 2 - number * 24]
    assert optimizer._plan is plan


def test_lifted_names_do_not_collide():
    """``lr=(a, b)`` and ``lr_0=c`` are three numbers."""

    def rule(param, grad, *, lr, lr_0):
        return param - lr[0] * grad - 10 * lr[1] * grad - 100 * lr_0 * grad

    param = parameter([0.0], [1.0])
    probe(rule)([param], lr=(1.0, 2.0), lr_0=3.0).step()
    assert param.item() == -321


NAMES = "n i next row values v1 c table start chunk grain tensors sum max θ param_ x0"
NAMES += " s0 entry loop exit scalar grad_ contract double ptr float real body"


@pytest.mark.parametrize("name", NAMES.split())
def test_a_slot_may_have_any_name(name):
    """Names of slots and hyperparameters never meet names in the generated code."""
    namespace = {}
    exec(
        f"def rule(param, grad, {name}, *, lr_{name}):\n"
        f"    {name} = {name} + lr_{name} * grad\n"
        f"    return param - {name}, {name}\n",
        namespace,
    )
    param = parameter([1.0, 2.0], [3.0, 4.0])
    optimizer = probe(namespace["rule"])([param], **{f"lr_{name}": 0.5})
    optimizer.step()
    optimizer.step()
    assert engines(optimizer) == "kernel"
    assert param.tolist() == [1 - 4.5, 2 - 6]
    assert optimizer.state[param][name].tolist() == [3.0, 4.0]


def test_a_hyperparameter_may_have_any_name():
    """Python's names, keywords' neighbours and Greek letters are all the same to it."""

    def rule(param, grad, *, lambda_, λ, bool, min, step, inf):
        return param - (lambda_ + λ + bool + min + inf + step) * grad

    param = parameter([0.0], [1.0])
    numbers = dict(lambda_=1.0, λ=10.0, bool=100.0, min=1000.0, inf=1e4)
    optimizer = probe(rule)([param], **numbers)
    optimizer.step()
    assert param.item() == -11112


def test_tensors_may_be_given_by_keyword():
    """``torch.lerp(input=x, ...)`` is as good as ``torch.lerp(x, ...)``."""

    def rule(param, grad, *, lr):
        return torch.lerp(input=param, end=grad, weight=lr)

    param = parameter([1.0], [2.0])
    optimizer = probe(rule)([param], lr=0.25)
    optimizer.step()
    assert param.item() == 1.25
    assert engines(optimizer) == "kernel"
