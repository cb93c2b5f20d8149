"""From the checkpoint of one optimizer to that of another."""

from __future__ import annotations

import inspect
from copy import deepcopy
from typing import Any

from .groups import _allowed
from .optimizer import Optimizer
from .optimizers import by_name
from .slot import Slot

__all__ = ["convert_state"]

StateDict = dict[str, Any]

# Not what another optimizer calls so: of gradients, of updates, summed or averaged.
_OWN = frozenset({"momentum_buffer", "prev"})


def convert_state(state_dict: StateDict, to: type[Optimizer] | str) -> StateDict:
    """A state dict for another optimizer, with the slots that the two share.

    Slots of one name hold the same thing: ``exp_avg`` and ``exp_avg_sq`` of Adam,
    AdamW, RAdam, ...; ``square_avg`` of RMSprop and Adadelta; ``param_ema`` of all. A
    ``momentum_buffer`` does not, and goes to no other optimizer. Of the groups'
    hyperparameters, those that both have are kept; the others are as the optimizer is
    built.

    Args:
        state_dict: of an optimizer of polyak's or of torch's. It is not changed.
        to: the other optimizer, by its class or its name.

    Raises:
        ValueError: the two share no slot; or the other needs one besides (as NAdam does
            ``mu_product``), and corrects for how long it has averaged: a new one would
            be taken for an old one.

    >>> import polyak
    >>> w = torch.tensor([1.0], requires_grad=True)
    >>> w.grad = torch.tensor([2.0])
    >>> adam = polyak.Adam([w])
    >>> adam.step()
    >>> other = polyak.RAdam([w])
    >>> report = other.load_state_dict(convert_state(adam.state_dict(), to="RAdam"))
    >>> other.state[w]["exp_avg"], other.state[w]["step"]
    (tensor([0.2000]), tensor(1.))
    """
    kind = by_name(to) if isinstance(to, str) else to
    if not hasattr(kind, "rule"):
        raise ValueError(f"{kind.__name__} has no rule, and shares no state")
    schema = kind._schema_with(("ema_decay",))
    known = {*inspect.signature(kind).parameters, "ema_decay", *_allowed}
    groups = state_dict["param_groups"]
    is_its_own = all(group.keys() <= known for group in groups)
    shared = schema.slots.keys() - (set() if is_its_own else _OWN)
    found = {
        name
        for entry in state_dict["state"].values()
        if isinstance(entry, dict)
        for name in entry
    }
    if found and not found & shared:
        raise ValueError(
            f"{kind.__name__} shares no slot with this state dict, which has "
            f"{', '.join(sorted(found))}"
        )
    needed = {name for name in shared if _always(schema.slots[name])} - found
    if "step" in found and needed and schema.wants_step:
        raise ValueError(
            f"{kind.__name__} needs {', '.join(sorted(needed))}, which this state dict "
            f"of {', '.join(sorted(found))} lacks: begin with fresh state"
        )
    shared |= {"step"} if schema.counts_steps else set()
    return {
        "state": {
            key: {name: value for name, value in entry.items() if name in shared}
            if isinstance(entry, dict)
            else entry
            for key, entry in state_dict["state"].items()
        },
        "param_groups": [
            {key: deepcopy(value) for key, value in group.items() if key in known}
            for group in groups
        ],
    }


def _always(slot: Slot) -> bool:
    """Whether every parameter has it."""
    return slot.when is None and slot.of is None
