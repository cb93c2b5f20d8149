"""Where a picture is shown, and what is on it."""

import subprocess
import sys
from io import BytesIO, StringIO, TextIOWrapper

import numpy as np
import pytest
import torch
from matplotlib import colors, pyplot
from matplotlib.figure import Figure
from rich.console import Console

import polyak
from polyak.lr_scheduler import Scheduler
from polyak.pictures import Future, future, style
from polyak.pictures.show import drawn
from polyak.pictures.terminal import TerminalPicture
from polyak.schedules import cosine, linear, step, warmup


@pytest.fixture(autouse=True)
def _backend(monkeypatch):
    """No display, wherever the tests are run."""
    monkeypatch.setattr(pyplot, "get_backend", lambda: "agg")


def scheduler_of(groups=3, **schedules):
    optimizer = polyak.AdamW(
        [
            {"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.1 / 2**i}
            for i in range(groups)
        ]
    )
    return Scheduler(optimizer, **(schedules or {"lr": linear(1, 0, 10)}))


# Where


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.PDF", b"%PDF")]
)
def test_a_file(tmp_path, capsys, name, start):
    figure = polyak.plot(warmup(5) | cosine(9), lr=3e-4, to=tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)
    assert isinstance(figure, Figure)
    assert capsys.readouterr().out == ""
    polyak.plot(step(3), 9, to=str(tmp_path / f"again{name}"))
    assert (tmp_path / f"again{name}").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.txt", "as '.*a.txt': end its name in .png"),
        ("none/a.png", "no directory '.*none' for the picture"),
    ],
)
def test_a_file_that_cannot_be_is_refused_before_anything_is_done(
    tmp_path, name, message
):
    with pytest.raises(ValueError, match=message):
        polyak.plot(None, to=tmp_path / name)


def test_the_terminal_where_there_is_no_display(capsys):
    figure = polyak.plot(warmup(5) | cosine(9), lr=3e-4)
    text = capsys.readouterr().out
    assert text.startswith("warmup(5) | cosine(9)\n")
    assert "3e-4 │" in text
    assert isinstance(figure, Figure)


def test_a_notebook_shows_what_is_returned(capsys, monkeypatch):
    inline = "module://matplotlib_inline.backend_inline"
    monkeypatch.setattr(pyplot, "get_backend", lambda: inline)
    assert isinstance(polyak.plot(cosine(9)), Figure)
    assert capsys.readouterr().out == ""
    assert pyplot.get_fignums() == []


def test_a_window_where_there_is_a_display(capsys, monkeypatch):
    windows = []
    monkeypatch.setattr(pyplot, "get_backend", lambda: "TkAgg")
    monkeypatch.setattr(pyplot, "figure", lambda **options: Figure(**options))
    monkeypatch.setattr(pyplot, "show", lambda: windows.append(1))
    figure = polyak.plot(cosine(9))
    assert windows == [1]
    assert len(figure.axes) == 1
    assert capsys.readouterr().out == ""


def test_the_library_imports_nothing_that_draws():
    code = "import sys, polyak; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert not {"typer", "rich", "matplotlib"} & set(output.split())


# The figure


def test_a_panel_for_each_hyperparameter_and_a_curve_for_each_value(tmp_path):
    scheduler = scheduler_of(lr=linear(1, 0, 10), weight_decay=linear(1, 0.5, 10))
    figure = polyak.plot(scheduler, to=tmp_path / "a.png")
    rates, decays = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "lr",
        "weight_decay",
    ]
    assert decays.get_xlabel() == "step"
    assert len(rates.lines) == 3
    (decay,) = decays.lines
    assert decay.get_xdata().tolist() == list(range(11))
    assert decay.get_ydata() == pytest.approx(np.linspace(0.01, 0.005, 11))
    assert [text.get_text() for text in rates.texts] == [f"group {i}" for i in range(3)]
    assert [text.get_text() for text in decays.texts] == ["groups 0-2"]
    for line, text, colour in zip(
        rates.lines, rates.texts, style.COLOURS, strict=False
    ):
        assert line.get_color() == text.get_color() == colour
    assert figure.get_suptitle().startswith("lr: linear(1, 0, 10), weight_decay:")


def test_labels_of_curves_that_end_together_keep_their_order(tmp_path):
    (axes,) = polyak.plot(scheduler_of(), to=tmp_path / "a.png").axes
    heights = [text.get_position()[1] for text in axes.texts]
    assert heights == sorted(heights, reverse=True)
    assert min(-np.diff(heights)) >= style.LABEL_GAP


def test_of_many_curves_some_are_labelled_in_shades(tmp_path):
    (axes,) = polyak.plot(scheduler_of(groups=30), to=tmp_path / "a.png").axes
    assert len(axes.lines) == 30
    assert len({line.get_color() for line in axes.lines}) == 30
    assert len(axes.texts) == 6
    assert axes.texts[-1].get_text() == "group 29"


def test_all_colours_are_colours():
    for count in (1, 10, 11, 100):
        assert len(style.colours(count)) == count
        assert all(colors.is_color_like(colour) for colour in style.colours(count))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.2, 0.9], (0, 0.9)),
        ([0.85, 0.95], (0.85, 0.95)),
        ([-1, 1], (-1, 1)),
        ([3, 3], (0, 3)),
        ([-3, -3], (-3, 0)),
        ([0, 0], (0, 1)),
        ([np.nan, np.inf], (0, 1)),
        ([1, np.inf, np.nan, 0.1], (0, 1)),
    ],
)
def test_what_is_near_zero_is_shown_from_zero(values, expected):
    assert style.limits(np.array(values)) == expected


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 3e-4, 4, [0, 1e-4, 2e-4, 3e-4]),
        (0.85, 0.95, 4, [0.85, 0.9, 0.95]),
        (0, 10_500, 6, [0, 2000, 4000, 6000, 8000, 10_000]),
        (-1, 1, 4, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round(low, high, count, expected):
    assert style.ticks(low, high, count) == pytest.approx(expected)


# The terminal


def shown(seen, width=60, **options):
    console = Console(file=StringIO(), width=width, **options)
    console.print(TerminalPicture(seen, height=4))
    return console.file.getvalue()


def test_dots_are_where_the_curve_is():
    assert shown(future(linear(0, 1, 31)), width=24).splitlines() == [
        "linear(0, 1, 31)",
        "",
        "factor",
        "   1 │             ⢀⣠⠴⠒⠋",
        "     │        ⢀⣀⡤⠖⠚⠉    ",
        "     │    ⣀⣠⠴⠚⠉         ",
        "   0 │⣠⠴⠒⠋⠁             ",
        "     └──────────────────",
        "step  0         20",
    ]


def test_a_jump_is_a_line_and_so_is_a_constant():
    assert shown(future(step(50), 100), width=24).splitlines()[3:] == [
        "   1 │⠉⠉⠉⠉⠉⠉⠉⠉⢹         ",
        "     │        ⢸⡀        ",
        "     │         ⡇        ",
        "   0 │         ⠓⠒⠒⠒⠒⠒⠒⠒⠒",
        "     └──────────────────",
        "step  0      50",
    ]
    lines = shown(future(linear(1, 1, 9)), width=24).splitlines()
    assert lines[3] == "   1 │" + "⠉" * 18


def test_it_is_as_wide_as_the_terminal():
    seen = future(scheduler_of(lr=linear(1, 0, 10), weight_decay=linear(1, 0.5, 10)))
    for width in (30, 60, 100):
        lines = shown(seen, width).splitlines()
        assert max(map(len, lines)) == width
    assert max(map(len, shown(seen, 400).splitlines())) == 110


def test_groups_are_named_in_their_colours():
    seen = future(scheduler_of(groups=2))
    text = shown(seen, force_terminal=True, color_system="truecolor")
    assert "groups" not in text
    for index in range(2):
        red, green, blue = bytes.fromhex(style.COLOURS[index][1:])
        assert f"38;2;{red};{green};{blue}m── " in text
    assert "\x1b" not in shown(seen)


def test_where_there_is_only_ascii_there_is_only_ascii():
    raw = TextIOWrapper(BytesIO(), "ascii")
    Console(file=raw, width=40).print(TerminalPicture(future(scheduler_of(groups=2))))
    raw.flush()
    text = raw.buffer.getvalue().decode("ascii")
    assert "|*" in text
    assert "+---" in text


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "values",
    [
        [1.0],
        [np.nan, 1.0, np.inf, 2.0],
        [np.inf] * 3,
        [0.0] * 5,
        [1e300, 0.0],
        [1e-300],
    ],
)
def test_any_values_can_be_drawn(tmp_path, values):
    steps = np.arange(len(values))
    seen = Future("any", steps, {"lr": np.array(values)[:, None]})
    assert "any" in shown(seen)
    drawn(seen).savefig(tmp_path / "a.png")


def test_a_million_steps():
    assert "500000" in shown(future(cosine(999_999)))
