"""Averages of parameters alone: no copy of the model is made."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..schedules._checks import whole
from ..swapping import holding, write
from .blend import Blend
from .functions import Exponential, Mean, Weight

__all__ = ["LatestWeightAverage", "WeightAverage"]

StateDict = dict[str, Any]


class _Averages:
    """What averages of parameters have in common: where they are swapped in."""

    def __init__(self, params: nn.Module | Iterable[Tensor]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                f"{type(self).__name__} takes a module, or an iterable of its "
                "parameters, but got a tensor: write [param]"
            )
        given = params.parameters() if isinstance(params, nn.Module) else params
        entries = (p[1] if isinstance(p, tuple) else p for p in given)
        self.params = [p for p in entries if p.is_floating_point() or p.is_complex()]
        if not self.params:
            raise ValueError(
                f"{type(self).__name__} got no floating-point parameters: was the "
                "iterator model.parameters() used before?"
            )
        self.n_averaged = 0

    def averages(self) -> list[Tensor]:
        """The averages, one a parameter."""
        raise NotImplementedError

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Evaluate with the averages: the parameters have their values in this block.

        They get their own back at its end, whatever happens in it.

        Raises:
            RuntimeError: nothing has been averaged yet.
        """
        if not self.n_averaged:
            raise RuntimeError(
                f"{type(self).__name__} has averaged nothing yet: call update() after "
                "the optimizer's step first"
            )
        averages = self.averages()
        _check_shapes(type(self).__name__, self.params, averages)
        with holding(self.params, averages):
            yield


class WeightAverage(_Averages):
    r"""The running average of parameters, updated in one pass over memory.

    .. math::
        a_n = a_{n-1} + w_n (\theta_n - a_{n-1}), \qquad
        w_n = \frac{1}{n} \ \text{(mean)} \quad \text{or} \quad 1 - d \ \text{(EMA)}

    The mean of all weights since the first update (`Izmailov et al., 2018
    <https://arxiv.org/abs/1803.05407>`_), or their exponential moving average. The
    averages of half-precision parameters are kept in float32: in bfloat16, steps of
    ``1 - d`` would be lost to rounding.

    Args:
        params: the parameters, with or without names, or their module; integers are
            left out.
        decay: :math:`d`, from 0 to 1; None for the mean.
        warmup: let the decay begin small: :math:`\min(d, (1 + n) / (10 + n))`.

    Attributes:
        n_averaged: how many updates are in the average.

    Raises:
        ValueError: no parameters, or ``decay`` out of range.

    >>> weight = torch.tensor([0.0], requires_grad=True)
    >>> average = WeightAverage([weight], decay=0.5)
    >>> for value in (1.0, 2.0):
    ...     average.update(weight.data.fill_(value))
    >>> with average.swapped():
    ...     print(weight.item())
    1.5
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Tensor],
        decay: float | None = None,
        *,
        warmup: bool = False,
    ) -> None:
        super().__init__(params)
        self._weight: Weight
        self._weight = Mean() if decay is None else Exponential(decay, warmup)
        self._averages = [_wide(param) for param in self.params]
        self._blend = Blend(self._averages, self.params)

    def averages(self) -> list[Tensor]:
        """The averages, one a parameter: the tensors themselves."""
        return list(self._averages)

    @torch.no_grad()
    def update(self, *_: Any) -> None:
        """Take the parameters, as they are now, into the average.

        It can be registered as a hook: ``optimizer.register_step_post_hook(
        average.update)``.

        Raises:
            ValueError: a parameter has another shape than it had.
        """
        if self.n_averaged:
            self._blend.move(self._weight(self.n_averaged))
        else:
            self._blend.copy()
        self.n_averaged += 1

    def state_dict(self) -> StateDict:
        """The averages and their count. The tensors are the live ones."""
        return {"n_averaged": self.n_averaged, "averages": self.averages()}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Load averages, in place, or change nothing.

        Raises:
            ValueError: another number of averages, or other shapes.
        """
        saved, count = _entries(self, state_dict, "averages", "n_averaged")
        _check_shapes(type(self).__name__, saved, self._averages)
        write(self._averages, saved)
        self.n_averaged = int(count)


class LatestWeightAverage(_Averages):
    r"""The mean of the latest k weights: LAWA.

    From `Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest
    Weight Averaging <https://arxiv.org/abs/2209.14981>`_:

    .. math:: a_n = \frac{1}{k} \sum_{i = n - k + 1}^{n} \theta_i

    Usually updated once an epoch. It keeps k copies of the parameters.

    Args:
        params: the parameters, with or without names, or their module; integers are
            left out.
        k: how many weights are averaged, 1 or more.

    Attributes:
        n_averaged: how many weights are in the average, at most k.

    Raises:
        ValueError: no parameters, or ``k`` out of range.

    >>> weight = torch.tensor([0.0], requires_grad=True)
    >>> average = LatestWeightAverage([weight], k=2)
    >>> for value in (1.0, 2.0, 4.0):
    ...     average.update(weight.data.fill_(value))
    >>> average.averages()
    [tensor([3.])]
    """

    def __init__(self, params: nn.Module | Iterable[Tensor], k: int) -> None:
        super().__init__(params)
        self.k = whole(1)("LatestWeightAverage", "k", k)
        self._latest: deque[list[Tensor]] = deque(maxlen=self.k)

    def averages(self) -> list[Tensor]:
        """The averages, one a parameter, computed anew."""
        columns = zip(*self._latest, strict=True)
        return [torch.stack([_wide(p) for p in column]).mean(0) for column in columns]

    def update(self, *_: Any) -> None:
        """Keep the parameters as they are now; the oldest of k + 1 is given up."""
        if self._latest:
            _check_shapes(type(self).__name__, self.params, self._latest[-1])
        self._latest.append([param.detach().clone() for param in self.params])
        self.n_averaged = len(self._latest)

    def state_dict(self) -> StateDict:
        """The latest weights, the oldest first. The tensors are the live ones."""
        return {"latest": [list(weights) for weights in self._latest]}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Load the latest weights, or change nothing.

        Raises:
            ValueError: another number of parameters, or other shapes.
        """
        (latest,) = _entries(self, state_dict, "latest")
        for weights in latest:
            _check_shapes(type(self).__name__, weights, self.params)
        self._latest.clear()
        for weights in latest:
            pairs = zip(weights, self.params, strict=True)
            self._latest.append([_like(weight, param) for weight, param in pairs])
        self.n_averaged = len(self._latest)


def _entries(owner: object, state_dict: StateDict, *names: str) -> list[Any]:
    missing = [name for name in names if name not in state_dict]
    if missing:
        raise ValueError(
            f"the state dict lacks {', '.join(missing)}, which {type(owner).__name__} "
            "saves: is it of something else? Nothing was loaded."
        )
    return [state_dict[name] for name in names]


def _like(weight: Tensor, param: Tensor) -> Tensor:
    return weight.detach().to(param.device, param.dtype, copy=True)


def _wide(param: Tensor) -> Tensor:
    """A copy, in float32 at least."""
    half = param.dtype in (torch.bfloat16, torch.float16)
    copy = param.detach().clone()
    return copy.float() if half else copy


def _check_shapes(
    owner: str, tensors: Sequence[Tensor], averages: Sequence[Tensor]
) -> None:
    if len(tensors) != len(averages):
        raise ValueError(
            f"{owner} has the averages of {len(averages)} parameters, and got "
            f"{len(tensors)}: make a new one. Nothing was changed."
        )
    for index, (tensor, average) in enumerate(zip(tensors, averages, strict=True)):
        if tensor.shape != average.shape:
            raise ValueError(
                f"parameter {index} has the shape {tuple(tensor.shape)}, and its "
                f"average in {owner} has {tuple(average.shape)}: make a new one. "
                "Nothing was changed."
            )
