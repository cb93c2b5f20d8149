"""Optimizers as functions.

:func:`transform` makes pure functions of any optimizer that has a rule, for
:mod:`torch.func`. ``adamw``, ``sgd`` and all the others are torch's functional forms,
which update lists of tensors in place, with torch's signatures:

>>> import torch
>>> params, grads = [torch.tensor([1.0, -2.0])], [torch.tensor([1.0, 0.0])]
>>> options = dict(weight_decay=0, momentum=0, dampening=0)
>>> sgd(params, grads, [None], lr=0.5, nesterov=False, maximize=False, **options)
>>> params
[tensor([ 0.5000, -2.0000])]
"""

from __future__ import annotations

from typing import Any

from .forms import all_forms
from .transform import Transform, transform

globals().update(all_forms())

__all__ = ["Transform", "transform", *all_forms()]


def __getattr__(name: str) -> Any:
    # Type checkers take this to mean that the forms found above may be imported.
    raise AttributeError(f"module 'polyak.functional' has no attribute {name!r}")
