"""The benchmarks measure what they say, at tiny sizes: no time is asserted here."""

from dataclasses import replace
from math import prod

import pytest
import torch

from benchmarks import (
    fresh,
    machine,
    markdown,
    step,
    step_tables,
    team,
    timing,
)
from benchmarks.cases import CASES, LARGE, Case, Tensors
from benchmarks.contenders import Contender, contenders, torch_implementations
from benchmarks.shapes import gpt2_small, resnet50
from benchmarks.step import BANDWIDTH, ONE_GROUP, PLAIN, POLYAK, measure
from benchmarks.timing import Side, Times, fastest, interleave, quiet
from polyak.engine import team as engine_team
from polyak.optimizers import all_optimizers

PLAIN_CASE = Case("plain", "Three tensors", 0.0, "µs", ((4,), (2, 3), (5,)))
GROUPS = Case("groups", "Three groups", 0.0, "µs", ((4,),) * 3, groups=True)
NETWORK = Case("network", "Two layers", 0.0, "µs", layers=2)
LONG = Case("long", "One tensor", 0.0, "ms", ((1000,),), bandwidth=True)


# Cases


def test_resnet50_has_the_published_size():
    shapes = resnet50()

    assert len(shapes) == 161
    assert sum(map(prod, shapes)) == 25_557_032
    assert shapes[0] == (64, 3, 7, 7)
    assert shapes[-2:] == ((1000, 2048), (1000,))


def test_gpt2_small_has_the_published_size():
    shapes = gpt2_small()

    assert len(shapes) == 148
    assert sum(map(prod, shapes)) == 124_439_808
    assert shapes[:2] == ((50_257, 768), (1024, 768))
    assert shapes[-2:] == ((768,), (768,))


def test_the_cases_are_those_that_are_promised():
    sizes = {
        name: (len(case.shapes), sum(map(prod, case.shapes)))
        for name, case in CASES.items()
        if case.shapes
    }
    low = {name for name, case in CASES.items() if case.dtype == torch.bfloat16}

    assert {name: size for name, size in sizes.items() if name not in low} == {
        "small": (200, 200 * 64),
        "tiny": (1000, 1000 * 16),
        "medium": (1000, 1000 * 1024),
        "wide": (100, 100 * 65_536),
        "large": (1, LARGE),
        "resnet50": (161, 25_557_032),
        "groups": (1000, 1000 * 64),
        "missing": (1000, 1000 * 64),
        "many": (5000, 5000 * 64),
        "gpt2": (148, 124_439_808),
    }
    assert CASES["backward"].layers == 200
    assert low == {"medium-bf16", "wide-bf16", "large-bf16", "resnet50-bf16"}
    for name in low:
        same = CASES[name.removesuffix("-bf16")]
        assert CASES[name].shapes == same.shapes
        assert CASES[name].nbytes == same.nbytes / 2
        assert CASES[name].title == f"{same.title}, bfloat16"


def test_some_cases_are_measured_with_some_optimizers():
    assert {case.optimizers for case in CASES.values()} == {
        (),
        ("SGD", "AdamW", "RMSprop"),
    }
    contenders(CASES["gpt2"].optimizers)


def test_sides_have_tensors_of_their_own_that_start_alike():
    tensors = Tensors(PLAIN_CASE)
    first, before = tensors.side(0)
    with torch.no_grad():
        first[0].fill_(7)
    second, _ = tensors.side(1)
    again, _ = tensors.side(0)

    assert before is None
    assert [tuple(param.shape) for param in first] == [*PLAIN_CASE.shapes]
    for a, b in zip(again, second, strict=True):
        assert a.data_ptr() != b.data_ptr()
        assert torch.equal(a, b)
        assert torch.equal(a.grad, b.grad)
    assert again[0] is first[0]


def test_parameters_and_gradients_are_of_the_dtype_of_the_case():
    case = Case("low", "Low", 0.0, "µs", ((4,), (2, 3)), dtype=torch.bfloat16)
    params, _ = Tensors(case).side(0)

    assert {param.dtype for param in params} == {torch.bfloat16}
    assert {param.grad.dtype for param in params} == {torch.bfloat16}


def test_a_network_makes_its_gradients_anew():
    params, before = Tensors(NETWORK).side(0)
    old = [param.grad for param in params]
    before()

    assert len(params) == 4
    for param, grad in zip(params, old, strict=True):
        assert param.grad is not grad
        assert torch.equal(param.grad, grad)
        assert param.grad.abs().max() > 0


def test_a_tenth_of_the_gradients_is_missing():
    params, before = Tensors(CASES["missing"]).side(0)
    seen = []
    for _ in range(20):
        before()
        seen.append([param.grad is None for param in params])
    share = sum(map(sum, seen)) / (20 * len(params))

    assert share == pytest.approx(0.1, abs=0.01)
    assert all(seen[0] != others for others in seen[1:])


def test_gradients_pass_through_the_whole_network():
    params, _ = Tensors(CASES["backward"]).side(0)

    assert len(params) == 400
    for param in params:
        assert param.grad.isfinite().all()
        assert param.grad.abs().max() > torch.finfo(torch.float32).tiny


# Contenders


def test_every_optimizer_with_a_dense_kernel_is_measured():
    names = {contender.optimizer for contender in contenders()}

    assert names >= {"Adadelta", "Adagrad", "Adam", "AdamW", "RMSprop", "Rprop", "SGD"}
    assert names <= set(all_optimizers())
    assert not names & {"LBFGS", "SparseAdam"}


def test_contenders_go_by_name():
    assert [c.name for c in contenders(("sgd", "AdamW"))] == [
        "SGD",
        "SGD(momentum=0.9)",
        "AdamW",
    ]
    with pytest.raises(ValueError, match="there is no 'Adma' among Adadelta"):
        contenders(("Adma",))


def test_torch_is_measured_in_every_implementation_that_it_has():
    assert [*torch_implementations("AdamW")] == ["for-loop", "foreach", "fused"]
    assert [*torch_implementations("RMSprop")] == ["for-loop", "foreach"]
    assert [*torch_implementations("Adafactor")] == ["for-loop", "foreach"]
    assert [*torch_implementations("Muon")] == ["torch"]
    assert torch_implementations("NoSuchThing") == {}


@pytest.mark.parametrize("name", ["for-loop", "foreach", "fused"])
def test_torch_gets_the_arguments(name):
    contender = Contender("SGD", {"momentum": 0.5})
    optimizer = contender.torch()[name]([torch.zeros(1, requires_grad=True)])

    assert type(optimizer) is torch.optim.SGD
    assert optimizer.defaults["momentum"] == 0.5
    assert bool(optimizer.defaults["fused"]) == (name == "fused")
    assert bool(optimizer.defaults["foreach"]) == (name == "foreach")


# Timing


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def __call__(self):
        return self.now

    def side(self, name, seconds, before=0.0):
        def work():
            self.log.append(name)
            self.now += seconds

        def prepare():
            self.now += before

        return Side(work, prepare)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing, "perf_counter", clock)
    return clock


def test_sides_take_turns(clock):
    sides = {"a": clock.side("a", 1.0), "b": clock.side("b", 2.0)}
    found = interleave(sides, 9.0, least=2)

    assert "".join(clock.log) == "abbaab"
    assert found["a"].seconds == (1.0, 1.0, 1.0)
    assert found["b"].seconds == (2.0, 2.0, 2.0)


def test_there_are_at_least_so_many_rounds(clock):
    assert len(interleave({"a": clock.side("a", 1.0)}, 0.0)["a"].seconds) == 5


def test_preparation_is_not_timed_but_spends_the_time(clock):
    found = interleave({"a": clock.side("a", 1.0, before=9.0)}, 20.0, least=1)

    assert found["a"].seconds == (1.0, 1.0)


def test_a_slow_rival_leaves_after_its_trial(clock):
    sides = {
        "polyak": clock.side("p", 8.0),
        "fast": clock.side("f", 1.0),
        "near": clock.side("n", 1.5),
        "slow": clock.side("s", 1.6),
    }
    found = interleave(sides, 60.0, rivals=("fast", "near", "slow"))
    rounds = {name: len(times.seconds) for name, times in found.items()}

    assert rounds["slow"] == 2
    assert rounds["polyak"] == rounds["fast"] == rounds["near"] == 6
    assert fastest(found, ("near", "slow")) == "near"


def test_statistics():
    times = Times(tuple(float(n) for n in range(200, 0, -1)))

    assert (times.minimum, times.median, times.p99) == (1, 100.5, 198)
    assert Times((3.0, 1.0)).p99 == 3


def test_quiet_puts_everything_back():
    import gc

    threads = torch.get_num_threads()
    with quiet(2):
        assert torch.get_num_threads() == 2
        assert not gc.isenabled()
    assert torch.get_num_threads() == threads
    assert gc.isenabled()


# The parts


def test_a_step_is_measured_on_all_sides():
    (result,) = measure(PLAIN_CASE, [Contender("AdamW")], (1,))

    assert [*result.times] == [POLYAK, "for-loop", "foreach", "fused"]
    assert result.torch in ("for-loop", "foreach", "fused")
    ours, theirs = result.times[POLYAK], result.times[result.torch]
    assert result.ratio() == theirs.minimum / ours.minimum
    assert result.ratio("median") == theirs.median / ours.median
    assert result.traffic == 15 * 28


def test_all_sides_do_the_same_steps():
    contender, tensors = Contender("AdamW"), Tensors(PLAIN_CASE)
    ends = []
    for index, make in enumerate([contender.polyak, *contender.torch().values()]):
        params, _ = tensors.side(index)
        optimizer = make(params)
        for _ in range(3):
            optimizer.step()
        ends.append([param.detach().clone() for param in params])

    for end in ends[1:]:
        for ours, theirs in zip(ends[0], end, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_groups_are_compared_with_one_group_and_memory_with_a_plain_pass():
    (groups,) = measure(GROUPS, [Contender("SGD")], (1,))
    (long,) = measure(LONG, [Contender("SGD", {"momentum": 0.9})], (1,))

    assert ONE_GROUP in groups.times
    assert BANDWIDTH in long.times
    assert long.traffic == 1000 * 20


def test_the_bandwidth_is_that_of_moving_as_many_bytes():
    low = Case(
        "", "Two", 0.0, "ms", ((600,), (400,)), dtype=torch.bfloat16, bandwidth=True
    )
    (found,) = measure(low, [Contender("AdamW")], (1,))
    seconds = dict.fromkeys(found.times, Times((4e-6,)))
    seconds |= {POLYAK: Times((2e-6,)), BANDWIDTH: Times((1e-6,))}
    found = replace(found, times=seconds)

    assert found.traffic == 1000 * 14
    assert "| Two | AdamW | 1 | 14.0 | 14.0 | 7.00 | 0.50 | 0.25 | 2.00 | 4.00 |" in (
        step_tables.bandwidth_section([found])
    )


def test_plain_passes_are_over_what_a_step_moves_or_works_on(monkeypatch):
    """Adafactor has a number for each row and column of a matrix."""
    made = []
    monkeypatch.setattr(
        step, "_in_place", lambda nbytes: made.append(nbytes) or Side(lambda: None)
    )
    case = Case("", "", 0.0, "ms", ((3, 4), (5,)), bandwidth=True, plain=True)
    (found,) = measure(case, [Contender("Adafactor")], (1,))

    numbers, state = 12 + 5, 3 + 4 + 5
    assert {BANDWIDTH, PLAIN} <= found.times.keys()
    assert made == [4 * (3 * numbers + 2 * state) / 2, 4 * (2 * numbers + state)]


def test_a_network_is_measured_with_two_numbers_of_threads():
    results = [*measure(NETWORK, [Contender("RMSprop")], (1, 2))]

    assert [result.threads for result in results] == [1, 2]


def test_an_optimizer_that_torch_lacks_has_no_ratio(monkeypatch):
    monkeypatch.setattr(Contender, "torch", lambda self: {})
    (result,) = measure(PLAIN_CASE, [Contender("SGD")], (1,))

    assert result.torch is None
    assert result.ratio() is None
    assert "| SGD | – |" in step_tables.glance_section([result])
    assert "| SGD | 1 | – | – | " in step_tables.step_section([result])


def test_team_and_single_thread_take_turns_and_the_thresholds_come_back():
    before = engine_team.SERIAL_BYTES, engine_team.GRAIN_BYTES
    sizes = [*team.sizes(2, (1 << 17,), seconds=0.0)]
    grains = [*team.grains(2, (1 << 16, 1 << 18), seconds=0.0)]

    assert [(size.optimizer, size.traffic) for size in sizes] == [
        ("SGD", 3 * 4096 * 12),
        ("AdamW", 1 * 4096 * 28),
    ]
    assert [grain.grain for grain in grains] == [1 << 16, 1 << 18] * 2
    assert before == (engine_team.SERIAL_BYTES, engine_team.GRAIN_BYTES)
    assert "| SGD | 144 | " in team.section(2, sizes, grains)


def test_memory_is_that_of_a_step_in_a_process_of_its_own(monkeypatch):
    monkeypatch.setattr(fresh, "torch_implementations", lambda name: ["for-loop"])
    numel = 1 << 23
    ours, loop = fresh.memory(("AdamW",), numel)

    assert (ours.implementation, loop.implementation) == ("polyak", "for-loop")
    assert ours.state == loop.state == 8 * numel + 4
    assert ours.extra < numel
    assert loop.extra >= 7 * numel


def test_first_steps_and_imports(tmp_path):
    first = fresh.probe(
        "first", "polyak", "SGD", "", environment={"POLYAK_CACHE_DIR": str(tmp_path)}
    )
    assert set(first) == {"made", "first", "third"}
    assert [*tmp_path.iterdir()]
    assert min(fresh.imports(1).values()) > 0


def test_free_memory_is_that_of_the_machine():
    assert machine.free_memory() > 1 << 20


# The report


def test_numbers_have_three_digits():
    values = (0, 0.01234, 0.5, 1.234, 99.96, 100.4, 1234.5)
    shown = ["0", "0.0123", "0.500", "1.23", "100", "100", "1234"]

    assert [markdown.number(value) for value in values] == shown


def test_rewriting_keeps_what_people_wrote(tmp_path):
    path = tmp_path / "results.md"
    path.write_text(f"before\n{markdown.BEGIN}\nold\n{markdown.END}\nafter\n")
    markdown.rewrite(path, "new")

    assert path.read_text() == (
        f"before\n{markdown.BEGIN}\n\nnew\n\n{markdown.END}\nafter\n"
    )
