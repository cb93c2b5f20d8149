"""Reading a rule: what it may do, what it may not, and what the refusal says."""

import functools
import inspect
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import polyak
from polyak import Optimizer, RuleError, Slot, ema

from .support import engines, parameter, probe, steps_like_eager

# What a rule may do


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


# What a rule may not do. The offending line is marked.


def branches(param, grad, *, lr):
    if grad > 0:  # wrong
        return param
    return param - lr * grad


def negates(param, grad, *, lr):
    if not grad:  # wrong
        return param
    return param - grad


def takes_the_greater(param, grad, *, lr):
    return max(param, grad)  # wrong


def compares_twice(param, grad, *, lr):
    return torch.where(0 < grad < 1, param, grad)  # wrong


def adds_in_place(param, grad, *, lr):
    param += grad  # wrong
    return param


def multiplies_in_place(param, grad, *, lr):
    param *= lr  # wrong
    return param


def divides_in_place(param, grad, *, lr):
    param /= 2  # wrong
    return param


def calls_in_place(param, grad, *, lr):
    param.add_(grad, alpha=-lr)  # wrong
    return param


def copies_in_place(param, grad, *, lr):
    grad.copy_(param)  # wrong
    return param


def writes_out(param, grad, *, lr):
    return torch.add(param, grad, out=param)  # wrong


def assigns_an_item(param, grad, *, lr):
    param[0] = 1.0  # wrong
    return param


def assigns_data(param, grad, *, lr):
    param.data = param - grad  # wrong
    return param


def assigns_grad(param, grad, *, lr):
    param.grad = None  # wrong
    return param


def takes_a_math_root(param, grad, *, lr):
    return param - math.sqrt(lr) * grad  # wrong


def makes_a_float(param, grad, *, lr):
    return param - float(lr) * grad  # wrong


def makes_a_tensor_a_float(param, grad, *, lr):
    return param - lr * float(grad)  # wrong


def makes_a_tensor_an_int(param, grad, *, lr):
    return param - lr * int(grad)  # wrong


def rounds(param, grad, *, lr):
    return param - round(lr) * grad  # wrong


def calls_torch_on_numbers(param, grad, *, lr):
    return param - torch.mul(lr, 2) * grad  # wrong


def calls_a_method_of_a_number(param, grad, *, lr):
    return param - lr.sqrt() * grad  # wrong


def takes_a_norm(param, grad, *, lr):
    return param - lr * grad / grad.norm()  # wrong


def takes_a_torch_norm(param, grad, *, lr):
    return param - lr * grad / torch.linalg.vector_norm(grad)  # wrong


def multiplies_matrices(param, grad, *, lr):
    return param - lr * (grad @ grad)  # wrong


def takes_a_mean(param, grad, *, lr):
    grad = grad - grad.mean()  # wrong
    return param - lr * grad


def takes_a_sum(param, grad, *, lr):
    return param - lr * grad.sum()  # wrong


def takes_the_largest(param, grad, *, lr):
    return param - lr * grad.max()  # wrong


def takes_the_largest_of_rows(param, grad, *, lr):
    return param - lr * grad.max(0)  # wrong


def reshapes(param, grad, *, lr):
    return param - lr * grad.view(-1)  # wrong


def looks_at_the_shape(param, grad, *, lr):
    if param.shape == (3,):  # wrong
        return param
    return param - grad


def looks_at_the_dtype(param, grad, *, lr):
    return param - grad if param.dtype == torch.float32 else param  # wrong


def indexes(param, grad, *, lr):
    return param - grad[0]  # wrong


def iterates(param, grad, *, lr):
    return param - sum(g for g in grad)  # wrong


def unpacks(param, grad, *, lr):
    first, second = grad  # wrong
    return param - first * second


def takes_the_length(param, grad, *, lr):
    return param / len(grad)  # wrong


def iterates_over_a_number(param, grad, *, lr):
    a, b = lr  # wrong
    return param - a * b * grad


def uses_another_tensor(param, grad, *, lr):
    return param - torch.ones(3) * grad  # wrong


def adds_a_string(param, grad, *, lr):
    return param + "grad"  # wrong


def makes_a_tensor(param, grad, *, lr):
    return param - torch.zeros_like(grad)  # wrong


def uses_an_option(param, grad, *, lr):
    return torch.div(param, grad, rounding_mode="floor")  # wrong


def inverts_numbers(param, grad, *, lr):
    return torch.where(~grad, param, grad)  # wrong


def chooses_by_number(param, grad, *, lr):
    return torch.where(lr > 0, param, grad)  # wrong


def chooses_by_tensor(param, grad, *, lr):
    return torch.where(grad, param, grad)  # wrong


def chooses_between_numbers(param, grad, *, lr):
    return param - torch.where(grad > 0, 1.0, lr)  # wrong


def chooses_nothing(param, grad, *, lr):
    return torch.where(param > grad)  # wrong


def reads_an_item(param, grad, *, lr):
    return param - lr * grad.abs().item()  # wrong


IN_PLACE = "a rule returns new values"
OPERATORS = "use operators"
LEAF = r"polyak\.leaf"
WHERE = r"torch\.where"
REFUSED = {
    branches: WHERE,
    negates: WHERE,
    takes_the_greater: WHERE,
    compares_twice: WHERE,
    adds_in_place: IN_PLACE,
    multiplies_in_place: IN_PLACE,
    divides_in_place: IN_PLACE,
    calls_in_place: IN_PLACE,
    copies_in_place: IN_PLACE,
    writes_out: IN_PLACE,
    assigns_an_item: IN_PLACE,
    assigns_data: IN_PLACE,
    assigns_grad: IN_PLACE,
    takes_a_math_root: OPERATORS,
    makes_a_float: OPERATORS,
    makes_a_tensor_a_float: "Remedy",
    makes_a_tensor_an_int: "Remedy",
    rounds: "Remedy",
    calls_torch_on_numbers: OPERATORS,
    calls_a_method_of_a_number: OPERATORS,
    takes_a_norm: LEAF,
    takes_a_torch_norm: LEAF,
    multiplies_matrices: LEAF,
    takes_a_mean: LEAF,
    takes_a_sum: LEAF,
    takes_the_largest: "Remedy",
    takes_the_largest_of_rows: "Remedy",
    reshapes: LEAF,
    looks_at_the_shape: LEAF,
    looks_at_the_dtype: LEAF,
    indexes: LEAF,
    iterates: "Remedy",
    unpacks: "Remedy",
    takes_the_length: LEAF,
    iterates_over_a_number: "Remedy",
    uses_another_tensor: "its tensors and with numbers",
    adds_a_string: "its tensors and with numbers",
    makes_a_tensor: LEAF,
    uses_an_option: "Remedy",
    inverts_numbers: "Remedy",
    chooses_by_number: "Remedy",
    chooses_by_tensor: "Remedy",
    chooses_between_numbers: "let one branch be a tensor",
    chooses_nothing: "Remedy",
    reads_an_item: LEAF,
}


def marked_line(rule):
    """The number and the text of the line that is marked as wrong."""
    lines, first = inspect.getsourcelines(rule)
    for number, line in enumerate(lines, first):
        if "# wrong" in line:
            return number, line.strip()
    raise AssertionError("no line is marked")


@pytest.mark.parametrize("rule", REFUSED, ids=lambda rule: rule.__name__)
def test_a_rule_that_cannot_be_read_is_refused(rule):
    """The error names the rule, the line and a remedy; nothing was changed."""
    param = parameter([1.0, 2.0, 3.0], [1.0, -1.0, 0.0])
    optimizer = probe(rule)([param], lr=0.5)
    with pytest.raises(RuleError, match=REFUSED[rule]) as error:
        optimizer.step()
    number, line = marked_line(rule)
    message = str(error.value)
    assert message.startswith("Probe.rule ")
    assert line in message
    assert f"{Path(__file__).name}, line {number}" in message
    assert param.tolist() == [1.0, 2.0, 3.0]
    assert not optimizer.state


def returns_too_much(param, grad, m, *, lr):
    return param, m, m


def returns_too_little(param, grad, m, *, lr):
    return param


def returns_a_list(param, grad, m, *, lr):
    return [param, m]


def returns_nothing(param, grad, *, lr):
    param - lr * grad


def forgets_a_slot(param, grad, m, *, lr):
    return param - lr * grad, None


def returns_an_absent_slot(param, grad, absent=None, *, lr):
    return param - lr * grad, grad


def returns_a_string(param, grad, m, *, lr):
    return param, "m"


def returns_a_tensor_for_a_number(param, grad, number, *, lr):
    return param, number * grad


RETURNS = {
    returns_too_much: r"returns 3 values where 2 are due.*return \(param, m\)",
    returns_too_little: "returns 1 values? where 2 are due",
    returns_a_list: "returns .*due",
    returns_nothing: "returns None for param",
    forgets_a_slot: "returns None for m",
    returns_an_absent_slot: "returns a value for absent.*return None",
    returns_a_string: "returns m of type str",
    returns_a_tensor_for_a_number: "returns a tensor for number.*it is a number",
}
RETURN_SLOTS = {
    "absent": Slot(when="absent"),
    "number": Slot(lambda param, group: 1.0, number=True),
}


@pytest.mark.parametrize("rule", RETURNS, ids=lambda rule: rule.__name__)
def test_a_rule_that_returns_something_else_is_refused(rule):
    """The error says what is due, and shows the line where the rule is defined."""
    taken = inspect.signature(rule).parameters
    slots = {name: slot for name, slot in RETURN_SLOTS.items() if name in taken}
    optimizer = probe(rule, slots)([parameter([1.0], [1.0])], lr=0.5, absent=False)
    with pytest.raises(RuleError, match=RETURNS[rule]) as error:
        optimizer.step()
    assert f"def {rule.__name__}(" in str(error.value)
    assert not optimizer.state


def test_the_line_of_a_static_method_is_its_definition():
    """Where no one line is wrong, the error shows ``def rule``, not its decorator."""

    class Wrong(Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

        @staticmethod
        def rule(param, grad, momentum_buffer):
            return param - grad

    with pytest.raises(RuleError, match=re.escape("def rule(param, grad, momentum")):
        Wrong([parameter([1.0], [1.0])]).step()


def helper(x):
    return x.norm()


def test_the_line_is_where_it_happens():
    """A function that the rule calls is named by its own line."""

    def rule(param, grad, *, lr):
        return param - lr * helper(grad)

    with pytest.raises(RuleError, match=re.escape("`return x.norm()`")):
        probe(rule)([parameter([1.0], [1.0])], lr=0.5).step()


def test_a_file_beside_torch_is_not_torch():
    """Lines are found in packages whose path begins as torch's does."""
    path = f"{Path(torch.__file__).parent}_extras/optimizers.py"
    source = "\n" * 40 + "def rule(param, grad):\n    return param - grad.norm()\n"
    namespace = {}
    exec(compile(source, path, "exec"), namespace)
    with pytest.raises(RuleError, match=r"optimizers\.py, line 42"):
        probe(namespace["rule"])([parameter([1.0], [1.0])]).step()


def test_what_torch_refuses_is_refused():
    """torch.maximum takes no number: a kernel would compute what eager refuses."""

    def rule(param, grad, *, lr):
        return param - torch.maximum(grad, 0.5)

    with pytest.raises(TypeError, match="must be Tensor"):
        probe(rule)([parameter([1.0], [1.0])], lr=0.5).step()


def test_tensors_may_be_given_by_keyword():
    """``torch.lerp(input=x, ...)`` is as good as ``torch.lerp(x, ...)``."""

    def rule(param, grad, *, lr):
        return torch.lerp(input=param, end=grad, weight=lr)

    param = parameter([1.0], [2.0])
    optimizer = probe(rule)([param], lr=0.25)
    optimizer.step()
    assert param.item() == 1.25
    assert engines(optimizer) == "kernel"


def takes_an_int_of_the_step(param, grad, *, step):
    return param - int(step) * grad  # wrong


def test_an_int_of_the_step_is_refused():
    """It would need a kernel for each step."""
    with pytest.raises(RuleError, match=r"int\(step\).*Remedy"):
        probe(takes_an_int_of_the_step)([parameter([0.0], [1.0])]).step()


def norm_if_decayed(param, grad, buffer, *, lr, weight_decay):
    if weight_decay:
        grad = grad / grad.norm()  # wrong
    return param - lr * grad, buffer + grad


def test_an_error_in_the_middle_changes_nothing():
    """A branch that cannot be read is found when it is taken first; one may go back."""
    param = parameter([1.0, 2.0], [1.0, 1.0])
    optimizer = probe(norm_if_decayed)([param], lr=0.25, weight_decay=0.0)
    optimizer.step()
    optimizer.param_groups[0]["weight_decay"] = 0.1
    for _ in range(2):
        with pytest.raises(RuleError, match="uses norm"):
            optimizer.step()
        assert param.tolist() == [0.75, 1.75]
        assert optimizer.state[param]["buffer"].tolist() == [1.0, 1.0]
    optimizer.param_groups[0]["weight_decay"] = 0.0
    optimizer.step()
    assert param.tolist() == [0.5, 1.5]


# Leaves


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


@pytest.mark.parametrize("rule", [positional, by_keyword, in_a_list])
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


# Signatures


def without_grad(param, *, lr): ...
def with_self(self, param, grad, *, lr): ...
def with_args(param, grad, *slots, lr): ...
def with_kwargs(param, grad, **hyperparameters): ...
def positional_only(param, grad, buffer, /, *, lr): ...


@pytest.mark.parametrize(
    "rule", [without_grad, with_self, with_args, with_kwargs, positional_only]
)
def test_a_wrong_signature_is_refused_with_the_class(rule):
    """What is no rule is a TypeError when the class is made, naming the class."""
    with pytest.raises(TypeError, match=r"Probe\.rule\("):
        probe(rule)


def test_a_forgotten_staticmethod_is_named():
    """A rule that takes self gets the remedy."""
    with pytest.raises(TypeError, match="@staticmethod"):
        probe(with_self)


def test_a_declared_slot_must_be_taken():
    """``slots`` cannot name what the rule does not take."""
    with pytest.raises(TypeError, match=r"Probe\.slots declares bufer"):
        probe(momentum, {"bufer": Slot()})


def test_a_step_must_be_counted():
    """A rule that takes the step needs the counter."""
    with pytest.raises(TypeError, match="counts_steps"):
        probe(first_step, counts_steps=False)


def test_a_hyperparameter_that_the_groups_lack_is_named():
    """A rule that wants what no group has says so, by name."""
    with pytest.raises(Exception, match="weight_decay") as error:
        probe(decay)([parameter([1.0], [1.0])], lr=0.1).step()
    assert not isinstance(error.value, KeyError)


def test_a_hyperparameter_may_be_a_function():
    """What is no number is passed as it is; another one gets another kernel."""

    def rule(param, grad, *, lr, shape):
        return param - lr * shape(grad)

    param = parameter([1.0], [4.0])
    optimizer = probe(rule)([param], lr=0.25, shape=torch.sqrt)
    optimizer.step()
    assert param.item() == 0.5
    optimizer.param_groups[0]["shape"] = torch.sign
    optimizer.step()
    assert param.item() == 0.25
    assert engines(optimizer) == "kernel"


@pytest.mark.parametrize("value", [{"lr": 0.25}, {0.25}, torch.ones(2)], ids=str)
def test_a_hyperparameter_that_no_kernel_can_stand_on_is_refused(value):
    """What may change inside is refused with what is possible."""

    def rule(param, grad, *, table):
        return param

    with pytest.raises(TypeError, match="numbers, 1-element tensors, strings"):
        probe(rule)([parameter([1.0], [1.0])], table=value).step()


def wrapped(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize(
    "decorate",
    [wrapped, torch.no_grad(), functools.partial],
    ids=["wraps", "torch", "p"],
)
def test_a_decorated_rule_is_a_rule(decorate):
    """A rule may be wrapped: its signature is that of what it wraps."""

    @decorate
    def rule(param, grad, buffer, *, lr):
        local = buffer + grad
        return param - lr * local, local

    param = parameter([1.0], [1.0])
    optimizer = probe(rule)([param], lr=0.5)
    optimizer.step()
    assert engines(optimizer) == "kernel"
    assert (param.item(), optimizer.state[param]["buffer"].item()) == (0.5, 1.0)
