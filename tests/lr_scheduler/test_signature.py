"""Constructors and methods take what torch's take; instances are torch's."""

import inspect

import pytest
import torch
from torch.optim import lr_scheduler as torchs

import polyak.lr_scheduler as ours
from tests.lr_scheduler.cases import CASES
from tests.lr_scheduler.harness import every_case, start
from tests.lr_scheduler.nodes import OURS, TORCHS, sgd

SHARED = [*torchs.__all__, "_LRScheduler"]
METHODS = ("step", "state_dict", "load_state_dict", "get_last_lr", "get_lr")


def shape(function):
    """Names, kinds and defaults of the parameters."""
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in parameters]


@pytest.mark.parametrize("name", SHARED)
def test_constructors_have_torchs_signature(name):
    """torch's parameters in order, then ``verbose``, then what must be named."""
    actual, expected = shape(getattr(ours, name)), shape(getattr(torchs, name))
    count = len(expected)
    assert actual[:count] == expected
    verbose, *named = actual[count:]
    assert verbose == ("verbose", inspect.Parameter.POSITIONAL_OR_KEYWORD, False)
    assert all(kind is inspect.Parameter.KEYWORD_ONLY for _, kind, _ in named)


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("method", METHODS)
def test_methods_take_what_torchs_take(name, method):
    """torch's parameters come first, by the same names; others are optional."""
    actual, expected = (
        shape(getattr(getattr(module, name), method)) for module in (ours, torchs)
    )
    names = [parameter[0] for parameter in expected]
    assert [parameter[0] for parameter in actual[: len(names)]] == names
    for _, kind, default in actual[len(names) :]:
        optional = default is not inspect.Parameter.empty
        assert optional or kind is inspect.Parameter.VAR_KEYWORD


@pytest.mark.parametrize("name", SHARED)
def test_classes_are_subclasses_of_their_namesakes(name):
    """Frameworks test for torch's classes."""
    kind = getattr(ours, name)
    assert issubclass(kind, getattr(torchs, name))
    assert issubclass(kind, ours.LRScheduler)
    assert kind.__name__ == name


@every_case
def test_instances_are_torchs(label):
    """And hold the optimizer as torch's do."""
    run = start(label)
    name = CASES[label].node.name
    assert isinstance(
        run.scheduler,
        TORCHS.get(name, torchs.LRScheduler)
        if name in torchs.__all__
        else torchs.LRScheduler,
    )
    assert isinstance(run.scheduler, OURS[name])
    assert run.scheduler.optimizer is run.optimizer


@pytest.mark.parametrize("name", ["StepLR", "LinearLR", "SequentialLR"])
def test_arguments_by_position(name):
    """As torch's users pass them."""

    def build(module):
        optimizer = sgd()
        if name == "StepLR":
            made = module.StepLR(optimizer, 3, 0.5, -1)
        elif name == "LinearLR":
            made = module.LinearLR(optimizer, 0.5, 1.0, 4, -1)
        else:
            parts = [module.StepLR(optimizer, 2), module.ExponentialLR(optimizer, 0.9)]
            made = module.SequentialLR(optimizer, parts, [3], -1)
        seen = []
        for _ in range(6):
            optimizer.step()
            made.step()
            seen += made.get_last_lr()
        return seen

    assert build(ours) == pytest.approx(build(torchs), rel=1e-12, abs=0)


def test_verbose_prints_as_torch_did(capsys):
    """Each rate, when it is set; nothing by default."""
    optimizer = sgd(2)
    scheduler = ours.StepLR(optimizer, 1, 0.5, -1, True)
    first = capsys.readouterr().out
    assert first == (
        "Adjusting learning rate of group 0 to 1.0000e-01.\n"
        "Adjusting learning rate of group 1 to 2.0000e-02.\n"
    )
    optimizer.step()
    scheduler.step()
    assert capsys.readouterr().out == (
        "Adjusting learning rate of group 0 to 5.0000e-02.\n"
        "Adjusting learning rate of group 1 to 1.0000e-02.\n"
    )
    quiet = ours.StepLR(sgd(), 1)
    quiet.optimizer.step()
    quiet.step()
    assert capsys.readouterr().out == ""


def test_print_lr_prints_if_told_to(capsys):
    """The method of torch 1.7, which subclasses call."""
    scheduler = ours.StepLR(sgd(), 1)
    scheduler.print_lr(False, 0, 0.1)
    assert capsys.readouterr().out == ""
    scheduler.print_lr(True, 0, 0.1)
    assert capsys.readouterr().out == (
        "Adjusting learning rate of group 0 to 1.0000e-01.\n"
    )
    scheduler.print_lr(True, 0, 0.1, 3)
    assert capsys.readouterr().out == (
        "Epoch     3: adjusting learning rate of group 0 to 1.0000e-01.\n"
    )


def test_a_tensor_prints_as_its_number(capsys):
    """torch 1.7 had no tensor rates."""
    optimizer = torch.optim.SGD(sgd().param_groups[0]["params"], torch.tensor(0.1))
    ours.ExponentialLR(optimizer, 0.5, verbose=True)
    assert capsys.readouterr().out == (
        "Adjusting learning rate of group 0 to 1.0000e-01.\n"
    )
