"""The case of Muon; its reference is torch's, in the parameter's own precision."""

import functools
from math import sqrt

import torch

from tests.contract.case import Case


class Muon(torch.optim.Muon):
    """torch's, but nothing is done in bfloat16, and filters are matrices.

    torch iterates in bfloat16 whatever the parameter is: two digits are left to compare
    by. The tests of Muon itself compare these with torch's own.

    Attributes:
        rounds: iterate in the parameter's own precision and another order; else in
            double precision.
    """

    rounds = False

    @functools.wraps(torch.optim.Muon.__init__)
    def __init__(self, params, **arguments):
        super().__init__([torch.zeros(1, 1)], **arguments)
        torch.optim.Optimizer.__init__(self, params, self.defaults)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._init_group(group, [], [], [])
            for param in group["params"]:
                if param.grad is not None:
                    self._update(group, param, self.state[param]["momentum_buffer"])
        return loss

    def _update(self, group, param, buffer):
        lr, momentum = float(group["lr"]), group["momentum"]
        buffer.lerp_(param.grad, 1 - momentum)
        update = param.grad.lerp(buffer, momentum) if group["nesterov"] else buffer
        factor = polar(update.flatten(1), group, self.rounds).view(param.shape)
        param.mul_(1 - lr * group["weight_decay"])
        param.add_(factor, alpha=-lr)


def polar(matrix, group, rounds):
    """Newton and Schulz's iteration, and the scale of the step."""
    rows, columns = matrix.shape
    if not rounds:
        x = by_products(matrix.double(), group)
    elif rows > columns:
        x = on_gram(matrix.T, group).T
    else:
        x = on_gram(matrix, group)
    if group["adjust_lr_fn"] == "match_rms_adamw":
        return (0.2 * sqrt(max(rows, columns)) * x).to(matrix.dtype)
    return (sqrt(max(1, rows / columns)) * x).to(matrix.dtype)


def by_products(x, group):
    """Product by product."""
    a, b, c = group["ns_coefficients"]
    x = x / x.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def on_gram(x, group):
    """With the rounding errors of the faster way, which is taken on long matrices."""
    rows, columns = x.shape
    if columns < 2 * rows:
        return by_products(x.T, group).T
    a, b, c = group["ns_coefficients"]
    x = x / x.norm().clamp(min=group["eps"])
    for done in range(group["ns_steps"]):
        if done % 5 == 0:
            gram = x @ x.T
        factor = a * torch.eye(rows, dtype=x.dtype) + b * gram + c * gram @ gram
        x, gram = factor @ x, factor @ gram @ factor
    return x


case = Case(
    reference=Muon,
    arguments={
        "no_nesterov": {"nesterov": False, "lr": 0.1},
        "as_adamw": {"adjust_lr_fn": "match_rms_adamw", "lr": 0.1},
        "no_decay": {"weight_decay": 0.0, "lr": 0.1},
        "converging": {"ns_coefficients": (1.875, -1.25, 0.375), "ns_steps": 12},
    },
    error_arguments=(
        ({"ns_steps": 100}, ValueError, "Number of steps must be less than 100"),
        ({"ns_steps": 2.5}, TypeError, "Muon needs an integer for ns_steps"),
        ({"ns_coefficients": (1.0, 2.0)}, ValueError, "Muon needs 3 numbers"),
        ({"eps": -1e-7}, ValueError, "Muon needs eps >= 0"),
    ),
    layouts=("matrix", "transposed", "empty", "images", "channels_last", "sliced"),
    complex=False,
    in_order=True,
    takes=("only support 2D parameters",),
)
