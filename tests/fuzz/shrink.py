"""Makes a scenario that fails as small as it gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from typing import Any

from tests.fuzz.check import check
from tests.fuzz.differences import difference_in
from tests.fuzz.scenario import Group, Scenario, Spec


def shrunk(scenario: Scenario, error: Exception) -> Scenario:
    """The same failure with as little as possible, found by leaving out parts."""
    smaller: Scenario | None = scenario
    while smaller is not None:
        scenario = smaller
        smaller = next((s for s in _simpler(scenario) if _raises(s, error)), None)
    return scenario


def _raises(scenario: Scenario, error: Exception) -> bool:
    """Whether a scenario fails as another did, but for the numbers in the message."""
    if difference_in(scenario) is not None:
        return False
    try:
        check(scenario)
    except Exception as found:
        same = type(found) is type(error)
        return same and (str(found) == str(error) or isinstance(found, AssertionError))
    return False


def _simpler(value: Any) -> Iterator[Any]:
    """A value with one part less, or one part as it is by default."""
    if is_dataclass(value):
        for field in fields(value):
            part, default = getattr(value, field.name), _default(field)
            if default is not MISSING and part != default:
                yield replace(value, **{field.name: default})
            if field.name != "value" and isinstance(part, tuple | dict | Group):
                for simpler in _simpler(part):
                    yield replace(value, **{field.name: simpler})
    elif isinstance(value, dict):
        for key in value:
            yield {k: v for k, v in value.items() if k != key}
    else:
        for index, part in reversed(list(enumerate(value))):
            if len(value) > 1 or not isinstance(part, Spec):
                yield (*value[:index], *value[index + 1 :])
            if is_dataclass(part):
                for simpler in _simpler(part):
                    yield (*value[:index], simpler, *value[index + 1 :])


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default
