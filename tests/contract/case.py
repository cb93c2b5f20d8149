"""What a case file says of its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Arguments = dict[str, Any]


def randn(shape: Sequence[int], dtype: torch.dtype, rng: torch.Generator) -> Tensor:
    """Random numbers of any dtype, the same for all but for rounding."""
    if dtype.is_complex:
        return torch.complex(
            *(torch.randn(shape, dtype=torch.float64, generator=rng) for _ in "ab")
        ).to(dtype)
    return torch.randn(shape, dtype=torch.float64, generator=rng).to(dtype)


# What a parameter can look like. "sliced" alone has gaps in its memory.
LAYOUTS: dict[str, Callable[[torch.dtype, torch.Generator], Tensor]] = {
    "matrix": lambda dtype, rng: randn((3, 4), dtype, rng),
    "vector": lambda dtype, rng: randn((37,), dtype, rng),
    "scalar": lambda dtype, rng: randn((), dtype, rng),
    "empty": lambda dtype, rng: randn((0, 3), dtype, rng),
    "images": lambda dtype, rng: randn((2, 3, 4, 5), dtype, rng),
    "channels_last": lambda dtype, rng: randn((2, 3, 4, 5), dtype, rng).to(
        memory_format=torch.channels_last
    ),
    "transposed": lambda dtype, rng: randn((5, 3), dtype, rng).t(),
    "sliced": lambda dtype, rng: randn((6, 8), dtype, rng)[1:, ::2],
}


@dataclass(frozen=True)
class Case:
    """What cannot be found out about an optimizer by looking at it.

    Args:
        reference: an independent implementation with torch's interface; by default the
            class of the same name in ``torch.optim``.
        arguments: sets of arguments to test with, by name, beside the defaults and
            those of torch's own test table.
        error_arguments: arguments that must be refused, each with the exception's type
            and a regular expression for its message, beside those of torch's table.
        takes: what of torch's own error inputs it takes, by their descriptions.
        layouts: the kinds of parameters it takes, of :data:`LAYOUTS`.
        complex: it takes complex parameters, and so does the reference.
        sparse: it takes sparse gradients: "no", "also" (they mean what the dense ones
            do) or "only".
        sparse_refuses: hyperparameters whose use makes it refuse sparse gradients.
        closure: ``step`` needs a closure.
        stateful: arguments with which it keeps state, if the defaults do not.
        groups: it takes more than one group.
        joint: all parameters are one vector to it, so that a parameter's step depends
            on the others, and groups may differ in ``lr`` alone. The reference takes
            one group.
        kernel: its step is a kernel, where the parameters allow it.
        in_order: kernels serve parameters only whose numbers lie in order, since the
            rule tells rows from columns or has a leaf.
        bounded: a hyperparameter and a value that is out of its bounds.
        ulps: how many units in the last place a step may differ from the reference's,
            measured at the largest number of the tensor.
        why_ulps: the reason, where that is more than the default.
        early_state: the reference makes the state of a parameter before its first
            gradient; polyak does not, since frameworks replace parameters after
            construction.
        lr_in_state: ``lr`` enters the state as a number, through which no gradient
            flows back to it.
        keeps_lr: the reference keeps a tensor ``lr`` itself as a part of its state,
            where a change in place spoils it. It must be given copies.
    """

    reference: type[torch.optim.Optimizer] | None = None
    arguments: Mapping[str, Arguments] = field(default_factory=dict)
    error_arguments: Sequence[tuple[Arguments, type[Exception], str]] = ()
    takes: tuple[str, ...] = ()
    layouts: tuple[str, ...] = tuple(LAYOUTS)
    complex: bool = True
    sparse: Literal["no", "also", "only"] = "no"
    sparse_refuses: tuple[str, ...] = ()
    closure: bool = False
    stateful: Arguments = field(default_factory=dict)
    groups: bool = True
    joint: bool = False
    kernel: bool = True
    in_order: bool = False
    bounded: tuple[str, Any] = ("lr", -1.0)
    ulps: float = 4
    why_ulps: str = ""
    early_state: bool = False
    lr_in_state: bool = False
    keeps_lr: bool = False
