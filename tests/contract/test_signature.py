"""A constructor takes what torch's takes; groups and repr show the same."""

import inspect

from tests.contract.comparison import assert_same
from tests.contract.harness import every_optimizer, make, ours, parameters, reference


@every_optimizer
def test_constructors_have_torchs_signature(name):
    """Names, order, kinds and defaults of the arguments; stages come besides."""

    def shape(kind):
        parameters = inspect.signature(kind).parameters.values()
        return [
            (p.name, p.kind, p.default)
            for p in parameters
            if p.kind is not inspect.Parameter.VAR_KEYWORD
        ]

    assert shape(ours(name)) == shape(reference(name))


@every_optimizer
def test_repr_and_groups_are_those_of_torch(name):
    """The groups have torch's keys, in its order, and print as torch's do."""
    actual, expected = (
        make(kind, parameters(name), {}) for kind in (ours(name), reference(name))
    )
    assert repr(actual) == repr(expected)
    assert list(actual.defaults.items()) == list(expected.defaults.items())
    for group, other in zip(actual.param_groups, expected.param_groups, strict=True):
        assert_same(group, other)
