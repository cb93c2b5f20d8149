"""docs/engine.md shows what the code generates."""

import re
from pathlib import Path

import torch

import polyak
from polyak.engine.reading import Situation, read
from polyak.engine.survey import Hyperparameters
from polyak.engine.triton import devices

PAGE = (Path(__file__).parents[2] / "docs/engine.md").read_text()


def rmsprop():
    return polyak.RMSprop([torch.zeros(3, requires_grad=True)])


def test_the_rule_is_the_optimizers():
    source = Path(polyak.RMSprop.__module__.replace(".", "/")).with_suffix(".py")
    text = (Path(__file__).parents[2] / source).read_text()
    for line in re.search(r"def rule\(.*?\n```", PAGE, re.S)[0].splitlines()[:-1]:
        assert line.strip() in text


def test_the_scalar_program_is_the_generated_one():
    optimizer = rmsprop()
    known, schema = Hyperparameters.of(optimizer), optimizer.schema
    present = schema.present(optimizer.param_groups[0])
    situation = Situation(present, False, known.skeletons[0])
    inputs = schema.inputs(known.numbers[0], ())
    assert read(schema, situation, inputs)[0].program.source in PAGE


def test_the_two_kernels_are_the_generated_ones(monkeypatch):
    (kernel,) = polyak.explain(rmsprop()).kernels
    update, frame = kernel.source.split("\n\n\n")[1:]
    assert update in PAGE
    assert frame.partition("    # in which memory")[0] in PAGE
    monkeypatch.setitem(devices.KERNELS, "cpu", "cpu")
    (kernel,) = polyak.explain(rmsprop()).kernels
    assert kernel.listing in PAGE


def test_the_place_of_a_chunk_is_the_generated_one():
    (kernel,) = polyak.explain(polyak.Muon([torch.zeros(2, 3)])).kernels
    for line in (
        "place = tl.load(entry + 2)",
        "orthogonalized0_at = orthogonalized0 + ",
    ):
        assert f"\n    {line}" in PAGE
        assert f"\n    {line}" in kernel.source


def test_the_pass_is_the_generated_one():
    (kernel,) = polyak.explain(
        polyak.Adafactor([torch.zeros(3, 4, requires_grad=True)])
    ).kernels
    loop = re.search(r"    for turn in range.*?== 2\)\n", PAGE, re.S)[0]
    assert loop in kernel.source


def test_what_it_names_is_there():
    """Every file that the page names in code."""
    engine = Path(polyak.__file__).parent / "engine"
    for name in re.findall(r"`((?:triton/)?\w+\.py)`", PAGE):
        places = (engine / name, Path(__file__).parent / name)
        assert any(place.exists() for place in places), name
