"""Every operator of a rule: as a kernel it computes what torch does eagerly."""

import pytest
import torch

from polyak import RuleError
from polyak.engine.operators import CORE, REWRITES
from polyak.terms import epsilon

from .support import engines, parameter, probe

# x, y and z are tensors, s is a number. Every operator has a line.
SPELLINGS = {
    "add": ["x + y", "1 + x", "x + s", "torch.add(x, y)", "x.add(y, alpha=s)"],
    "sub": ["x - y", "1 - x", "torch.sub(x, y)", "torch.subtract(x, y, alpha=2)"],
    "mul": ["x * y", "s * x", "x.mul(y)", "torch.multiply(x, y)"],
    "div": ["x / y", "1 / x", "x / s", "torch.div(x, y)", "x.true_divide(y)"],
    "pow": ["x ** y", "x ** 2", "x ** s", "s ** x", "torch.pow(x, -0.5)", "x.pow(3)"],
    "neg": ["-x", "torch.neg(x)", "x.negative()"],
    "abs": ["abs(x)", "x.abs()", "torch.absolute(x)"],
    "lt": ["x < y", "x < 0", "0.5 < x", "torch.lt(x, y)", "x.less(y)"],
    "le": ["x <= y", "torch.less_equal(x, 0.5)"],
    "gt": ["x > y", "s > x", "torch.greater(x, y)"],
    "ge": ["x >= y", "x.greater_equal(0)"],
    "eq": ["x == y", "x == 0.5", "torch.eq(x, y)"],
    "ne": ["x != y", "x != x", "torch.not_equal(x, y)"],
    "and": ["(x > 0) & (y > 0)"],
    "or": ["(x > 0) | (y > 0)"],
    "invert": ["~(x > 0)"],
    "logical_and": ["torch.logical_and(x, y)", "x.logical_and(y > 0)"],
    "logical_or": ["torch.logical_or(x, y)", "(x > 0).logical_or(y > 0)"],
    "logical_not": ["torch.logical_not(x)", "torch.logical_not(x > 0)"],
    "from_mask": ["(x > 0) * y", "z + (x > y)"],
    "where": [
        "torch.where(x > 0, y, z)",
        "torch.where(x > 0, 2.0, y)",
        "torch.where(x > 0, y, s)",
        "x.where(y > 0, z)",
    ],
    "sqrt": ["torch.sqrt(x)", "x.sqrt()"],
    "exp": ["torch.exp(x)", "x.exp()"],
    "log": ["torch.log(x)", "x.log()"],
    "sin": ["torch.sin(x)", "x.sin()"],
    "cos": ["torch.cos(x)", "x.cos()"],
    "tanh": ["torch.tanh(x)", "x.tanh()"],
    "floor": ["torch.floor(x)", "x.floor()"],
    "maximum": ["torch.maximum(x, y)", "torch.max(x, y)", "x.maximum(y)"],
    "minimum": ["torch.minimum(x, y)", "torch.min(x, y)", "x.min(y)"],
    "square": ["torch.square(x)", "x.square()"],
    "reciprocal": ["torch.reciprocal(x)"],
    "rsqrt": ["torch.rsqrt(x)"],
    "sign": ["torch.sign(x)", "x.sgn()"],
    "sigmoid": ["torch.sigmoid(x)"],
    "relu": ["torch.relu(x)"],
    "isnan": ["torch.isnan(x)"],
    "isinf": ["x.isinf()"],
    "isfinite": ["torch.isfinite(x)"],
    "copysign": ["torch.copysign(x, y)", "x.copysign(z)"],
    "lerp": ["torch.lerp(x, y, 0.25)", "x.lerp(y, s)", "x.lerp(y, weight=0.75)"],
    "addcmul": ["torch.addcmul(x, y, z)", "x.addcmul(y, z, value=s)"],
    "addcdiv": ["torch.addcdiv(x, y, z)", "x.addcdiv(y, z, value=-2)"],
    "clamp": [
        "torch.clamp(x, -1, 1)",
        "x.clamp(min=s)",
        "x.clip(max=0.5)",
        "torch.clamp(x, 1, -1)",
        "torch.clamp(x, y, z)",
    ],
    "epsilon": ["x + epsilon(y)"],
    "norm": ["torch.norm(x) * y", "x.norm(p=2) * y", "torch.linalg.vector_norm(x) * y"],
    "clamp_min": ["x.clamp_min(0.25)"],
    "clamp_max": ["torch.clamp_max(x, 0.25)"],
}
MASKS = {"lt", "le", "gt", "ge", "eq", "ne", "and", "or", "invert"}
MASKS |= {"isnan", "isinf", "isfinite", "logical_and", "logical_or", "logical_not"}
# In units in the last place: libm against SLEEF, and multiply-adds that round once.
ROUNDED = {"add": 4, "sub": 4, "addcmul": 4, "addcdiv": 4, "lerp": 4}
ROUNDED |= {"exp": 4, "log": 4, "sin": 4, "cos": 4, "tanh": 4, "sigmoid": 4}
ROUNDED |= {"sqrt": 4, "rsqrt": 4, "pow": 16, "norm": 4}
SIGN_OF_ZERO_IS_FREE = {"maximum", "minimum", "clamp", "clamp_min", "clamp_max", "relu"}

NAN, INF = float("nan"), float("inf")
NUMBERS = [NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, 1e-3, -40.0, 1e30]
S = 0.3


def test_every_operator_has_a_line():
    """An operator that is added to the engine is tested."""
    assert set(SPELLINGS) == set(CORE) | set(REWRITES)


def function(text):
    return eval(f"lambda x, y, z, s: {text}", {"torch": torch, "epsilon": epsilon})


def every_pair(dtype):
    """All pairs of the numbers, and a third that goes through them."""
    numbers = torch.tensor(NUMBERS, dtype=dtype)
    x, y = (pair.flatten() for pair in torch.meshgrid(numbers, numbers, indexing="ij"))
    return x, y, torch.roll(x, 5)


def as_kernel(compute, x, y, z, *, mask):
    """What the kernel of a rule that is one expression stores."""

    def rule(param, grad, third, one, *, scale):
        value = compute(param, grad, third, scale)
        return torch.where(value, one, 0.0) if mask else value, third, one

    param = parameter(x, y)
    optimizer = probe(rule)([param], scale=S)
    optimizer.state[param] |= {"third": z.clone(), "one": torch.ones_like(z)}
    optimizer.step()
    assert engines(optimizer) == "kernel"
    return param.detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name in SPELLINGS for text in SPELLINGS[name]]
)
def test_kernel_computes_what_torch_does(name, text, dtype):
    """Each operator, in each spelling, for ordinary and extraordinary numbers."""
    compute, (x, y, z) = function(text), every_pair(dtype)
    expected = compute(x, y, z, S).to(dtype)
    found = as_kernel(compute, x, y, z, mask=name in MASKS)
    ulps = ROUNDED.get(name, 0) * torch.finfo(dtype).eps
    torch.testing.assert_close(found, expected, rtol=ulps, atol=ulps, equal_nan=True)
    if name not in SIGN_OF_ZERO_IS_FREE:
        zero = expected == 0
        assert torch.equal(found[zero].signbit(), expected[zero].signbit())


@pytest.mark.parametrize("text", ["x * y + z", "z - x * y", "(x + y) * (x - y)"])
def test_combined_operators_round_no_worse_than_apart(text):
    """A multiplication and an addition may be fused: one rounding instead of two."""
    x, y, z = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    exact = function(text)(x.double(), y.double(), z.double(), S)
    found = as_kernel(function(text), x, y, z, mask=False)
    size = (x * y).abs() + z.abs() + x * x + y * y
    assert ((found - exact).abs() <= 2 * torch.finfo(torch.float32).eps * size).all()


@pytest.mark.parametrize(
    "text",
    [
        "(x > 0) * s",
        "(x > 0) * (y > 0)",
        "-(x > 0)",
        "torch.where(x > 0, y > 0, z > 0)",
    ],
)
def test_truth_values_alone_do_not_make_numbers(text):
    """Of masks without a tensor torch makes no float, whatever the parameter is."""
    with pytest.raises(RuleError, match=r"torch\.where"):
        as_kernel(function(text), *every_pair(torch.float32), mask=False)


@pytest.mark.parametrize("number", [1e300, -1e300, 1e39])
def test_a_number_beyond_float32_is_infinite(number):
    """Neither a literal nor a hyperparameter warns when it is rounded."""
    x = torch.tensor([1.0, -2.0, 0.0])

    def literal(x, y, z, s):
        return torch.where(x < number, x * number, z)

    def scaled(param, grad, *, scale):
        return param * scale

    torch.testing.assert_close(
        as_kernel(literal, x, x, x, mask=False),
        literal(x, x, x, S),
        equal_nan=True,
    )
    param = parameter(x, x)
    probe(scaled)([param], scale=number).step()
    torch.testing.assert_close(param.detach(), x * number, equal_nan=True)


@pytest.mark.parametrize("number", [1e-50, 5e-324, 1e-40, 2**-149])
def test_tiny_numbers_round_as_in_torch(number):
    """Subnormal literals and hyperparameters are kept as float32 keeps them."""

    def rule(param, grad, *, scale):
        return param * scale + grad * number

    x = torch.tensor([1.0, -2.0, 1e30])
    param = parameter(x, 2 * x)
    probe(rule)([param], scale=number).step()
    assert torch.equal(param.detach(), x * number + 2 * x * number)
