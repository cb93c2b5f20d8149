"""Hooks: functions of the user's that run around ``step`` and around state dicts.

Six kinds per optimizer, as in :class:`torch.optim.Optimizer`, and torch's global step
hooks (:func:`torch.optim.optimizer.register_optimizer_step_pre_hook`), which fire for
polyak's optimizers too.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch._C._autograd import _profiler_enabled
from torch._compile import _disable_dynamo
from torch.compiler import is_dynamo_compiling
from torch.optim import optimizer as torch_optimizer
from torch.utils.hooks import RemovableHandle

__all__ = ["HOOK_KINDS", "Hooks", "hooked"]

HOOK_KINDS = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)

_global_pre = torch_optimizer._global_optimizer_pre_hooks
_global_post = torch_optimizer._global_optimizer_post_hooks

Hook = Callable[..., Any]
HookDict = OrderedDict[int, Hook]


class Hooks:
    """The registration of hooks. Each method returns a handle with ``remove()``."""

    def _clear_hooks(self) -> None:
        for kind in HOOK_KINDS:
            setattr(self, kind, OrderedDict())

    def register_step_pre_hook(self, hook: Hook) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` before each step.

        It may return None, or the (args, kwargs) to step with.
        """
        return self._register("_optimizer_step_pre_hooks", hook)

    def register_step_post_hook(self, hook: Hook) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` after each step."""
        return self._register("_optimizer_step_post_hooks", hook)

    def register_state_dict_pre_hook(
        self, hook: Hook, prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer)`` before a state dict is made.

        Args:
            hook: the function.
            prepend: call it before the hooks registered so far, not after them.
        """
        return self._register("_optimizer_state_dict_pre_hooks", hook, prepend)

    def register_state_dict_post_hook(
        self, hook: Hook, prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer, state_dict)`` on each state dict that was made.

        It may change the dict, or return another to be used instead.
        """
        return self._register("_optimizer_state_dict_post_hooks", hook, prepend)

    def register_load_state_dict_pre_hook(
        self, hook: Hook, prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer, state_dict)`` before a state dict is loaded.

        It receives a shallow copy, and may change it or return another.
        """
        return self._register("_optimizer_load_state_dict_pre_hooks", hook, prepend)

    def register_load_state_dict_post_hook(
        self, hook: Hook, prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer)`` after a state dict was loaded."""
        return self._register("_optimizer_load_state_dict_post_hooks", hook, prepend)

    def _register(
        self, kind: str, hook: Hook, prepend: bool = False
    ) -> RemovableHandle:
        hooks: HookDict = getattr(self, kind)
        handle = RemovableHandle(hooks)
        hooks[handle.id] = hook
        if prepend:
            hooks.move_to_end(handle.id, last=False)
        return handle


def hooked(step: Callable[..., Any]) -> Callable[..., Any]:
    """Run the step hooks around ``step``, under the profiler's name for it.

    A ``step`` that calls the one it overrides runs them once.
    """

    @functools.wraps(step)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_dynamo_compiling():
            return _outside(wrapper, self, *args, **kwargs)
        if self._stepping:
            return step(self, *args, **kwargs)
        self._stepping = True
        try:
            if _profiler_enabled():
                name = f"Optimizer.step#{type(self).__name__}.step"
                with torch.autograd.profiler.record_function(name):
                    result = _with_hooks(step, self, args, kwargs)
                    self._optimizer_step_code()  # which shows the profiler the state
                    return result
            return _with_hooks(step, self, args, kwargs)
        finally:
            self._stepping = False

    wrapper.hooked = True  # type: ignore[attr-defined]
    return wrapper


def _call(function: Hook, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


# torch.compile leaves a step to run as it is: it is compiled already.
_outside = _disable_dynamo(_call)


def _with_hooks(step: Hook, optimizer: Any, args: Any, kwargs: Any) -> Any:
    passed = (optimizer, *args)
    if _global_pre or optimizer._optimizer_step_pre_hooks:
        passed, kwargs = _before(optimizer, passed, kwargs)
    optimizer._counts = True
    result = step(*passed, **kwargs)
    if optimizer._counts:
        optimizer._done += 1
    if _global_post or optimizer._optimizer_step_post_hooks:
        _after(optimizer, passed, kwargs)
    if optimizer.clear_grads:
        optimizer.zero_grad()
    return result


def _before(optimizer: Any, passed: Any, kwargs: Any) -> Any:
    """Call the hooks before a step; what to step with."""
    own = optimizer._optimizer_step_pre_hooks
    for hook in [*_global_pre.values(), *own.values()]:
        replaced = hook(optimizer, passed, kwargs)
        if replaced is None:
            continue
        if not (isinstance(replaced, tuple) and len(replaced) == 2):
            raise RuntimeError(
                f"{hook} must return None or a tuple of (new_args, new_kwargs), but "
                f"got {replaced}."
            )
        passed, kwargs = replaced
    return passed, kwargs


def _after(optimizer: Any, passed: Any, kwargs: Any) -> None:
    own = optimizer._optimizer_step_post_hooks
    for hook in [*own.values(), *_global_post.values()]:
        hook(optimizer, passed, kwargs)
