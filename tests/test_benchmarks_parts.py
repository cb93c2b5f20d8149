"""Each part of the benchmarks measures what it says: no time is asserted here."""

import os
from math import prod

import pytest
import torch

from benchmarks import (
    matrices,
    neighbour,
    networks,
    one_pass,
    overhead,
    sweep,
    training,
)
from benchmarks.cases import Case, Tensors
from benchmarks.contenders import Contender
from benchmarks.step import POLYAK, Result
from benchmarks.timing import Times

FEW = Case("few", "Few tensors", 0.0, "µs", ((4,), (2, 3), (5,)))
SGD = Contender("SGD", {"momentum": 0.9})


# Matrices


def test_the_matrices_are_those_that_are_promised():
    sizes = {
        optimizer: [(len(case.shapes), case.shapes[0]) for case in cases]
        for optimizer, cases in matrices.MATRICES.items()
    }

    squares = [(400, (64, 64)), (100, (256, 256)), (12, (1024, 1024))]
    assert sizes == {
        "Muon": squares,
        "Adafactor": [
            (200, (64,)),
            *squares,
            (161, (64, 3, 7, 7)),
            (148, (50_257, 768)),
        ],
    }
    assert all(case.plain for case in matrices.MATRICES["Adafactor"])
    assert matrices.MATRICES["Muon"][0].title == "400 x (64, 64)"


@pytest.mark.parametrize(("optimizer", "digits"), [("Muon", 5e-2), ("Adafactor", 1e-5)])
def test_torch_does_the_same_work_on_matrices(optimizer, digits):
    """Muon's iteration is in bfloat16 in torch, and in float32 here."""
    case = Case("", "", 0.0, "ms", ((8, 8), (4, 6), (6, 4)))
    contender, tensors, ends = Contender(optimizer), Tensors(case), []
    for index, make in enumerate([contender.polyak, *contender.torch().values()]):
        params, _ = tensors.side(index)
        step = make(params)
        for _ in range(3):
            step.step()
        ends.append([param.detach() - 0.1 for param in params])

    assert len(ends) == {"Muon": 2, "Adafactor": 3}[optimizer]
    for end in ends[1:]:
        for ours, theirs in zip(ends[0], end, strict=True):
            most = float(ours.abs().max())
            torch.testing.assert_close(theirs, ours, rtol=0, atol=digits * most)


def test_what_takes_torch_minutes_is_left_out(monkeypatch, capsys):
    small, large = (Case("", f"{n}", 0.0, "ms", ((n, n),)) for n in (4, 400))
    monkeypatch.setattr(matrices, "PATIENCE", 1e-9)
    assert [*matrices.fitting([large])] == []
    assert "400: left out" in capsys.readouterr().err
    monkeypatch.setattr(matrices, "PATIENCE", 1e9)
    assert [*matrices.fitting([small, large])] == [small, large]


def test_adafactor_is_compared_with_reading_and_writing():
    square = Case("", "2 x 3", 0.0, "ms", ((2, 3),), plain=True)
    cases = {"Muon": [Case("", "2 x 3", 0.0, "ms", ((2, 3),))], "Adafactor": [square]}
    section = matrices.section(matrices.measured((1,), cases))
    muon, adafactor = section.split("### ")[1:]

    assert muon.startswith("Muon\n\n| parameters |")
    assert "mul_" not in muon
    assert "| polyak / `mul_` | torch / `mul_` |" in adafactor
    assert adafactor.count("\n| 2 x 3 | 1 |") == 1


# A spinning neighbour


def test_the_neighbour_spins_on_one_core_and_goes():
    with neighbour.spinning() as spinner:
        assert os.sched_getaffinity(spinner) == {max(os.sched_getaffinity(0))}
    with pytest.raises(ProcessLookupError):
        os.kill(spinner, 0)


def test_the_neighbour_goes_when_something_fails():
    with pytest.raises(RuntimeError, match="on purpose"), neighbour.spinning() as pid:
        raise RuntimeError("on purpose")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_step_is_measured_with_the_neighbour_and_without(monkeypatch):
    monkeypatch.setattr(neighbour, "SPIN", "pass")
    (found,) = neighbour.disturbed((1,), [FEW], [SGD], seconds=0.0)

    assert found.torch in ("for-loop", "foreach", "fused")
    assert [*found.busy] == [POLYAK, found.torch, neighbour.LOOP]
    assert found.length == found.quiet[POLYAK].median
    assert found.least >= 1
    assert {POLYAK, found.torch} <= set(found.quiet)


def test_the_worst_with_the_neighbour_is_compared_with_the_median_without():
    alone = {"polyak": Times((1.0, 2.0, 9.0)), "fused": Times((4.0,))}
    busy = {"polyak": Times((1.0, 6.0)), "fused": Times((40.0,))}
    busy[neighbour.LOOP] = Times((2.0, 5.0))
    found = neighbour.Disturbed(FEW, SGD, 2, "fused", 2.0, alone, busy)

    assert (found.worst("polyak"), found.worst("fused")) == (3.0, 10.0)
    section = neighbour.section([found])
    assert "| Few tensors | SGD(momentum=0.9) | 2 | polyak | µs |" in section
    assert "| 3.00 | 2.50 | 2 |" in section
    assert "| torch, fused |" in section


# Host overhead


def test_gradients_are_others_before_every_step():
    side = overhead._side(Contender("SGD").polyak, 3)
    (group,) = side.run.__self__.param_groups
    seen = []
    for _ in range(3):
        side.before()
        seen.append([param.grad.data_ptr() for param in group["params"]])

    assert not set(seen[0]) & set(seen[1])
    assert seen[0] == seen[2]


def test_a_fit_finds_the_constant_and_the_cost_of_a_tensor():
    points = {count: 1e-5 + 2.5e-7 * count for count in overhead.COUNTS}

    assert overhead.fit(points) == pytest.approx((1e-5, 2.5e-7))


def test_overhead_is_that_of_every_implementation():
    found = [*overhead.hosts((1, 3), ("SGD",), seconds=0.0)]
    section = overhead.section(found, "![picture]")

    assert [host.count for host in found] == [1, 3]
    assert all(host.torch != POLYAK for host in found)
    for count in (1, 3):
        assert f"| SGD | {count} |" in section
    for side in ("polyak", "torch, for-loop", "torch, foreach", "torch, fused"):
        assert f"| SGD | {side} |" in section
    assert section.endswith("\n\n![picture]")


def test_rates_are_others_before_every_step():
    side = overhead._side(Contender("AdamW").polyak, 2, 3, moves=True)
    groups = side.run.__self__.param_groups
    seen = []
    for _ in range(3):
        side.before()
        side.run()
        seen.append([group["lr"] for group in groups])

    assert [len(group["params"]) for group in groups] == [2, 2, 2]
    assert len({rate for rates in seen for rate in rates}) == 9


def test_changing_rates_have_a_table_of_their_own():
    found = [*overhead.hosts((1, 3), ("SGD",), seconds=0.0)]
    found += overhead.scheduled([(1, 2), (2, 2)], ("SGD",), seconds=0.0)
    section = overhead.section(found)

    assert "| SGD | 2 | 1 |" in section
    assert "| SGD | 4 | 2 |" in section


# A whole step


@pytest.mark.parametrize("contender", one_pass.OPTIMIZERS, ids=lambda c: c.name)
def test_a_whole_step_is_the_same_on_both_sides(contender):
    tensors = Tensors(FEW)
    both = []
    for index, make in enumerate((one_pass.torchs, one_pass.polyaks)):
        params, _ = tensors.side(index)
        step = make(contender, params)
        made = dict(zip(step.__code__.co_freevars, step.__closure__, strict=True))
        both.append((params, step, made))
    (theirs, torchs, cells), (ours, polyaks, own) = both
    scales = iter((1e-2, 1.0, 100.0))
    for scale in scales:
        for params in (theirs, ours):
            for index, param in enumerate(params):
                generator = torch.Generator().manual_seed(index)
                grad = torch.randn(param.shape, generator=generator)
                param.grad = grad * scale * one_pass.SCALE
        torchs()
        polyaks()
        assert all(param.grad is None for param in (*theirs, *ours))
    averages = cells["averages"].cell_contents
    state = own["optimizer"].cell_contents.state
    for param, ours_too, average in zip(theirs, ours, averages, strict=True):
        torch.testing.assert_close(ours_too, param)
        torch.testing.assert_close(state[ours_too]["param_ema"], average)


def test_gradients_are_those_of_a_scaled_loss_before_every_whole_step():
    params, _ = Tensors(FEW).side(0)
    plain = [param.grad.clone() for param in params]
    side = one_pass._side(params, lambda params: lambda: params[0].grad.zero_())
    side.before()

    for param, grad in zip(params, plain, strict=True):
        torch.testing.assert_close(param.grad, grad * one_pass.SCALE)


def test_whole_steps_are_measured():
    found = [*one_pass.measured((1,), [FEW], [SGD], seconds=0.0)]
    section = one_pass.section(found)

    assert "| Few tensors | SGD(momentum=0.9) | 1 | µs |" in section


# Training


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_a_network_trains(name):
    make = Contender("AdamW", {"lr": 1e-2}).polyak
    run = training.Training(networks.NETWORKS[name](), make)
    first = run.step()
    for _ in range(20):
        last = run.step()

    assert len(run.stepped) == 21
    assert last < first
    assert all(p.grad is None for p in run.optimizer.param_groups[0]["params"])


def test_the_gpt_does_not_see_what_comes_after():
    torch.manual_seed(0)
    network = networks.GPT(vocabulary=7, context=5, width=8)
    tokens = torch.randint(7, (1, 5))
    other = tokens.clone()
    other[0, 3:] = (tokens[0, 3:] + 1) % 7

    seen, also = network(tokens), network(other)
    torch.testing.assert_close(seen[:, :3], also[:, :3])
    assert not torch.allclose(seen[:, 3:], also[:, 3:])


def test_all_sides_train_alike():
    losses = []
    for make in training.makers(SGD).values():
        run = training.Training(networks.digits(16), make)
        losses.append(torch.stack([run.step() for _ in range(5)]))

    assert len(losses) == 3
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0])


def test_the_share_is_that_of_the_medians():
    whole = {"polyak": Times((4.0, 8.0)), training.DEFAULT: Times((12.0,))}
    parts = {"polyak": Times((1.0, 2.0)), training.DEFAULT: Times((6.0,))}
    found = training.Trained("net", SGD, 1, whole, parts)
    section = training.section([found, "other: left out"])

    assert found.share("polyak") == 0.25
    assert "| 25.0 % | 1.00 |" in section
    assert "| 50.0 % | 2.00 |" in section
    assert section.endswith("\n\nother: left out")


def test_a_network_that_cannot_be_made_is_left_out():
    def missing():
        raise ModuleNotFoundError("on purpose", name="sklearn")

    assert [*training.trained((1,), {"digits": missing}, seconds=0.0)] == [
        "digits: left out, there is no sklearn"
    ]


def test_training_is_measured_without_its_first_steps():
    def small():
        network = torch.nn.Linear(2, 1)
        return network, lambda: network(torch.ones(3, 2)).square().mean()

    (found,) = training.trained((1,), {"small": small}, [SGD], seconds=0.0)
    repeats = {len(taken.seconds) for taken in found.whole.values()}

    assert [*found.whole] == [training.DEFAULT, training.FUSED, POLYAK]
    assert {len(part.seconds) for part in found.optimizer.values()} == repeats == {5}


# Speed-up by size


def test_lengths_are_swept_with_as_many_tensors_as_fit(monkeypatch):
    asked = []

    def measure(case, contenders, threads, *, scale):
        asked.append((len(case.shapes), *case.shapes[0]))
        return []

    monkeypatch.setattr(sweep, "measure", measure)
    assert [*sweep.swept(2)] == []
    assert asked[0] == (1000, 4)
    assert asked[-1] == (1, 1 << 24)
    assert all(count == 1 or prod((count, n)) <= 1 << 22 for count, n in asked)


def test_the_speed_up_is_shown_by_size_and_optimizer():
    def found(length, name, theirs):
        taken = {POLYAK: Times((1.0,)), "fused": Times((theirs,))}
        case = Case(str(length), f"1 x {length}", 0.0, "µs", ((length,),))
        return Result(case, Contender(name), 2, taken, "fused", 1)

    results = [found(4, "SGD", 3.0), found(4, "Adam", 2.0), found(8, "SGD", 1.5)]
    section = sweep.section(results, "![picture]")

    assert "by tensor size, 2 threads (minima)" in section
    assert "| tensors | SGD | Adam |" in section
    assert "| 1 x 4 | 3.00 | 2.00 |\n| 1 x 8 | 1.50 | – |" in section
    assert section.endswith("\n\n![picture]")
