"""How deep in a model a parameter is: 0 at the input, largest at the output."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence

from torch.nn import Module, ModuleList, Sequential

from .patterns import Choice, Entry, chosen

__all__ = ["Layers", "depths_by", "depths_in"]

Layers = Iterable[Choice] | Callable[[str], int]
Depths = dict[Entry, int]


def depths_in(model: Module, entries: Sequence[Entry]) -> Depths:
    """The depth of each parameter, as the model's structure tells it.

    The elements of ModuleLists and Sequentials are layers, in the order of
    registration; of containers in containers, the outermost counts. An element
    without a weight (of two dimensions or more), such as a norm, belongs to the layer
    before, and so do parameters between the elements. What comes before the first is a
    layer too (embeddings, the stem), and what comes after the last (the head).

    Raises:
        ValueError: there are no such elements.
    """
    containers = {
        name
        for name, module in model.named_modules()
        if isinstance(module, ModuleList | Sequential) and _is_sequence(module)
    }
    elements = [_element(entry.name, containers) for entry in entries]
    if not any(elements):
        raise ValueError(
            f"param_groups: layer_decay finds no layers in {type(model).__name__}, "
            "which has no ModuleList or Sequential of several. Say what they are: "
            "layers=['stem.*', 'body.*', 'head.*'], from the input to the output, or a "
            "function of the name that returns the depth"
        )
    last = max(index for index, element in enumerate(elements) if element)
    elements[last + 1 :] = ["the head"] * (len(elements) - last - 1)
    weighty = {
        e for e, entry in zip(elements, entries, strict=True) if _has_weight(entry)
    }
    depth_of: dict[str, int] = {}
    depths: Depths = {}
    layer = "the stem"
    for element, entry in zip(elements, entries, strict=True):
        if element and element in weighty:
            layer = element
        depths[entry] = depth_of.setdefault(layer, len(depth_of))
    return depths


def _is_sequence(module: Module) -> bool:
    with_parameters = [
        child
        for child in module.children()
        if next(child.parameters(), None) is not None
    ]
    return len(with_parameters) > 1


def _element(name: str, containers: set[str]) -> str:
    """The outermost element of a container that a parameter is in, or nothing."""
    parts = name.split(".")
    for count in range(len(parts) - 1):
        if ".".join(parts[:count]) in containers:
            return ".".join(parts[: count + 1])
    return ""


def _has_weight(entry: Entry) -> bool:
    return entry.param.dim() > 1


def depths_by(layers: Layers, entries: Sequence[Entry]) -> Depths:
    """The depth of each parameter, as the user tells it.

    Args:
        layers: the layers from the input to the output, of which the first that has a
            parameter counts; or a function of the name that returns the depth.
        entries: the parameters.

    Raises:
        ValueError: a parameter in no layer, a layer with no parameters, or a depth
            below 0.
        TypeError: a depth that is no integer, or layers that are no list.
    """
    if callable(layers):
        return {entry: _depth(layers, entry.name) for entry in entries}
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise TypeError(
            "param_groups: layers takes a list with a pattern for each layer, or a "
            f"function of the name, but got {layers!r}"
        )
    depths: Depths = {}
    for depth, layer in enumerate(layers):
        for entry in chosen("param_groups: layers", layer, entries):
            depths.setdefault(entry, depth)
    missing = [entry.name for entry in entries if entry not in depths]
    if missing:
        raise ValueError(
            f"param_groups: {missing[0]!r} is in none of the layers, and neither are "
            f"{len(missing) - 1} others: add a pattern for them, such as '*' at the "
            "end, which takes the rest"
        )
    return depths


def _depth(layers: Callable[[str], int], name: str) -> int:
    given = layers(name)
    try:
        depth = operator.index(given)
    except TypeError:
        raise TypeError(
            f"param_groups: layers returned {given!r} for {name!r}, where an integer "
            "is due: 0 for the input, the largest for the output"
        ) from None
    if depth < 0:
        raise ValueError(
            f"param_groups: layers returned {depth} for {name!r}: depths are 0 or more"
        )
    return depth
