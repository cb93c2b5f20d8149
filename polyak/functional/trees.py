"""Trees of tensors: a dict by name, or any other that :mod:`torch` knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from ..bounds import nearest

__all__ = ["Tree", "label"]

Path = tuple[Any, ...]


class Tree:
    """Parameters, and what is given for each of them.

    Args:
        owner: the optimizer's name, for errors.
        params: the parameters.

    Attributes:
        params: the parameters by their path.

    Raises:
        TypeError: one of them is no tensor.
    """

    def __init__(self, owner: str, params: Any) -> None:
        self._owner, self._tree = owner, params
        found, self._spec = pytree.tree_flatten_with_path(params)
        self.params: dict[Path, Tensor] = dict(found)
        for path, param in self.params.items():
            if not isinstance(param, Tensor):
                raise TypeError(
                    f"{owner}: params must be a dict of tensors by name, or another "
                    f"tree of tensors, but {label(path)} is {param!r}"
                )

    def grads(self, grads: Any) -> Iterator[tuple[Path, Tensor, Tensor | None]]:
        """Each parameter with its gradient.

        Raises:
            TypeError: what is given for a parameter is no tensor.
            ValueError: names that are missing or unknown, or another shape.
        """
        given = dict(pytree.tree_flatten_with_path(grads)[0])
        missing = [path for path in self.params if path not in given]
        remedy = "give one for every parameter, or None to leave it as it is"
        self._refuse("gradient", missing, list(given), remedy)
        for path, param in self.params.items():
            grad = given[path]
            if grad is not None:
                self._check_gradient(label(path), param, grad)
            yield path, param, grad

    def _check_gradient(self, name: str, param: Tensor, grad: Any) -> None:
        if not isinstance(grad, Tensor):
            raise TypeError(
                f"{self._owner}: the gradient of {name} is {grad!r}: give a tensor or "
                "None"
            )
        if grad.shape != param.shape:
            raise ValueError(
                f"{self._owner}: the gradient of {name} has shape {tuple(grad.shape)}, "
                f"the parameter {tuple(param.shape)}: give the gradient by this "
                "parameter"
            )

    def states(self, state: Any) -> dict[Path, dict[str, Any]]:
        """The state of each parameter.

        Raises:
            ValueError: names that are missing or unknown.
        """
        found = {path: _at(path, state) for path in self.params}
        missing = [path for path, held in found.items() if held is None]
        both = isinstance(state, Mapping) and isinstance(self._tree, Mapping)
        extra = [key for key in state if key not in self._tree] if both else []
        remedy = "take what init(params) or the update before gave"
        self._refuse("state", missing, [(pytree.MappingKey(k),) for k in extra], remedy)
        return found

    def like(self, values: Iterable[Any]) -> Any:
        """One value for each parameter, in a tree of the same form."""
        return pytree.tree_unflatten(list(values), self._spec)

    def _refuse(
        self, what: str, missing: list[Path], given: list[Path], remedy: str
    ) -> None:
        known = [label(path) for path in self.params]
        for path in given:
            if path not in self.params:
                raise ValueError(
                    f"{self._owner}: there is a {what} of {label(path)}, which params "
                    f"lack.{nearest(label(path), known)} They have {', '.join(known)}."
                )
        if missing:
            names = ", ".join(map(label, missing))
            raise ValueError(f"{self._owner}: there is no {what} of {names}: {remedy}")


def label(path: Path) -> str:
    """What to call the place of a parameter in an error."""
    if len(path) == 1 and isinstance(path[0], pytree.MappingKey):
        return str(path[0].key)
    return pytree.keystr(path) or "the only one"


def _at(path: Path, tree: Any) -> Any:
    for key in path:
        try:
            tree = key.get(tree)
        except (KeyError, IndexError, TypeError, AttributeError):
            return None
    return tree if isinstance(tree, dict) else None
