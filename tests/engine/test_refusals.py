"""What a rule may not do: the error has the line and the remedy."""

import inspect
import math
import re
from pathlib import Path

import pytest
import torch

from polyak import Optimizer, RuleError, Slot

from .support import parameter, probe

# The offending line of each rule is marked.


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


def takes_a_norm_of_another_order(param, grad, *, lr):
    return param - lr * grad / grad.norm(1)  # wrong


def takes_the_norm_of_a_matrix(param, grad, *, lr):
    return param - lr * grad / torch.linalg.matrix_norm(grad)  # wrong


def multiplies_matrices(param, grad, *, lr):
    return param - lr * (grad @ grad)  # wrong


def takes_a_deviation(param, grad, *, lr):
    grad = grad / grad.std()  # wrong
    return param - lr * grad


def sums_up_as_it_goes(param, grad, *, lr):
    return param - lr * grad.cumsum(-1)  # wrong


def sorts(param, grad, *, lr):
    return param - lr * torch.sort(grad)  # wrong


def takes_the_mean_of_another_dimension(param, grad, *, lr):
    return param - lr * grad.mean(0, keepdim=True)  # wrong


def drops_a_dimension(param, grad, *, lr):
    return param - lr * grad.mean(-1)  # wrong


def drops_both_dimensions(param, grad, *, lr):
    return param - lr * torch.linalg.vector_norm(grad, dim=(-2, -1))  # wrong


def sums_in_another_dtype(param, grad, *, lr):
    return param - lr * grad.sum(dtype=torch.float64)  # wrong


def takes_the_mean_of_a_mask(param, grad, *, lr):
    return param - lr * (grad > 0).mean()  # wrong


def takes_the_sum_of_a_mask(param, grad, *, lr):
    return param - lr * torch.sum(torch.isnan(grad))  # wrong


def takes_the_mean_of_a_number(param, grad, *, lr):
    return param - torch.mean(lr) * grad  # wrong


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
    takes_a_norm_of_another_order: "cannot be read: the norm of order 1",
    takes_the_norm_of_a_matrix: LEAF,
    multiplies_matrices: LEAF,
    takes_a_deviation: LEAF,
    sums_up_as_it_goes: LEAF,
    sorts: LEAF,
    takes_the_mean_of_another_dimension: r"over dimension 0.*\(-1, keepdim=True\)",
    drops_a_dimension: r"without keepdim=True.*\(-1, keepdim=True\)",
    drops_both_dimensions: r"takes a sum .*without keepdim=True.*\(-1, keepdim=True\)",
    sums_in_another_dtype: r"takes a sum .*dtype.*write x\.sum\(\)",
    takes_the_mean_of_a_mask: r"takes the mean of truth values.*torch\.where",
    takes_the_sum_of_a_mask: r"takes the sum of truth values.*torch\.where",
    takes_the_mean_of_a_number: OPERATORS,
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


def returns_a_norm_for_a_number(param, grad, number, *, lr):
    return param, number + grad.norm()


def returns_numbers_for_rows(param, grad, rows, *, lr):
    return param, rows + grad


def returns_columns_for_rows(param, grad, rows, *, lr):
    return param, rows + grad.sum(-2, keepdim=True)


def returns_rows_for_columns(param, grad, columns, *, lr):
    return param, columns * grad.norm(dim=-1, keepdim=True)


RETURNS = {
    returns_too_much: r"returns 3 values where 2 are due.*return \(param, m\)",
    returns_too_little: "returns 1 values? where 2 are due",
    returns_a_list: "returns .*due",
    returns_nothing: "returns None for param",
    forgets_a_slot: "returns None for m",
    returns_an_absent_slot: "returns a value for absent.*return None",
    returns_a_string: "returns m of type str",
    returns_a_tensor_for_a_number: "returns a tensor for number.*it is a number",
    returns_a_norm_for_a_number: "returns a tensor for number.*it is a number",
    returns_numbers_for_rows: "a value for each number for rows, .*each row.*reduce",
    returns_columns_for_rows: "a value for each number for rows, which has one for",
    returns_rows_for_columns: "a value for each number for columns, .*each column",
}
RETURN_SLOTS = {
    "absent": Slot(when="absent"),
    "number": Slot(lambda param, group: 1.0, number=True),
    "rows": Slot(per="row"),
    "columns": Slot(per="column"),
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
    return x.cumsum(0)


def test_the_line_is_where_it_happens():
    """A function that the rule calls is named by its own line."""

    def rule(param, grad, *, lr):
        return param - lr * helper(grad)

    with pytest.raises(RuleError, match=re.escape("`return x.cumsum(0)`")):
        probe(rule)([parameter([1.0], [1.0])], lr=0.5).step()


def test_a_file_beside_torch_is_not_torch():
    """Lines are found in packages whose path begins as torch's does."""
    path = f"{Path(torch.__file__).parent}_extras/optimizers.py"
    source = "\n" * 40 + "def rule(param, grad):\n    return param - grad.std()\n"
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


def takes_an_int_of_the_step(param, grad, *, step):
    return param - int(step) * grad  # wrong


def test_an_int_of_the_step_is_refused():
    """It would need a kernel for each step."""
    with pytest.raises(RuleError, match=r"int\(step\).*Remedy"):
        probe(takes_an_int_of_the_step)([parameter([0.0], [1.0])]).step()


def sorted_if_decayed(param, grad, buffer, *, lr, weight_decay):
    if weight_decay:
        grad = grad.sort()  # wrong
    return param - lr * grad, buffer + grad


def test_an_error_in_the_middle_changes_nothing():
    """A branch that cannot be read is found when it is taken first; one may go back."""
    param = parameter([1.0, 2.0], [1.0, 1.0])
    optimizer = probe(sorted_if_decayed)([param], lr=0.25, weight_decay=0.0)
    optimizer.step()
    optimizer.param_groups[0]["weight_decay"] = 0.1
    for _ in range(2):
        with pytest.raises(RuleError, match="uses sort"):
            optimizer.step()
        assert param.tolist() == [0.75, 1.75]
        assert optimizer.state[param]["buffer"].tolist() == [1.0, 1.0]
    optimizer.param_groups[0]["weight_decay"] = 0.0
    optimizer.step()
    assert param.tolist() == [0.5, 1.5]
