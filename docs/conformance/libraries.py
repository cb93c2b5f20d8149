"""The libraries that are compared, and their optimizers."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import torch


@dataclass(frozen=True)
class Library:
    """A library.

    Args:
        package: its name, as pip has it.
        module: where its optimizers are.
        chosen: the one of the table: its AdamW, or what it has in its place.
        prepare: what must be done before it is imported, or after.
        keywords: arguments without which no optimizer of it can be made.
    """

    package: str
    module: str
    chosen: str = "AdamW"
    prepare: Callable[[], None] = lambda: None
    keywords: dict[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """What is installed."""
        if self.package == "polyak":
            import polyak

            return polyak.__version__
        return metadata.version(self.package)

    def classes(self) -> dict[str, type[torch.optim.Optimizer]]:
        """Its own public optimizers; torch's, which it may show again, are not."""
        self.prepare()
        found = {}
        for name, kind in sorted(vars(importlib.import_module(self.module)).items()):
            public = inspect.isclass(kind) and not name.startswith("_")
            if not public or not issubclass(kind, torch.optim.Optimizer):
                continue
            if kind.__module__.split(".")[0] == self.module.split(".")[0]:
                found[kind.__name__] = kind
        return {k: v for k, v in found.items() if k not in ("Optimizer", "Mixed")}


def _without_models() -> None:
    """timm's models need torchvision, whose build for the CPU is not on PyPI."""
    spec = importlib.util.find_spec("timm")
    package, models = types.ModuleType("timm"), types.ModuleType("timm.models")
    package.__path__ = list(spec.submodule_search_locations or ())
    models.group_parameters = None  # by layers of a model; no optimizer needs it
    sys.modules |= {"timm": package, "timm.models": models}


def _uncompiled() -> None:
    """heavyball compiles each step, for minutes; it can be told not to."""
    import heavyball

    heavyball.utils.compile_mode = None


LIBRARIES = {
    library.package: library
    for library in (
        Library("polyak", "polyak"),
        Library("torch", "torch.optim"),
        Library("timm", "timm.optim", "NAdamW", _without_models),
        Library("torch-optimi", "optimi"),
        Library("pytorch_optimizer", "pytorch_optimizer", "StableAdamW"),
        Library("schedulefree", "schedulefree", "AdamWScheduleFree"),
        Library("bitsandbytes", "bitsandbytes.optim"),
        Library("torchao", "torchao.optim", "AdamW8bit"),
        Library("heavyball", "heavyball", "AdamW", _uncompiled),
        Library("adv_optm", "adv_optm", "AdamW_adv"),
        Library("lion-pytorch", "lion_pytorch", "Lion"),
        Library("prodigyopt", "prodigyopt", "Prodigy"),
    )
}
