"""What the engine tests share: optimizers made of one rule, and who ran what."""

import torch

import polyak


def probe(rule, slots=None, name="Probe", **keys):
    """An optimizer class with this rule. ``Probe(params, lr=0.1)`` makes its group."""

    def __init__(self, params, foreach=None, maximize=False, **hyperparameters):
        switches = {"foreach": foreach, "maximize": maximize}
        polyak.Optimizer.__init__(self, params, {**hyperparameters, **switches})

    body = {"rule": staticmethod(rule), "slots": slots or {}, "__init__": __init__}
    return type(name, (polyak.Optimizer,), {**body, **keys})


def parameter(values, grad=None, dtype=None):
    """A parameter with a gradient, both copies."""
    made = torch.as_tensor(values, dtype=dtype).clone().requires_grad_()
    if grad is not None:
        made.grad = torch.as_tensor(grad, dtype=made.dtype).clone()
    return made


def engines(optimizer):
    """Which engines the plan of the last step uses: "kernel", "eager" or both."""
    plan = optimizer._plan
    found = ["kernel"] if plan.buckets else []
    return " and ".join(found + (["eager"] if plan.eager else []))


def why_eager(optimizer):
    """The reasons why parameters of the last step ran eagerly."""
    return [entry.reason for entry in optimizer._plan.eager]
