"""The command line: measure everything and write RESULTS.md, or measure one part."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from . import averages, fresh, markdown, report, schedules, team
from .cases import CASES
from .contenders import Contender, contenders
from .machine import facts, thread_counts
from .markdown import number
from .step import POLYAK, Result, measure

RESULTS = Path(__file__).parent / "RESULTS.md"

app = typer.Typer(
    help="Measure polyak and torch.optim side by side.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
Threads = Annotated[
    list[int] | None, typer.Option(min=1, help="A number of threads. Repeatable.")
]
Scale = Annotated[
    float, typer.Option(min=0, help="Spend this many times the usual time.")
]
Optimizers = Annotated[
    list[str] | None,
    typer.Option("--optimizer", "-o", help="An optimizer, by name. Repeatable."),
]


@app.callback(invoke_without_command=True)
def everything(
    context: typer.Context,
    threads: Threads = None,
    scale: Scale = 1.0,
    out: Annotated[Path, typer.Option(help="The report to write.")] = RESULTS,
) -> None:
    """Without a command: run all parts and rewrite the report, in some minutes."""
    if context.invoked_subcommand is not None:
        return
    try:
        markdown.check(out)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{out}: {error}") from error
    counts = tuple(threads or thread_counts())
    about = f"## The machine\n\n{markdown.facts_list(facts(counts))}"
    results = list(_steps(tuple(CASES), contenders(), counts, scale))
    sections = [
        about,
        report.glance_section(results),
        report.bandwidth_section(results),
        _memory(),
        _startup(),
        _team(max(counts), scale),
        _schedules(scale),
        _averages(counts, scale),
        report.step_section(results),
    ]
    markdown.rewrite(out, "\n\n".join(sections))
    print(f"wrote {out}", file=sys.stderr)


@app.command()
def step(
    case: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(CASES)}. Repeatable.")
    ] = None,
    optimizer: Optimizers = None,
    threads: Threads = None,
    scale: Scale = 1.0,
) -> None:
    """Step time against the fastest of torch's implementations."""
    for name in case or ():
        if name not in CASES:
            raise typer.BadParameter(f"there is no {name!r} among {', '.join(CASES)}")
    counts = tuple(threads or thread_counts())
    chosen = _chosen(optimizer)
    print(report.step_section([*_steps(case or CASES, chosen, counts, scale)]))


@app.command()
def bandwidth(
    optimizer: Optimizers = None, threads: Threads = None, scale: Scale = 1.0
) -> None:
    """The share of the machine's in-place bandwidth that a step reaches."""
    counts = tuple(threads or thread_counts())
    chosen = _chosen(optimizer)
    print(report.bandwidth_section([*_steps(("large",), chosen, counts, scale)]))


@app.command()
def memory(optimizer: Optimizers = None) -> None:
    """Peak memory of a step on one large tensor, in processes of their own."""
    print(_memory(tuple(dict.fromkeys(c.optimizer for c in _chosen(optimizer)))))


@app.command()
def startup() -> None:
    """The first step of a process, with and without the disk cache, and imports."""
    print(_startup())


@app.command("team")
def team_command(
    threads: Annotated[int, typer.Option(min=2)] = 2, scale: Scale = 1.0
) -> None:
    """The measurement behind the thresholds of polyak/engine/team.py."""
    print(_team(threads, scale))


@app.command("schedules")
def schedules_command(scale: Scale = 1.0) -> None:
    """Schedulers' steps against torch's, and schedules at a million steps."""
    print(_schedules(scale))


@app.command("averages")
def averages_command(threads: Threads = None, scale: Scale = 1.0) -> None:
    """Averages of weights against torch's."""
    print(_averages(tuple(threads or thread_counts()), scale))


def _chosen(names: list[str] | None) -> list[Contender]:
    try:
        return contenders(tuple(names or ()))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _steps(
    cases: Iterable[str],
    chosen: list[Contender],
    threads: tuple[int, ...],
    scale: float,
) -> Iterator[Result]:
    for name in cases:
        case = CASES[name]
        for result in measure(case, chosen, threads, scale=scale):
            _tell(result)
            yield result


def _memory(optimizers: tuple[str, ...] = fresh.MEMORY) -> str:
    return report.memory_section(fresh.memory(optimizers))


def _startup() -> str:
    return report.startup_section(fresh.first_steps(), fresh.imports())


def _team(threads: int, scale: float) -> str:
    if threads < 2:
        return "## One thread or a team\n\nMeasured with two threads or more only."
    sizes = team.sizes(threads, seconds=0.25 * scale)
    return report.team_section(threads, sizes, team.grains(threads, seconds=2 * scale))


def _schedules(scale: float) -> str:
    return report.schedules_section(
        schedules.stepped(seconds=0.3 * scale), schedules.curves(seconds=0.5 * scale)
    )


def _averages(threads: tuple[int, ...], scale: float) -> str:
    return report.averages_section(
        averages.averaged(threads, seconds=scale),
        averages.in_step(threads, seconds=scale),
    )


def _tell(result: Result) -> None:
    """Show that something is going on."""
    ratio = result.ratio()
    print(
        f"{result.case.name}: {result.contender.name}, threads: {result.threads},",
        f"{number(1e6 * result.times[POLYAK].minimum)} µs,",
        f"{markdown.times_faster(ratio)} times faster than torch",
        file=sys.stderr,
    )


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
