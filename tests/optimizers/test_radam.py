"""RAdam on both sides of its choice: at step 6, steps become adaptive."""

import pytest
import torch

from polyak import RAdam

FLAGS = {
    "kernel": {},
    "eager": {"foreach": False},
    "capturable": {"capturable": True},
    "differentiable": {"differentiable": True},
}


def draw(seed):
    """Ten numbers in float64, none of them near zero."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(10, generator=generator, dtype=torch.float64)
    return numbers + 0.3 * numbers.sign()


def rule(step, *tensors, beta2=0.999):
    """The rule's new parameter."""
    values = dict(lr=0.1, betas=(0.9, beta2), eps=1e-8, weight_decay=0.0)
    return RAdam.rule(*tensors, step=step, **values, decoupled_weight_decay=False)[0]


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("beta2", [0.999, 0.8, 0.6])
def test_adaptive_steps_are_those_of_torch(flags, beta2):
    """Contracts do too few steps of some kinds to reach them."""
    actual, expected = draw(0), draw(0)
    more = {"lr": 0.1, "betas": (0.9, beta2)}
    optimizers = (
        RAdam([actual], **more, **flags),
        torch.optim.RAdam([expected], **more, foreach=False),
    )
    for seed in range(1, 13):
        for param, optimizer in zip((actual, expected), optimizers, strict=True):
            param.grad = draw(seed)
            optimizer.step()
        torch.testing.assert_close(actual, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("steps", "roots"), [(5, 0), (6, 1)])
def test_each_side_has_a_kernel_of_its_own(steps, roots):
    """Momentum alone needs no root: the choice is made before the kernel runs."""
    param = torch.nn.Parameter(draw(0))
    optimizer = RAdam([param])
    for seed in range(steps):
        param.grad = draw(seed)
        optimizer.step()
    (bucket,) = optimizer._plan.buckets
    assert bucket.kernel.listing.count("sqrt(") == roots


def test_parameters_on_both_sides_share_an_optimizer():
    """One parameter begins four steps later than the other."""
    early, late = torch.nn.Parameter(draw(0)), torch.nn.Parameter(draw(0))
    optimizer = RAdam([early, late], lr=0.1)
    course = []
    for step in range(12):
        early.grad = draw(step)
        late.grad = draw(step - 4) if step >= 4 else None
        optimizer.step()
        course.append(early.detach().clone())
    assert torch.equal(late, course[-5])


@pytest.mark.parametrize("step", [1, 4, 5, 6, 7, 100])
def test_a_step_on_a_device_makes_the_same_choice(step):
    """There the step is a tensor, and the choice is torch.where's."""
    tensors = [draw(seed) for seed in range(3)] + [draw(3).abs()]
    counter = torch.tensor(step, dtype=torch.float64)
    torch.testing.assert_close(
        rule(counter, *tensors), rule(step, *tensors), rtol=1e-13, atol=0
    )


def test_a_step_on_a_device_is_not_waited_for():
    """A meta tensor cannot be read, and neither can one in a captured graph."""
    tensors = [torch.empty(10, device="meta") for _ in range(4)]
    assert rule(torch.empty((), device="meta"), *tensors).shape == (10,)


@pytest.mark.parametrize("step", [1, 4, 6])
@pytest.mark.parametrize("beta2", [0.999, 0.6])
def test_gradients_are_finite_whichever_side_is_chosen(step, beta2):
    """The other side is computed, too, where the step is a tensor."""
    tensors = [draw(seed) for seed in range(3)] + [draw(3).abs()]
    beta = torch.tensor(beta2, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (*tensors, beta)]
    counter = torch.tensor(step, dtype=torch.float64)

    def update(*tensors):
        return rule(counter, *tensors[:4], beta2=tensors[4])

    assert torch.autograd.gradcheck(update, inputs)


def test_gradients_through_adaptive_steps_are_those_through_torchs():
    """By the gradients of all steps: of momentum alone, and adaptive."""
    found = []
    for kind in (RAdam, torch.optim.RAdam):
        param = draw(0)
        optimizer = kind([param], lr=0.1, differentiable=True)
        grads = [draw(seed).requires_grad_() for seed in range(1, 9)]
        for grad in grads:
            param.grad = grad
            optimizer.step()
        found.append(torch.autograd.grad((param * draw(9)).sum(), grads))
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)
