"""The race on a terminal: what is going on, and the table in the end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import stdev

from rich import box
from rich.console import Console, Group
from rich.filesize import decimal
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .contender import Contender
from .lap import EVALUATE_EVERY, Lap
from .run import Results, Watch, ignore
from .standings import Standing, podium, rank
from .task import Task

NOTHING = "-"
PLAIN_WIDTH = 120


@contextmanager
def watching(console: Console, task: Task, laps: int) -> Iterator[Watch]:
    """Show the leaders and the progress while the race runs, if on a terminal."""
    if not console.is_terminal:
        yield ignore
        return
    progress = Progress(
        BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    )
    bar = progress.add_task("", total=laps * task.epochs)
    with Live(progress, console=console, transient=True) as live:

        def watch(finished: Sequence[Lap], contender: Contender, epoch: int) -> None:
            lap = len(finished)
            doing = f"lap {lap + 1} of {laps}: {_name(contender)}"
            progress.update(bar, description=doing, completed=lap * task.epochs + epoch)
            if epoch == 0 and finished:
                leaders = podium(rank(finished))
                live.update(Group(table(leaders, task.target), progress))

        yield watch


def show(console: Console, results: Results) -> None:
    """Print every lap's row, who won, and what the columns mean."""
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    rows = rank(results.laps)
    if rows:
        console.print(table(rows, results.task.target))
    for line in _remarks(results, rows):
        console.print(line, highlight=False)


def table(rows: Sequence[Standing], target: float) -> Table:
    """Every contender in a row; the winner and each optimizer's best rate stand out."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("", justify="right")
    grid.add_column("optimizer", vertical="bottom")
    for header in (
        "learning\nrate",
        "test\naccuracy",
        "test\nloss",
        f"steps to\n{100 * target:g} %",
        "time\nper step",
        "in the\noptimizer",
        "state",
    ):
        grid.add_column(header, justify="right", no_wrap=True, vertical="bottom")
    for row in rows:
        grid.add_row(*_cells(row, target), style=_style(row))
    return grid


def _cells(row: Standing, target: float) -> list[str]:
    steps = row.steps_to(target)
    return [
        str(row.place or ""),
        escape(row.contender.name),
        f"{row.contender.lr:g}",
        _percentage([score.accuracy for score in row.scores]),
        "diverged" if row.diverged else _loss(row.loss),
        NOTHING if steps is None else f"{steps:.0f}",
        _duration(row.step_seconds),
        _duration(row.optimizer_seconds),
        decimal(row.state_bytes),
    ]


def _style(row: Standing) -> str:
    if row.place == 1:
        return "bold green"
    return "dim" if row.place is None else "bold"


def _percentage(values: Sequence[float]) -> str:
    """The mean, and with several seeds the standard deviation."""
    if not values:
        return NOTHING
    mean = f"{100 * sum(values) / len(values):.2f}"
    return f"{mean} ± {100 * stdev(values):.2f} %" if len(values) > 1 else f"{mean} %"


def _loss(loss: float | None) -> str:
    if loss is None:
        return NOTHING
    return f"{loss:.4f}" if abs(loss) < 1000 else f"{loss:.3g}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _remarks(results: Results, rows: Sequence[Standing]) -> Iterator[str]:
    if results.stopped:
        yield f"Stopped after {len(results.laps)} of {results.planned} laps."
    for winner in podium(rows)[:1]:
        yield (
            f"[bold green]{_name(winner.contender)} wins[/]"
            f" on {results.task.name}, after {results.task.epochs} epochs"
            f" with {_seeds(results.seeds)}."
        )
    if rows:
        yield (
            "[dim]Numbered: each optimizer at its best rate. Accuracy and loss: the"
            f" best evaluation, one every {EVALUATE_EVERY} steps. Times: medians, the"
            " first step left out.[/]"
        )


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"


def _name(contender: Contender) -> str:
    return escape(f"{contender.name} at lr {contender.lr:g}")
