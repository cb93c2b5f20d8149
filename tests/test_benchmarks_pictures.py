"""The pictures of the benchmarks show what was found."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmarks import pictures
from benchmarks.cases import Case
from benchmarks.contenders import Contender
from benchmarks.overhead import Host
from benchmarks.step import POLYAK, Result
from benchmarks.timing import Times


def result(name, length, theirs):
    case = Case(str(length), "", 0.0, "µs", ((length,),))
    times = {POLYAK: Times((1.0,)), "fused": Times((theirs,))}
    return Result(case, Contender(name), 1, times, "fused", 1)


RESULTS = [
    result("SGD", 4, 10.0),
    result("AdamW", 4, 30.0),
    result("SGD", 4096, 0.9),
    result("AdamW", 4096, 5.0),
]
HOSTS = [
    Host("SGD", 1, {POLYAK: Times((1.0,)), "fused": Times((1.0,))}),
    *(
        Host("AdamW", n, {POLYAK: Times((1e-6 * n,)), "fused": Times((9e-6 * n,))})
        for n in (1, 100)
    ),
]


@pytest.fixture
def drawn(monkeypatch):
    """The axes of the picture that was written last."""
    figures, save = [], Figure.savefig

    def saved(figure, *arguments, **more):
        figures.append(figure)
        save(figure, *arguments, **more)

    monkeypatch.setattr(Figure, "savefig", saved)
    return lambda: figures[-1].axes[0]


def curves(axes):
    return [
        (line.get_xdata(), line.get_ydata())
        for line in axes.lines
        if line.get_marker() != "None"
    ]


def test_the_speed_up_is_drawn_by_size_on_log_axes(drawn, tmp_path):
    pictures.by_size(RESULTS, tmp_path / "new" / pictures.BY_SIZE)
    axes = drawn()
    (sgd, adamw) = curves(axes)

    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    np.testing.assert_array_equal(sgd, [[4, 4096], [10, 0.9]])
    np.testing.assert_array_equal(adamw, [[4, 4096], [30, 5]])
    texts = [text.get_text() for text in axes.texts]
    assert texts[0] == "Times faster than torch's fastest"
    assert texts[2:] == ["SGD", "AdamW"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "4k"]


def test_the_time_is_drawn_by_number_for_the_last_optimizer(drawn, tmp_path):
    pictures.by_number(HOSTS, tmp_path / pictures.BY_NUMBER)
    axes = drawn()
    (ours, theirs) = curves(axes)

    np.testing.assert_allclose(ours, [[1, 100], [1, 100]])
    np.testing.assert_allclose(theirs, [[1, 100], [9, 900]])
    texts = [text.get_text() for text in axes.texts]
    assert texts[0] == "µs for a step of AdamW"
    assert texts[2:] == ["polyak", "torch, fused"]


def test_the_same_figures_make_the_same_file(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        pictures.by_size(RESULTS, tmp_path / name / pictures.BY_SIZE)
    first, second = (tmp_path / n / pictures.BY_SIZE for n in "ab")

    assert first.read_bytes() == second.read_bytes()


def test_one_length_is_enough(drawn, tmp_path):
    pictures.by_size(RESULTS[:1], tmp_path / "one.png")

    assert len(curves(drawn())) == 1
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_lengths_are_counted_in_short():
    shown = {4: "4", 1 << 10: "1k", 1 << 18: "256k", 1 << 24: "16M", 5000: "5,000"}

    assert {value: pictures._counted(value) for value in shown} == shown


def test_all_words_are_within_the_picture(drawn, tmp_path):
    longest = result("SGD(momentum=0.9)", 4, 10.0)
    pictures.by_size([longest], tmp_path / pictures.BY_SIZE)
    axes = drawn()
    canvas = axes.figure.bbox

    for text in axes.texts:
        box = text.get_window_extent()
        assert canvas.containsx(box.x0), text.get_text()
        assert canvas.containsx(box.x1), text.get_text()
        assert canvas.containsy(box.y1), text.get_text()
