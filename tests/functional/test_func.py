"""transform() under torch.func: derivatives through steps, and batches of models."""

import pytest
import torch
from torch.func import grad, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import polyak
from polyak.functional import transform
from tests.contract.harness import (
    NAMES,
    argument_sets,
    case_of,
    ours,
)

RULED = [name for name in NAMES if hasattr(ours(name), "rule")]
DENSE = [name for name in RULED if case_of(name).sparse != "only"]
# A rate that enters the state as a number, through which no gradient flows back.
BY_RATE = [name for name in DENSE if not case_of(name).lr_in_state]
STEPS = 3


def numbers(*shape, seed=0):
    """Random numbers in float64, none of them near zero."""
    rng = torch.Generator().manual_seed(seed)
    found = torch.randn(shape, dtype=torch.float64, generator=rng)
    return found + 0.3 * found.sign()


def trained(name, params, steps=STEPS, **hyperparameters):
    """The parameters after some steps whose gradients depend on where they are."""
    opt = transform(ours(name), **hyperparameters)
    state = opt.init(params)
    for _ in range(steps):
        grads = {key: 0.5 * param**2 + param for key, param in params.items()}
        params, state = opt.update(params, grads, state)
    return params


def loss(name, w, **hyperparameters):
    """A number that training leads to."""
    return trained(name, {"w": w}, **hyperparameters)["w"].square().sum()


@pytest.fixture(autouse=True)
def float64_counters():
    """Numbers of the state in float64: finite differences need them."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("ema_decay", [None, 0.7])
@pytest.mark.parametrize("name", DENSE)
def test_derivatives_by_the_first_parameters(name, ema_decay):
    """Through several steps: those of finite differences."""
    w = numbers(3, 4).requires_grad_()

    def final(w):
        return trained(name, {"w": w}, lr=0.1, ema_decay=ema_decay)["w"]

    assert torch.autograd.gradcheck(final, w)


@pytest.mark.parametrize("name", BY_RATE)
def test_derivatives_by_the_learning_rate(name):
    """Through several steps: those of finite differences."""
    w, lr = numbers(3, 4), torch.tensor(0.1, requires_grad=True)
    assert torch.autograd.gradcheck(lambda lr: loss(name, w, lr=lr), lr)
    assert torch.autograd.grad(loss(name, w, lr=lr), lr)[0].abs() > 1e-6


@pytest.mark.parametrize("name", BY_RATE)
def test_transforms_give_the_derivatives_of_autograd(name):
    """``grad`` and ``jvp``, by the rate and by the parameters at once."""
    w, lr, along = numbers(3, 4), torch.tensor(0.1), numbers(3, 4, seed=1)

    def final(w, lr):
        return loss(name, w, lr=lr)

    leaves = [x.clone().requires_grad_() for x in (w, lr)]
    expected = torch.autograd.grad(final(*leaves), leaves)
    torch.testing.assert_close(grad(final, (0, 1))(w, lr), expected)
    _, slope = jvp(final, (w, lr), (along, torch.tensor(2.0)))
    due = (expected[0] * along).sum() + 2 * expected[1]
    torch.testing.assert_close(slope, due)


@pytest.mark.parametrize("name", BY_RATE)
def test_a_rate_may_be_given_for_the_step_alone(name):
    """``update(..., lr=lr)``: by it too, derivatives flow."""
    w, opt = {"w": numbers(3, 4)}, transform(ours(name), lr=0.1)

    def final(lr):
        params, _ = opt.update(w, w, opt.init(w), lr=lr)
        return params["w"].square().sum()

    lr = torch.tensor(0.2, requires_grad=True)
    assert torch.autograd.gradcheck(final, lr)
    params, _ = transform(ours(name), lr=0.2).update(w, w, opt.init(w))
    assert torch.equal(final(torch.tensor(0.2)), params["w"].square().sum())


def batches():
    """Each optimizer with each set of arguments."""
    for name in DENSE:
        for label, arguments in argument_sets(name).items():
            yield pytest.param(name, arguments, id=f"{name}-{label}")


@pytest.mark.parametrize(("name", "arguments"), list(batches()))
def test_a_batch_of_models_is_each_of_them(name, arguments):
    """``vmap`` over stacked parameters: what a loop over the models gives."""
    stacked = {"w": numbers(2, 3, 4), "v": numbers(2, 3, 2, seed=1)}

    def final(params):
        return trained(name, params, **arguments)

    together = vmap(final)(stacked)
    for index in range(2):
        alone = final({key: value[index] for key, value in stacked.items()})
        for key, value in alone.items():
            torch.testing.assert_close(together[key][index], value)


@pytest.mark.parametrize("name", BY_RATE)
def test_each_model_of_a_batch_may_have_its_rate(name):
    """As many rates as models, in float32 too, and the state is kept between calls."""
    rates = torch.tensor([0.01, 0.1, 0.3])
    stacked = {"w": numbers(3, 4, 2).float()}
    opt = transform(ours(name), lr=0.5)
    grads = {"w": numbers(3, 4, 2, seed=1).float()}

    def step(params, grads, state, lr):
        return opt.update(params, grads, state, lr=lr)

    params, state = stacked, vmap(opt.init)(stacked)
    for _ in range(STEPS):
        params, state = vmap(step)(params, grads, state, rates)
    assert params["w"].dtype is torch.float32
    for index, lr in enumerate(rates.tolist()):
        alone = {"w": stacked["w"][index]}
        own = opt.init(alone)
        for _ in range(STEPS):
            alone, own = step(alone, {"w": grads["w"][index]}, own, lr)
        torch.testing.assert_close(params["w"][index], alone["w"])


def test_transforms_nest():
    """The gradient by its rate, for each model of a batch, along a direction."""
    rates, w = torch.tensor([0.1, 0.2]), numbers(3)

    def slope(lr):
        return grad(lambda lr: loss("AdamW", w, lr=lr))(lr)

    found = jvp(vmap(slope), (rates,), (torch.ones(2),))
    for index, lr in enumerate(rates):
        value, curvature = jvp(slope, (lr,), (torch.tensor(1.0),))
        torch.testing.assert_close(found[0][index], value)
        torch.testing.assert_close(found[1][index], curvature)
    step = 1e-5
    differences = (slope(rates[0] + step) - slope(rates[0] - step)) / (2 * step)
    torch.testing.assert_close(found[1][0], differences, rtol=1e-5, atol=1e-6)


def test_a_tangent_reaches_through_an_inner_gradient():
    """A rate that only the outer transform knows of is no constant to the inner one."""
    w = numbers(3)

    def inner(lr):
        return grad(lambda w: loss("Adam", w, lr=lr))(w)

    lr, step = torch.tensor(0.1), 1e-6
    _, found = jvp(inner, (lr,), (torch.tensor(1.0),))
    due = (inner(lr + step) - inner(lr - step)) / (2 * step)
    torch.testing.assert_close(found, due, rtol=1e-5, atol=1e-6)
    assert found.abs().min() > 1e-6


def test_a_branch_on_what_differs_in_a_batch_is_refused():
    """The error says which rule, and what to do."""
    w, decays = numbers(3), torch.tensor([0.0, 0.1])
    with pytest.raises(RuntimeError, match=r"SGD\.rule branches .* give one value"):
        vmap(lambda d: loss("SGD", w, weight_decay=d))(decays)


def test_rates_out_of_bounds_are_found_in_a_batch():
    """Whichever of them it is."""
    w = numbers(3)
    for rates in ([0.1, -0.1], [-0.1, 0.1], [0.1, float("nan")]):
        with pytest.raises(ValueError, match="SGD needs lr >= 0"):
            vmap(lambda lr: loss("SGD", w, lr=lr))(torch.tensor(rates))
    opt, params = transform(polyak.SGD), {"w": w}
    with pytest.raises(ValueError, match="SGD needs lr >= 0"):
        vmap(lambda lr: opt.update(params, params, {"w": {}}, lr=lr)[0])(
            torch.tensor([0.1, -0.1])
        )


@pytest.mark.parametrize("name", ["AdamW", "RAdam", "SGD", "ASGD"])
@pytest.mark.parametrize("how", ["make_fx", "compile"])
def test_one_traced_step_is_every_step(name, how):
    """The counter is read in none: a graph of the second step does the third."""
    opt, params = transform(ours(name), lr=0.1), {"w": numbers(3, 4)}
    params, state = opt.update(params, params, opt.init(params))

    def step(params, state):
        return opt.update(params, params, state)

    if how == "make_fx":
        traced = make_fx(step)(params, state)
    else:
        traced = torch.compile(step, fullgraph=True, backend="eager")
    found, expected = (params, state), (params, state)
    for _ in range(3):
        found, expected = traced(*found), step(*expected)
        torch.testing.assert_close(found, expected)
