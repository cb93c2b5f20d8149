"""Who else steps on a CPU: torch.compile, and libraries of optimizers, if installed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

__all__ = ["PEERS", "Makers", "Peer", "Step", "hushed", "loaded"]

Params = list[Tensor]
Step = Callable[[], object]
Makers = Mapping[str, Callable[[Params], Step]]


@dataclass(frozen=True)
class Peer:
    """Another way to do what an optimizer of torch does.

    Args:
        name: as it is called in the report.
        distribution: what pip calls it.
        load: imports it, and tells what makes the step of each optimizer, by the name
            of polyak's, with torch's default arguments.
    """

    name: str
    distribution: str
    load: Callable[[], Makers]

    @property
    def version(self) -> str:
        """Of what is installed."""
        return version(self.distribution)


def loaded(
    peers: Sequence[Peer] | None = None,
) -> tuple[dict[Peer, Makers], dict[Peer, str]]:
    """The peers that are there, and why the others are not."""
    there: dict[Peer, Makers] = {}
    absent: dict[Peer, str] = {}
    for peer in PEERS if peers is None else peers:
        try:
            with hushed():
                there[peer] = peer.load()
        except ModuleNotFoundError as error:
            absent[peer] = f"not installed, there is no {error.name}"
        except Exception as error:  # whatever a library's import may raise
            absent[peer] = f"cannot be imported: {error!r}".splitlines()[0]
    return there, absent


@contextmanager
def hushed() -> Iterator[None]:
    """Without warnings, and with nothing but the report in the output."""
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


SGD, MOMENTUM = "SGD(momentum=0.9)", {"lr": 1e-3, "momentum": 0.9}
ADAMW = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2}
RMSPROP = {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8}
ADAGRAD = {"lr": 1e-2, "eps": 1e-10}


def _of(kind: Callable[..., Any], arguments: Mapping[str, Any], **more: Any) -> Any:
    return lambda params: kind(params, **arguments, **more).step


def _compiled(kind: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    return lambda params: torch.compile(kind(params, **arguments, foreach=True).step)


def _torch_compile() -> Makers:
    """Its compilation takes long: of two optimizers only."""
    return {
        "AdamW": _compiled(torch.optim.AdamW, ADAMW),
        SGD: _compiled(torch.optim.SGD, MOMENTUM),
    }


def _optimi() -> Makers:
    import optimi

    return {
        "AdamW": _of(optimi.AdamW, ADAMW, foreach=True),
        SGD: _of(optimi.SGD, MOMENTUM, foreach=True),
    }


def _pytorch_optimizer() -> Makers:
    import pytorch_optimizer as library

    return {
        "AdamW": _of(library.AdamW, ADAMW),
        SGD: _of(library.SGD, MOMENTUM),
        "RMSprop": _of(library.load_optimizer("rmsprop"), RMSPROP),
    }


def _bitsandbytes() -> Makers:
    from bitsandbytes import optim

    return {
        "AdamW": _of(optim.AdamW32bit, ADAMW),
        SGD: _of(optim.SGD32bit, MOMENTUM),
        "RMSprop": _of(optim.RMSprop32bit, RMSPROP),
        "Adagrad": _of(optim.Adagrad32bit, ADAGRAD),
    }


def _bitsandbytes_8bit() -> Makers:
    from bitsandbytes import optim

    return {"AdamW": _of(optim.AdamW8bit, ADAMW), SGD: _of(optim.SGD8bit, MOMENTUM)}


def _torchao_8bit() -> Makers:
    from torchao.optim import AdamW8bit

    return {"AdamW": _of(AdamW8bit, ADAMW)}


def _deepspeed() -> Makers:
    from deepspeed.ops.adagrad import DeepSpeedCPUAdagrad
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    return {
        "AdamW": _of(DeepSpeedCPUAdam, ADAMW, adamw_mode=True),
        "Adagrad": _of(DeepSpeedCPUAdagrad, ADAGRAD),
    }


PEERS = (
    Peer("torch.compile(opt.step)", "torch", _torch_compile),
    Peer("optimi", "torch-optimi", _optimi),
    Peer("pytorch-optimizer", "pytorch-optimizer", _pytorch_optimizer),
    Peer("bitsandbytes", "bitsandbytes", _bitsandbytes),
    Peer("bitsandbytes, 8-bit state", "bitsandbytes", _bitsandbytes_8bit),
    Peer("torchao, 8-bit state", "torchao", _torchao_8bit),
    Peer("DeepSpeed", "deepspeed", _deepspeed),
)
