"""Other libraries take part if they are there, and what they do is compared."""

import warnings

import pytest
import torch

import benchmarks.peers
from benchmarks import encounters
from benchmarks.cases import Case
from benchmarks.contenders import Contender
from benchmarks.peers import PEERS, Peer, loaded
from benchmarks.step import POLYAK
from benchmarks.timing import Times

FEW = Case("few", "Few tensors", 0.0, "µs", ((4,), (2, 3)))
SGD = Contender("SGD", {"momentum": 0.9})


def twin(lr=1e-3, **more):
    return Peer(
        "twin",
        "torch",
        lambda: {
            SGD.name: lambda params: (
                torch.optim.SGD(params, lr=lr, momentum=0.9, **more).step
            )
        },
    )


def meet(*peers):
    there, _ = loaded(peers)
    return [*encounters.encounters(there, 1, [FEW], [SGD], seconds=0.0)]


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(encounters, "SETTLED", 0.0)


def test_the_peers_are_those_that_are_promised():
    names = {peer.distribution for peer in PEERS}

    assert names == {
        "torch", "torch-optimi", "pytorch-optimizer", "bitsandbytes", "torchao",
        "deepspeed",
    }  # fmt: skip
    assert PEERS[0].name == "torch.compile(opt.step)"
    assert PEERS[0].version == torch.__version__
    assert {*loaded()[0]} >= {PEERS[0]}


def test_who_is_not_there_is_left_out_with_the_reason():
    def missing():
        import no_such_library  # noqa: F401

    def broken():
        raise OSError("on purpose\nand more")

    there, absent = loaded([twin(), Peer("a", "a", missing), Peer("b", "b", broken)])
    section = encounters.section([], there, absent)

    assert [peer.name for peer in there] == ["twin"]
    assert f"- twin: torch {torch.__version__}" in section
    assert "- a: left out, not installed, there is no no_such_library" in section
    assert "- b: left out, cannot be imported: OSError('on purpose" in section


def test_what_a_library_prints_and_warns_of_stays_out_of_the_report(capsys):
    def talk():
        print("hello")
        warnings.warn("careful", stacklevel=1)
        return {}

    there, _ = loaded([Peer("talker", "torch", talk)])
    out, err = capsys.readouterr()

    assert len(there) == 1
    assert (out, err) == ("", "hello\n")


@pytest.mark.parametrize("name", ["AdamW", "SGD(momentum=0.9)", "RMSprop", "Adagrad"])
def test_peers_have_the_arguments_of_the_contenders(name):
    """A peer's step is made with torch's defaults, which are polyak's."""
    kind = getattr(torch.optim, name.partition("(")[0])
    arguments = {
        "AdamW": benchmarks.peers.ADAMW,
        "SGD(momentum=0.9)": benchmarks.peers.MOMENTUM,
        "RMSprop": benchmarks.peers.RMSPROP,
        "Adagrad": benchmarks.peers.ADAGRAD,
    }[name]
    (contender,) = (c for c in encounters.OPTIMIZERS if c.name == name)
    defaults = contender.polyak([torch.ones(1)]).defaults
    step = kind([torch.ones(1)], **arguments)

    assert {key: step.defaults[key] for key in arguments} == {
        key: defaults[key] for key in arguments
    }


def test_torch_compile_compiles_the_step(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", compiled.append)
    for make in benchmarks.peers._torch_compile().values():
        make([torch.ones(1)])

    assert [type(step.__self__) for step in compiled] == [
        torch.optim.AdamW,
        torch.optim.SGD,
    ]


def test_a_peer_is_measured_beside_polyak_and_torch():
    (found,) = meet(twin())

    assert [*found.times] == [
        POLYAK, "torch, for-loop", "torch, foreach", "torch, fused", "twin",
    ]  # fmt: skip
    assert found.apart["twin"] == pytest.approx(0, abs=1e-6)
    assert found.failed == {}


def test_a_peer_that_does_something_else_is_told_by_how_far_it_is_apart():
    (found,) = meet(twin(lr=2e-3))

    assert found.apart["twin"] == pytest.approx(1.0)
    assert found.apart["torch, fused"] == pytest.approx(0, abs=1e-6)


def test_a_peer_that_overwrites_gradients_disturbs_nobody():
    def make(params):
        step = torch.optim.SGD(params, lr=1e-3, momentum=0.9).step

        def run():
            step()
            for param in params:
                param.grad.fill_(torch.nan)

        return run

    (found,) = meet(Peer("bad", "torch", lambda: {SGD.name: make}), twin())

    assert found.apart["bad"] == pytest.approx(0, abs=1e-6)
    assert found.apart["twin"] == pytest.approx(0, abs=1e-6)


def test_a_peer_that_fails_is_reported_and_the_others_go_on():
    def refuse(params):
        raise RuntimeError("not on this\nmachine")

    there, absent = loaded([Peer("bad", "torch", lambda: {SGD.name: refuse}), twin()])
    found = [*encounters.encounters(there, 1, [FEW], [SGD], seconds=0.0)]
    section = encounters.section(found, there, absent)

    assert "twin" in found[0].times
    assert "bad" not in found[0].times
    assert (
        "- bad: no SGD(momentum=0.9) on Few tensors: RuntimeError: not on this\n"
        in (section)
    )


def test_an_optimizer_that_no_peer_has_is_not_measured():
    there, _ = loaded([twin()])
    cases, rprop = [FEW], [Contender("Rprop")]

    assert [*encounters.encounters(there, 1, cases, rprop, seconds=0.0)] == []


def test_the_report_has_a_row_for_each():
    taken = {POLYAK: Times((1e-6,)), "twin": Times((3e-6,))}
    found = encounters.Encounter(FEW, SGD, 2, taken, {POLYAK: 0.0, "twin": 0.5}, {})
    section = encounters.section([found], [], {})

    start = "| Few tensors | SGD(momentum=0.9) | 2 |"
    assert f"{start} polyak | µs | 1.00 / 1.00 / 1.00 | 1.00 | – | 1 |" in section
    assert f"{start} twin | µs | 3.00 / 3.00 / 3.00 | 3.00 | 0.500 | 1 |" in section
