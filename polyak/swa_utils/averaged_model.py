"""A model whose weights are the average of another's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import swa_utils as torch_swa

from .blend import Blend
from .functions import Mean, Weight, Weighting

__all__ = ["AveragedModel"]

_ACCUMULATOR = "accumulator."


class AveragedModel(torch_swa.AveragedModel):
    r"""A copy of a model that holds the average of its weights.

    Stochastic weight averaging (`Izmailov et al., 2018
    <https://arxiv.org/abs/1803.05407>`_), by default the mean of the weights at each
    :meth:`update_parameters`; with :func:`get_ema_multi_avg_fn`, their exponential
    moving average (`Polyak and Juditsky, 1992
    <https://doi.org/10.1137/0330046>`_). On the CPU, all tensors are averaged in one
    pass.

    Weights in half precision, which small steps would never move, are averaged in
    float32, kept in the state dict as ``accumulator.<index>``, unless by a function of
    yours. Integer buffers, such as ``num_batches_tracked``, are copied and never
    averaged.

    Args:
        model: the model to average; it is copied.
        device: where to keep the averages; by default with the model.
        avg_fn: ``avg_fn(average, current, num_averaged)`` returns the new average of
            one tensor.
        multi_avg_fn: ``multi_avg_fn(averages, current, num_averaged)`` changes the
            averages of a list of tensors; those of this module are fused.
        use_buffers: average floating-point buffers too; otherwise all are copied.

    Attributes:
        module: the averaged model.
        n_averaged: how many weights are in the average.

    Raises:
        AssertionError: both functions are given.

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> average = AveragedModel(model)
    >>> for weight in (1.0, 2.0, 6.0):
    ...     torch.nn.init.constant_(model.weight, weight).requires_grad
    ...     average.update_parameters(model)
    True
    True
    True
    >>> average.module.weight.item()
    3.0
    """

    # Which tensor follows which, as of the last update.
    _seen: list[list[Tensor]]
    _averaged: list[tuple[Tensor, Tensor]]
    _copied: list[tuple[Tensor, Tensor]]
    _blend: Blend | None

    def __init__(
        self,
        model: nn.Module,
        device: int | torch.device | None = None,
        avg_fn: Callable[[Tensor, Tensor, Tensor | int], Tensor] | None = None,
        multi_avg_fn: Callable[[Any, Any, Tensor | int], None] | None = None,
        use_buffers: bool = False,
    ) -> None:
        nn.Module.__init__(self)
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError(
                "Only one of avg_fn and multi_avg_fn should be provided"
            )
        self.module = deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer(
            "n_averaged", torch.tensor(0, dtype=torch.long, device=device)
        )
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers
        self._forget()
        self._loaded: dict[int, Tensor] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the averaged model."""
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the weights of the model into the average.

        Raises:
            ValueError: the model has other parameters or buffers than the one that the
                average was made of; nothing is changed.
        """
        self._pair(model)
        count, weight = int(self.n_averaged), self._weight()
        if count and weight is None:
            self._by_function([(a.detach(), s.detach()) for a, s in self._averaged])
        elif self._averaged:
            blend = self._blend_of(self._averaged)
            if count and weight is not None:
                blend.move(weight(count))
            else:
                blend.copy()
        for average, source in self._copied:
            average.copy_(source)
        self.n_averaged += 1

    def _pair(self, model: nn.Module) -> None:
        """Find which tensor of the model each average is of."""
        seen = [*_tensors(self.module), *_tensors(model)]
        if list(map(len, seen)) == list(map(len, self._seen)) and all(
            map(is_, chain(*seen), chain(*self._seen))
        ):
            return
        averaged: list[tuple[Tensor, Tensor]] = []
        copied: list[tuple[Tensor, Tensor]] = []
        for is_parameter, average, source in _pairs(self.module, model):
            floating = average.is_floating_point() or average.is_complex()
            taken = floating and (is_parameter or self.use_buffers)
            (averaged if taken else copied).append((average, source))
        self._seen, self._averaged, self._copied = seen, averaged, copied

    def _weight(self) -> Weight | None:
        """The weight of the average, if it is one of this module's."""
        if self.avg_fn is None and self.multi_avg_fn is None:
            return Mean()
        function: Any = self.multi_avg_fn or self.avg_fn
        return function.weight if isinstance(function, Weighting) else None

    def _by_function(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        pairs = [(average, source.to(average.device)) for average, source in pairs]
        if self.avg_fn is not None:
            for average, source in pairs:
                count = self.n_averaged.to(average.device)
                average.copy_(self.avg_fn(average, source, count))
            return
        assert self.multi_avg_fn is not None
        alike: dict[Any, list[tuple[Tensor, Tensor]]] = {}
        for pair in pairs:
            alike.setdefault((pair[0].device, pair[0].dtype), []).append(pair)
        for (device, _), group in alike.items():
            averages, sources = map(list, zip(*group, strict=True))
            self.multi_avg_fn(averages, sources, self.n_averaged.to(device))

    def _blend_of(self, pairs: list[tuple[Tensor, Tensor]]) -> Blend:
        blend = self._blend
        if blend is None or not blend.holds(pairs):
            kept = blend.accumulators() if blend is not None else self._loaded
            blend = self._blend = Blend(*zip(*pairs, strict=True))
            for index, value in kept.items():
                blend.set_accumulator(index, value)
            self._loaded = {}
        return blend

    # State: torch's keys, and float32 averages where there are any

    def _accumulators(self) -> dict[int, Tensor]:
        return self._loaded if self._blend is None else self._blend.accumulators()

    def _save_to_state_dict(
        self, destination: Any, prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for index, value in self._accumulators().items():
            destination[f"{prefix}{_ACCUMULATOR}{index}"] = value

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *arguments: Any
    ) -> None:
        start = f"{prefix}{_ACCUMULATOR}"
        names = [name for name in state_dict if name.startswith(start)]
        self._loaded = {
            int(name[len(start) :]): state_dict.pop(name).clone() for name in names
        }
        self._forget()
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    # Copies: the pass is made anew, for the tensors of the copy

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        state["_loaded"] = {k: v.clone() for k, v in self._accumulators().items()}
        for name in ("_blend", "_seen", "_averaged", "_copied"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._forget()

    def _forget(self) -> None:
        """Forget which tensors there are: the next update looks at them anew."""
        self._blend = None
        self._seen = []
        self._averaged = []
        self._copied = []


def _tensors(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The parameters and the buffers of a module, each once."""
    owners = list(module.modules())
    parameters = chain.from_iterable(m._parameters.values() for m in owners)
    buffers = chain.from_iterable(m._buffers.values() for m in owners)
    return _once(parameters), _once(buffers)


def _once(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    return [tensor for tensor in dict.fromkeys(tensors) if tensor is not None]


def _pairs(
    averaged: nn.Module, model: nn.Module
) -> Iterator[tuple[bool, Tensor, Tensor]]:
    """Each tensor of the average with that of the model, parameters first."""
    for kind in ("parameters", "buffers"):
        ours = dict(getattr(averaged, f"named_{kind}")())
        theirs = dict(getattr(model, f"named_{kind}")())
        if len(ours) != len(theirs):
            raise ValueError(
                f"the model has {len(theirs)} {kind}, and the one that was averaged "
                f"has {len(ours)}: make a new AveragedModel of it. Nothing was changed."
            )
        for (name, average), source in zip(ours.items(), theirs.values(), strict=True):
            if average.shape != source.shape or average.dtype != source.dtype:
                raise ValueError(
                    f"{name} of the model is {_described(source)}, and its average is "
                    f"{_described(average)}: make a new AveragedModel of it. Nothing "
                    "was changed."
                )
            yield kind == "parameters", average, source


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
