"""NAdam's product of momenta: a number of float32 that float64 steps do not feel."""

import pytest
import torch

from polyak import NAdam
from tests.contract.case import LAYOUTS
from tests.contract.comparison import assert_same_training


def draw(seed, dtype=torch.float64):
    """A matrix with gradient, as a parameter."""
    generator = torch.Generator().manual_seed(seed)
    param = torch.nn.Parameter(LAYOUTS["matrix"](dtype, generator))
    param.grad = LAYOUTS["matrix"](dtype, generator)
    return param


def test_float32_steps_are_torchs():
    """As torch does them, with its product rounded in the middle of each."""
    actual, expected = (
        kind([draw(0, torch.float32)], momentum_decay=2.0, **how)
        for kind, how in ((NAdam, {}), (torch.optim.NAdam, {"foreach": False}))
    )
    scales = {}
    for step in range(7):
        for optimizer in (actual, expected):
            optimizer.step()
        assert_same_training(actual, expected, 4 * (step + 1), scales)


@pytest.mark.parametrize("foreach", [None, False], ids=["kernel", "eager"])
def test_the_first_float64_step_is_exact(foreach):
    """The momenta are the paper's, and the product is not rounded before its use."""
    param = draw(0)
    before, grad = param.detach().clone(), param.grad
    NAdam([param], lr=0.1, eps=0, momentum_decay=0.5, foreach=foreach).step()
    mu, after = (0.9 * (1 - 0.5 * 0.96 ** (0.5 * step)) for step in (1, 2))
    ahead = after * 0.1 / (1 - mu * after) + (1 - mu) / (1 - mu)
    expected = before - 0.1 * ahead * grad.sign()
    torch.testing.assert_close(param.detach(), expected, rtol=1e-14, atol=1e-15)


def test_a_step_on_a_device_is_not_waited_for():
    """A meta tensor cannot be read, and neither can one in a captured graph."""
    param, grad, exp_avg, exp_avg_sq = (
        torch.empty(10, device="meta") for _ in range(4)
    )
    step = mu_product = torch.empty((), device="meta")
    param, mu_product, *_ = NAdam.rule(
        *(param, grad, mu_product, exp_avg, exp_avg_sq),
        **dict(step=step, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1),
        **dict(momentum_decay=4e-3, decoupled_weight_decay=True),
    )
    assert param.shape == (10,)
    assert mu_product.device.type == "meta"
