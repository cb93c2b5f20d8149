"""Any scheduler, polyak's or torch's, drives any optimizer, and sits in any other."""

import pytest
import torch

import polyak
from tests.contract.harness import (
    advance,
    every_optimizer,
    make,
    ours,
    parameters,
    params_of,
    takes,
)
from tests.lr_scheduler.cases import CASES
from tests.lr_scheduler.harness import (
    DIFFERENT,
    Run,
    assert_close,
    runs,
    start,
)
from tests.lr_scheduler.nodes import COMPOSITES, METRICS, OURS, SETUPS, STEPS, TORCHS


@runs(lambda case: True, DIFFERENT)
def test_ours_drive_our_optimizers(label, setup):
    """To the bits that they have on torch's."""
    on_ours, on_torchs = (
        start(label, setup, optimizers=library).trace()
        for library in (polyak, torch.optim)
    )
    assert on_ours == on_torchs


@runs(lambda case: not case.not_torchs, DIFFERENT)
def test_torchs_drive_our_optimizers(label, setup):
    """To the bits that they have on torch's."""
    on_ours, on_torchs = (
        start(label, setup, TORCHS, library).trace()
        for library in (polyak, torch.optim)
    )
    assert on_ours == on_torchs


ON_EVERY_OPTIMIZER = ("one_cycle", "nested_last", "nested_plateau", "cosine")


@every_optimizer
def test_every_optimizer_of_ours(name):
    """Rates and momenta as on torch's SGD or Adam, while it trains."""
    for label in ON_EVERY_OPTIMIZER:
        arguments = {"lr": 0.1} if takes(name, "lr") else {}
        optimizer = make(ours(name), parameters(name, ["vector"]), arguments)
        optimizer.param_groups[0]["lr"] = 0.1
        node = CASES[label].node
        more = {}
        if label == "one_cycle" and not {"momentum", "betas"} & set(optimizer.defaults):
            more["cycle_momentum"] = False
        scheduler = node.build(optimizer, **more)
        seen = [float(optimizer.param_groups[0]["lr"])]
        for step in range(4):
            advance(name, optimizer, params_of(optimizer), step)
            scheduler.step(*METRICS[step : step + CASES[label].metrics])
            seen.append(float(optimizer.param_groups[0]["lr"]))
        expected = start(label).trace(4)
        assert seen == [step["groups"][0]["lr"] for step in expected], label


@runs(lambda case: case.node.name in COMPOSITES and not case.not_torchs)
def test_torchs_compositions_take_our_schedulers(label, setup):
    """As children of torch's SequentialLR and ChainedScheduler."""
    mixed = start(label, setup, TORCHS, inner=OURS).trace()
    expected = start(label, setup, TORCHS).trace()
    rel = 1e-6 if setup == "tensor" else 1e-12
    assert_close(mixed, expected, rel, label)


# Torch's own compositions inside of ours keep torch's faults; its leaves do not.
@runs(
    lambda case: (
        case.node.name in COMPOSITES
        and not any(child.children for child in case.node.children)
    )
)
def test_our_compositions_take_torchs_schedulers(label, setup):
    """As children: the values are those that polyak's own children give."""
    mixed = start(label, setup, inner=TORCHS).trace()
    expected = start(label, setup).trace()
    rel = 1e-6 if setup == "tensor" else 1e-12
    assert_close(mixed, expected, rel, label)


def test_a_mixed_composition_resumes():
    """Some children torch's, some polyak's; the optimizer loaded first."""

    def build(optimizer):
        parts = [
            TORCHS["LinearLR"](optimizer, start_factor=0.1, total_iters=4),
            OURS["ExponentialLR"](optimizer, gamma=0.9),
            TORCHS["StepLR"](optimizer, step_size=2, gamma=0.5),
        ]
        return Run(optimizer, OURS["SequentialLR"](optimizer, parts, [4, 8]))

    whole = build(SETUPS["groups"]()).trace()
    for epoch in range(STEPS):
        old = build(SETUPS["groups"]()).steps(epoch)
        optimizer = SETUPS["groups"]()
        optimizer.load_state_dict(old.optimizer.state_dict())
        new = build(optimizer)
        new.scheduler.load_state_dict(old.scheduler.state_dict())
        assert_close(new.trace(STEPS - epoch), whole[epoch:], 1e-12, f"from {epoch}")


@pytest.mark.parametrize("library", [OURS, TORCHS], ids=["ours", "torchs"])
def test_a_scheduler_of_the_other_library_beside_it(library):
    """Stepped separately, on one optimizer: the product, within rounding."""
    other = TORCHS if library is OURS else OURS
    optimizer = SETUPS["groups"]()
    first = library["StepLR"](optimizer, 3, 0.5)
    second = other["ExponentialLR"](optimizer, 0.9)
    for epoch in range(STEPS):
        due = [lr * 0.5 ** (epoch // 3) * 0.9**epoch for lr in (0.1, 0.02, 0.5)]
        actual = [group["lr"] for group in optimizer.param_groups]
        assert actual == pytest.approx(due, rel=1e-12, abs=0)
        optimizer.step()
        first.step()
        second.step()
