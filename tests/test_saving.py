"""polyak.save and polyak.load: a run comes back from its file bit for bit."""

import collections
import pickle
import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import polyak
from polyak import saving
from tests.contract.comparison import assert_same, assert_same_training
from tests.contract.harness import (
    copies,
    every_optimizer,
    make,
    ours,
    parameters,
    params_of,
    train,
)
from tests.lr_scheduler.harness import driven, every_case, start


@pytest.fixture(autouse=True)
def _own_numbers():
    """The random states of the process stay as they were before the test."""
    before = saving._RandomState().state_dict()
    yield
    saving._RandomState().load_state_dict(before)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.pt"


def names(folder):
    return sorted(entry.name for entry in Path(folder).iterdir())


# A run that is continued


def polyaks_own(model):
    optimizer = polyak.AdamW(model.parameters(), lr=0.1, amsgrad=True, ema_decay=0.9)
    schedule = polyak.schedules.warmup(3) | polyak.schedules.cosine(9)
    return {
        "optimizer": optimizer,
        "scheduler": polyak.Scheduler(optimizer, lr=schedule, weight_decay=schedule),
        "average": polyak.swa_utils.WeightAverage(model, decay=0.9),
    }


def polyaks_drop_ins(model):
    optimizer = polyak.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    members = [
        polyak.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3),
        polyak.lr_scheduler.MultiStepLR(optimizer, [2, 4]),
    ]
    return {
        "scheduler": polyak.lr_scheduler.SequentialLR(optimizer, members, [3]),
        "optimizer": optimizer,
        "average": polyak.swa_utils.AveragedModel(model, use_buffers=True),
    }


def latest_averages(model):
    optimizer = polyak.RAdam(model.named_parameters(), lr=0.1)
    return {
        "optimizer": optimizer,
        "scheduler": polyak.lr_scheduler.LambdaLR(optimizer, lambda k: 0.8**k),
        "average": polyak.swa_utils.LatestWeightAverage(model, k=3),
    }


def torchs(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return {
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 20),
        "average": torch.optim.swa_utils.AveragedModel(model),
    }


class Run:
    """Training with a dropout, and with numbers of every random generator."""

    def __init__(self, build, seed):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        self.model = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1)
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.parts = {
            **build(self.model),
            "model": self.model,
            "generator": self.generator,
        }

    def train(self, steps):
        """What is seen in each step."""
        seen = []
        for _ in range(steps):
            inputs = torch.randn(8, 4, generator=self.generator)
            inputs[:, 0] += np.random.rand() + random.gauss(0, 1)  # noqa: NPY002
            loss = self.model(inputs).square().mean()
            self.parts["optimizer"].zero_grad()
            loss.backward()
            self.parts["optimizer"].step()
            self.parts["scheduler"].step()
            average = self.parts["average"]
            getattr(average, "update", getattr(average, "update_parameters", None))(
                self.model
            )
            seen.append((loss.item(), driven(self.parts["optimizer"])))
        return seen

    def states(self):
        return {
            name: part.get_state() if part is self.generator else part.state_dict()
            for name, part in self.parts.items()
        }


BUILDS = [polyaks_own, polyaks_drop_ins, latest_averages, torchs]


@pytest.mark.parametrize("build", BUILDS)
def test_a_run_is_continued_bit_for_bit(build, path):
    first = Run(build, seed=0)
    first.train(4)
    polyak.save(path, **first.parts, epoch=4, losses=[0.5, 0.25])
    expected = first.train(4)

    again = Run(build, seed=1)
    rest = polyak.load(path, **again.parts)

    assert rest == {"epoch": 4, "losses": [0.5, 0.25]}
    assert again.train(4) == expected
    assert_same(again.states(), first.states())


def test_a_file_holds_the_moment_of_the_save(path):
    run = Run(polyaks_own, seed=0)
    run.train(2)
    polyak.save(path, **run.parts)
    expected = pickle.loads(pickle.dumps(run.states()))
    run.train(2)

    polyak.load(path, **run.parts)

    assert_same(run.states(), expected)


@every_optimizer
def test_every_optimizer_comes_back(name, path):
    source = make(ours(name), parameters(name), {})
    train(name, source, params_of(source), range(3))
    polyak.save(path, optimizer=source)

    other = make(ours(name), copies(source), {})
    polyak.load(path, optimizer=other)

    assert_same_training(other, source)


@every_case
def test_every_scheduler_comes_back(label, path):
    source = start(label).steps(5)
    polyak.save(path, scheduler=source.scheduler, optimizer=source.optimizer)

    other = start(label)
    other.epoch = source.epoch
    polyak.load(path, scheduler=other.scheduler, optimizer=other.optimizer)

    assert other.trace(5) == source.trace(5)


def test_a_disabled_scaler_and_torchs_are_parts_like_others(path):
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    polyak.save(path, scaler=scaler, off=torch.amp.GradScaler("cpu", enabled=False))

    other = torch.amp.GradScaler("cpu")
    polyak.load(path, scaler=other)

    assert other.get_scale() == 8.0


# The random state


def numbers():
    return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002


def test_the_random_state_is_restored_where_objects_are(path):
    model = nn.Linear(1, 1)
    polyak.save(path, model=model)
    expected = numbers()

    polyak.load(path, model=model)

    assert numbers() == expected


@pytest.mark.parametrize("given", [{"rng": False, "model": nn.Linear(1, 1)}, {}])
def test_the_random_state_is_left_alone(given, path):
    polyak.save(path, model=nn.Linear(1, 1))
    numbers()
    before = saving._RandomState().state_dict()

    polyak.load(path, **given)

    assert_same(saving._RandomState().state_dict(), before)


def test_the_random_state_alone(path):
    polyak.save(path)
    expected = numbers()

    assert polyak.load(path, rng=True) == {}
    assert numbers() == expected


def test_the_half_of_a_pair_of_normal_numbers_is_kept(path):
    random.gauss(0, 1)
    np.random.standard_normal()  # noqa: NPY002
    polyak.save(path)
    expected = random.gauss(0, 1), np.random.standard_normal()  # noqa: NPY002

    polyak.load(path, rng=True)

    assert (random.gauss(0, 1), np.random.standard_normal()) == expected  # noqa: NPY002


def test_a_file_without_random_state(path):
    model = nn.Linear(1, 1)
    polyak.save(path, rng=False, model=model)
    before = saving._RandomState().state_dict()

    polyak.load(path, model=model)

    assert_same(saving._RandomState().state_dict(), before)
    with pytest.raises(ValueError, match=r"run.pt has no 'rng'. It has model"):
        polyak.load(path, model=model, rng=True)


# Plain data

ORDERED = collections.OrderedDict(b=1, a=2)
PLAIN = {
    "none": None,
    "numbers": [True, -1, 0.1, 1e400, 2j, 2**2038],
    "strings": ["", "ünï", "\ud800", b"\x00\xff", bytearray(b"ab")],
    "nested": {"a": [(1, [2]), {}, ()], 3: {None: 1}, (1, 2): set()},
    "set": {1, "a", (2, 3)},
    "ordered": ORDERED,
    "counter": collections.Counter("aab"),
    "torchs": [torch.Size([2, 3]), torch.device("cpu"), torch.bfloat16, torch.strided],
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_data_comes_back(name, path):
    polyak.save(path, data=PLAIN[name])

    loaded = polyak.load(path)["data"]

    assert loaded == PLAIN[name]
    assert type(loaded) is type(PLAIN[name])


TENSORS = {
    "double": torch.randn(2, 3, dtype=torch.float64),
    "bfloat16": torch.randn(3).bfloat16(),
    "float8": torch.randn(3).to(torch.float8_e5m2),
    "uint16": torch.arange(3).to(torch.uint16),
    "bool": torch.tensor(True),
    "empty": torch.empty(0, 3),
    "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
    "transposed": torch.randn(2, 3).t(),
    "sparse": torch.eye(3).to_sparse(),
    "parameter": nn.Parameter(torch.randn(3)),
    "result": nn.Parameter(torch.randn(3)) * 2,
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_come_back_detached(name, path):
    tensor = TENSORS[name]
    polyak.save(path, tensor=tensor)

    loaded = polyak.load(path)["tensor"]

    assert type(loaded) is torch.Tensor
    assert loaded.dtype == tensor.dtype
    assert loaded.is_sparse or loaded.stride() == tensor.stride()
    assert not loaded.requires_grad
    dense = tensor.detach().to_dense()
    assert torch.equal(
        loaded.to_dense().to(torch.complex128), dense.to(torch.complex128)
    )


def test_tied_tensors_stay_tied(path):
    weight = torch.zeros(3)
    polyak.save(path, data=[weight, weight[1:]])

    whole, part = polyak.load(path)["data"]
    part.fill_(1)

    assert whole.tolist() == [0, 1, 1]


def test_numpys_scalars_become_pythons(path):
    scalars = [np.float32(0.5), np.int64(3), np.bool_(True), np.str_("a")]
    polyak.save(path, data={np.int64(1): scalars})

    loaded = polyak.load(path)["data"]

    assert loaded == {1: [0.5, 3, True, "a"]}
    kinds = [type(value) for value in (*loaded, *loaded[1])]
    assert kinds == [int, float, int, bool, str]


def test_what_others_have_attached_to_a_tensor_is_left_out(path):
    weight = nn.Parameter(torch.ones(2))
    weight.owner = lambda: None
    polyak.save(path, weight=weight)

    assert polyak.load(path)["weight"].tolist() == [1, 1]


def test_the_versions_in_the_state_of_a_module_are_kept(path):
    model = nn.Sequential(nn.BatchNorm1d(2))
    polyak.save(path, model=model)

    loaded = polyak.load(path)["model"]

    assert loaded._metadata == model.state_dict()._metadata
    assert loaded._metadata["0"] == {"version": 2}


def test_torch_load_reads_the_file(path):
    polyak.save(path, epoch=3, weight=torch.ones(2))

    content = torch.load(path)

    assert content["polyak"] == polyak.__version__
    assert content["torch"] == torch.__version__
    assert content["parts"]["epoch"] == 3
    assert content["parts"]["weight"].tolist() == [1, 1]


def test_tensors_go_where_they_are_mapped_to(path):
    polyak.save(path, weight=torch.ones(2))
    model = nn.Linear(1, 1)
    polyak.save(path, weight=torch.ones(2), model=model)

    rest = polyak.load(path, map_location="meta", rng=False)

    assert rest["weight"].is_meta
    assert rest["model"]["weight"].is_meta


class Part(nn.Module):
    """Its state is whatever it is given."""

    def __init__(self, state):
        super().__init__()
        self.state = state

    def get_extra_state(self):
        return self.state


Point = collections.namedtuple("Point", "x y")
REFUSED = {
    "function": ({"f": [len]}, r"data\['f'\]\[0\] is a builtins.builtin_function_or_"),
    "array": ([np.zeros(2)], r"data\[0\] is a numpy.ndarray.*torch.from_numpy"),
    "date": (np.datetime64("2026-01-01"), r"data is a datetime.date"),
    "long double": (np.longdouble(1), r"data is a numpy.longdouble"),
    "fraction": ((Fraction(1, 2),), r"data\[0\] is a fractions.Fraction"),
    "path": (Path("a"), r"data is a pathlib"),
    "named tuple": (Point(1, 2), r"data is a tests.test_saving.Point"),
    "default dict": (collections.defaultdict(list), r"data is a collections.defaultdi"),
    "frozen set": ({1: frozenset()}, r"data\[1\] is a builtins.frozenset"),
    "key": ({frozenset(): 1}, r"data, a key, is a builtins.frozenset"),
    "member": ({range(3)}, r"data, a member, is a builtins.range"),
    "module": ([nn.Linear(1, 1)], r"data\[0\] is a .*Linear.* part of its own"),
    "subclass": (nn.UninitializedParameter(), r"data is a torch.*UninitializedParam"),
    "in a state": (Part(state=len), r"data\['_extra_state'\] is a builtins.builtin"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_not_be_loaded_is_refused_before_the_disk_is_touched(name, path):
    value, message = REFUSED[name]
    with pytest.raises(TypeError, match=message + r".* Nothing was saved"):
        polyak.save(path, model=nn.Linear(1, 1), data=value)
    assert names(path.parent) == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_torch_could_not_load(name, path):
    """Else polyak would be stricter than it must be."""
    value, _ = REFUSED[name]
    torch.save(value, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_data_that_contains_itself(path):
    data = []
    data.append(data)
    with pytest.raises(ValueError, match="data is nested too deeply, or contains its"):
        polyak.save(path, data=data)
    assert names(path.parent) == []


def test_integers_that_torch_cannot_read(path):
    with pytest.raises(ValueError, match=r"data\[0\] has more than 2039 bits"):
        polyak.save(path, data=[2**2039])
    polyak.save(path, data=[-(2**2039) + 1])
    assert polyak.load(path) == {"data": [-(2**2039) + 1]}


# Objects that refuse


def test_if_one_part_refuses_all_get_their_state_back(path):
    saved = Run(polyaks_own, seed=0)
    saved.train(3)
    polyak.save(path, **saved.parts, other=nn.Linear(4, 2))

    run = Run(polyaks_own, seed=1)
    run.train(2)
    states = pickle.loads(pickle.dumps(run.states()))
    other = nn.Linear(3, 2)
    before = saving._RandomState().state_dict()
    with pytest.raises(
        RuntimeError,
        match=r"(?s)'other' refused its state of .*run\.pt \(by polyak 0.*, torch 2.*\)"
        r", and nothing was loaded: .*size mismatch for weight",
    ):
        polyak.load(path, **run.parts, other=other)

    assert_same(run.states(), states)
    assert_same(saving._RandomState().state_dict(), before)


def test_a_module_that_was_loaded_in_part_is_given_its_state_back(path):
    polyak.save(path, model=nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]))
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(3, 2)])
    before = pickle.loads(pickle.dumps(model.state_dict()))

    with pytest.raises(RuntimeError, match="'model' refused its state"):
        polyak.load(path, model=model)

    assert_same(model.state_dict(), before)


def test_the_rates_that_a_scheduler_has_loaded_are_taken_back(path):
    def parts():
        optimizer = polyak.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
        return polyak.lr_scheduler.StepLR(optimizer, 1), optimizer

    scheduler, optimizer = parts()
    optimizer.step()
    scheduler.step()
    polyak.save(path, scheduler=scheduler, model=nn.Linear(1, 1))
    scheduler, optimizer = parts()

    with pytest.raises(RuntimeError, match="'model' refused its state"):
        polyak.load(path, scheduler=scheduler, model=nn.Linear(2, 1))

    assert optimizer.param_groups[0]["lr"] == 0.1
    assert scheduler.last_epoch == 0


def test_a_part_that_the_file_does_not_have(path):
    model = nn.Linear(1, 1)
    polyak.save(path, model=model, optimizer=polyak.SGD(model.parameters(), lr=0.1))
    with pytest.raises(
        ValueError,
        match=r"no 'optimiser'. Did you mean 'optimizer'\? It has model, optimizer, r",
    ):
        polyak.load(path, optimiser=nn.Linear(1, 1))


@pytest.mark.parametrize("value", [3, torch.ones(2), None])
def test_plain_data_cannot_be_loaded_into(value, path):
    polyak.save(path, epoch=3)
    with pytest.raises(TypeError, match=r"'epoch' is a .*, which has no load_state_di"):
        polyak.load(path, epoch=value)
