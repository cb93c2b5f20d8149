"""Batch statistics for weights that were averaged, and never saw a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["update_bn"]

_Norm = nn.modules.batchnorm._BatchNorm


@torch.no_grad()
def update_bn(
    loader: Iterable[Any],
    model: nn.Module,
    device: int | str | torch.device | None = None,
    *,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> None:
    """Compute the running statistics of a model's batch normalisation anew.

    One pass over the data, with the mean over all batches; a call that fails leaves the
    model as it was.

    Args:
        loader: the batches: tensors; lists or tuples, of which the model gets the first
            entry; or dicts, which it gets as keyword arguments.
        model: the model, usually an averaged one.
        device: where to move each batch first.
        forward: how to run the model on a batch, ``forward(model, batch)``, if
            otherwise.

    Raises:
        ValueError: the loader yields nothing.

    >>> model = torch.nn.BatchNorm1d(2)
    >>> update_bn([torch.tensor([[1.0, 2.0], [3.0, 4.0]])], model)
    >>> model.running_mean
    tensor([2., 3.])
    """
    norms = [module for module in model.modules() if isinstance(module, _Norm)]
    if not norms:
        return
    run = _forward if forward is None else forward
    with _learning(model, norms):
        seen = False
        for batch in loader:
            run(model, batch if device is None else _moved(batch, device))
            seen = True
        if not seen:
            raise ValueError(
                "update_bn got a loader that yields no batches, and the statistics of "
                "none: was it an iterator that is used up? Give it the data"
            )


def _forward(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    else:
        model(batch[0] if isinstance(batch, list | tuple) else batch)


def _moved(batch: Any, device: Any) -> Any:
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_moved(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(_moved(value, device) for value in batch)
    return batch


@contextmanager
def _learning(model: nn.Module, norms: list[Any]) -> Iterator[None]:
    """Let the norms take the mean over batches; put all back but what they learned."""
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    before = [{k: v.clone() for k, v in norm.named_buffers()} for norm in norms]
    model.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    try:
        yield
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
