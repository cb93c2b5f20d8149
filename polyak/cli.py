"""The command line: race optimizers, list or explain them, draw schedules."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

import polyak

from .optimizer import Optimizer
from .optimizers import all_optimizers, by_name
from .race import (
    RaceError,
    Task,
    digits,
    lineup,
    load_task,
    podium,
    race,
    rank,
)
from .race.contender import DEFAULT_LINEUP, check

app = typer.Typer(
    help="Optimizers for PyTorch: race them, list them, explain them; draw schedules.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

INTERRUPTED = 130  # what a shell expects of a program that SIGINT stopped


@app.command("race")
def race_command(
    optimizer: Annotated[
        list[str] | None,
        typer.Option(
            "--optimizer",
            "-o",
            help="An optimizer, such as adamw or 'sgd(momentum=0.9)'. Repeatable.",
        ),
    ] = None,
    lr: Annotated[
        list[float] | None,
        typer.Option(help="A learning rate for all of them. Repeatable."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="A function of yours that returns a polyak.race.Task.",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs, instead of the task's own.")
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Test accuracy to reach, instead of the task's own."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    seeds: Annotated[
        int, typer.Option(min=1, help="How many seeds to run, and average over.")
    ] = 1,
    threads: Annotated[
        int,
        typer.Option(min=1, help="Threads; a small network is as fast on one."),
    ] = 1,
    out: Annotated[
        Path, typer.Option(help="Where to write the picture of the loss curves.")
    ] = Path("race.png"),
    plot: Annotated[bool, typer.Option(help="Whether to draw the picture.")] = True,
) -> None:
    """Train a network with several optimizers and learning rates: which one wins?

    By default a small convolutional network on scikit-learn's digits, in less than a
    minute. Ctrl-C ends the race early, with a table of what was finished.
    """
    from .race import picture, report

    torch.set_num_threads(threads)
    console = Console()
    with _shown(RaceError):
        if plot:
            picture.check_path(out)
        chosen = _task(task, epochs, target)
        contenders = lineup(optimizer or DEFAULT_LINEUP, lr or ())
        check(contenders, chosen.model())
    with report.watching(console, chosen, len(contenders) * seeds) as watch:
        all_seeds = range(seed, seed + seeds)
        results = race(chosen, contenders, seeds=all_seeds, watch=watch)
    report.show(console, results)
    if plot and podium(rank(results.laps)):
        picture.draw(results, out)
        console.print(f"Loss curves: {escape(str(out))}", highlight=False)
    if results.stopped:
        raise typer.Exit(INTERRUPTED)


def _task(path: str | None, epochs: int | None, target: float | None) -> Task:
    """The digits, or the user's own; with the changes asked for."""
    task = load_task(path) if path else digits.task()
    return replace(
        task,
        epochs=task.epochs if epochs is None else epochs,
        target=task.target if target is None else target,
    )


@app.command("list")
def list_command() -> None:
    """Print every optimizer and what it does."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, optimizer in all_optimizers().items():
        table.add_row(name, escape(_summary(optimizer)))
    Console().print(table, highlight=False)


def _summary(optimizer: type[Optimizer]) -> str:
    """The first sentence of the docstring, its markup taken off."""
    paragraph = inspect.cleandoc(optimizer.__doc__ or "").partition("\n\n")[0]
    text = " ".join(paragraph.split())
    text = re.sub(r"(?::\w+:)?`+([^`<]*?)\s*(?:<[^>]*>)?`+_*", r"\1", text)
    return re.split(r"(?<=[.!?])(?<! al\.)\s+(?=[A-Z])", text)[0]


@app.command("explain")
def explain_command(
    optimizer: Annotated[str, typer.Argument(help="Its name, in any case.")],
) -> None:
    """Print an optimizer's rule, and the kernel that is made of it."""
    with _shown(ValueError):
        kind = by_name(optimizer)
    update = kind.rule if hasattr(kind, "rule") else kind.step
    rule = textwrap.dedent(inspect.getsource(update))
    console = Console()
    text = f"{rule}\n{polyak.explain(_example(kind), kernel=True)}"
    if console.is_terminal:
        console.print(Syntax(text, "python", theme="ansi_dark", word_wrap=True))
    else:
        typer.echo(text)


def _example(kind: Any) -> Optimizer:
    """An optimizer of one small matrix that has a gradient."""
    parameter = torch.zeros(4, 4, requires_grad=True)
    parameter.grad = torch.ones(4, 4)
    optimizer: Optimizer = kind([parameter])
    return optimizer


@app.command("schedule")
def schedule_command(
    expression: Annotated[
        str,
        typer.Argument(help="A schedule, such as 'warmup(500) | cosine(10_000)'."),
    ],
    lr: Annotated[
        float | None, typer.Option(help="The learning rate that it is a factor of.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps, instead of its own length.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the picture as well.")
    ] = None,
) -> None:
    """Draw a schedule in the terminal, and print a few of its values."""
    from .pictures import future, plot, terminal, values
    from .schedules import parse

    console = Console()
    with _shown(ValueError):
        schedule = parse(expression)
        seen = future(schedule, steps, lr=lr)
        if out is not None:
            plot(schedule, steps, lr=lr, to=out)
    console.print(terminal.TerminalPicture(seen), "", values.table(seen))
    if out is not None:
        console.print(f"\nPicture: {escape(str(out))}", highlight=False)


@contextmanager
def _shown(mistake: type[Exception]) -> Iterator[None]:
    """Show the user's mistake as a line on the error stream, not as a traceback."""
    try:
        yield
    except mistake as error:
        message = f"[bold red]error:[/] {escape(str(error))}"
        Console(stderr=True).print(message, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


def main() -> None:
    """Run the command line."""
    app()
