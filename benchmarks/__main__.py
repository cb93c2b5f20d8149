"""The command line: measure everything and write RESULTS.md, or measure one part."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from . import (
    averages,
    encounters,
    fresh,
    markdown,
    matrices,
    neighbour,
    one_pass,
    overhead,
    peers,
    pictures,
    schedules,
    step_tables,
    sweep,
    team,
    training,
)
from .cases import CASES, Case
from .contenders import Contender, contenders
from .machine import facts, free_memory, thread_counts
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
Many = Annotated[int | None, typer.Option(min=1, help="The number of threads.")]
Folder = Annotated[
    Path | None,
    typer.Option("--pictures", exists=True, file_okay=False, help="Where to draw."),
]


@app.callback(invoke_without_command=True)
def everything(
    context: typer.Context,
    threads: Threads = None,
    scale: Scale = 1.0,
    out: Annotated[Path, typer.Option(help="The report to write.")] = RESULTS,
) -> None:
    """Without a command: run all parts, for the report.

    What is measured is written at once: a run that is stopped leaves its parts.
    """
    if context.invoked_subcommand is not None:
        return
    try:
        markdown.check(out)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{out}: {error}") from error
    counts = tuple(threads or thread_counts())
    about = f"## The machine\n\n{markdown.facts_list(facts(counts))}"
    results = list(_steps(CASES, (), counts, scale))
    sections = [
        about,
        step_tables.glance_section(results),
        step_tables.bandwidth_section(results),
    ]
    details = step_tables.step_section(results)
    for section in _parts(counts, scale, out.parent / "pictures"):
        sections.append(section)
        markdown.rewrite(out, "\n\n".join([*sections, details]))
    print(f"wrote {out}", file=sys.stderr)


def _parts(threads: tuple[int, ...], scale: float, folder: Path) -> Iterator[str]:
    """The sections of the report after steps, each as soon as it is measured."""
    most = max(threads)
    yield _sweep(most, scale, folder)
    yield _overhead(scale, folder)
    yield _one_pass(threads, scale)
    yield _matrices(most, scale)
    yield _training(most, scale)
    yield _neighbour(threads, scale)
    yield _memory()
    yield _startup()
    yield _team(most, scale)
    yield _schedules(scale)
    yield _averages(threads, scale)
    yield _peers(most, scale)  # imported by now, they disturb nothing that is above


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
    _chosen(optimizer)
    counts = tuple(threads or thread_counts())
    found = [*_steps(case or CASES, optimizer or (), counts, scale)]
    print(step_tables.step_section(found))


@app.command()
def bandwidth(
    optimizer: Optimizers = None, threads: Threads = None, scale: Scale = 1.0
) -> None:
    """The share of the machine's in-place bandwidth that a step reaches."""
    _chosen(optimizer)
    counts = tuple(threads or thread_counts())
    names = [name for name, case in CASES.items() if case.bandwidth]
    found = _steps(names, optimizer or (), counts, scale)
    print(step_tables.bandwidth_section(found))


@app.command()
def memory(optimizer: Optimizers = None) -> None:
    """Peak memory of a step on one large tensor, in processes of their own."""
    print(_memory(tuple(dict.fromkeys(c.optimizer for c in _chosen(optimizer)))))


@app.command()
def startup() -> None:
    """The first step of a process, with and without the disk cache, and imports."""
    print(_startup())


@app.command("sweep")
def sweep_command(
    threads: Many = None, scale: Scale = 1.0, folder: Folder = None
) -> None:
    """Speed-up by the size of the tensors."""
    print(_sweep(threads or max(thread_counts()), scale, folder))


@app.command("overhead")
def overhead_command(scale: Scale = 1.0, folder: Folder = None) -> None:
    """The host's time for a step, by the number of tensors."""
    print(_overhead(scale, folder))


@app.command("whole")
def whole_command(threads: Threads = None, scale: Scale = 1.0) -> None:
    """Unscale, clip, step, average and clear, against torch's separate calls."""
    print(_one_pass(tuple(threads or thread_counts()), scale))


@app.command("matrices")
def matrices_command(threads: Many = None, scale: Scale = 1.0) -> None:
    """Muon and Adafactor against torch's."""
    print(_matrices(threads or max(thread_counts()), scale))


@app.command("training")
def training_command(threads: Many = None, scale: Scale = 1.0) -> None:
    """Networks trained end to end, and the optimizer's share."""
    print(_training(threads or max(thread_counts()), scale))


@app.command("neighbour")
def neighbour_command(threads: Threads = None, scale: Scale = 1.0) -> None:
    """Steps while another process spins on every core."""
    print(_neighbour(tuple(threads or thread_counts()), scale))


@app.command("peers")
def peers_command(threads: Many = None, scale: Scale = 1.0) -> None:
    """torch.compile and other libraries, those that are installed."""
    print(_peers(threads or max(thread_counts()), scale))


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
    cases: Iterable[str], names: Iterable[str], threads: tuple[int, ...], scale: float
) -> Iterator[Result]:
    """Each case with the optimizers named, or else with its own."""
    for case in _fitting(map(CASES.__getitem__, cases)):
        chosen = contenders(tuple(names) or case.optimizers)
        yield from _told(measure(case, chosen, threads, scale=scale))


def _fitting(cases: Iterable[Case], sides: int = 4) -> Iterator[Case]:
    """The cases for which there is the memory: of each side, two slots as well."""
    for case in cases:
        if 4 * sides * case.nbytes < free_memory():
            yield case
        else:
            print(f"{case.title}: left out, there is no memory", file=sys.stderr)


def _sweep(threads: int, scale: float, folder: Path | None) -> str:
    found = list(_told(sweep.swept(threads, scale=scale)))
    if folder is None:
        return sweep.section(found)
    pictures.by_size(found, folder / pictures.BY_SIZE)
    what = "Speed-up by tensor size"
    return sweep.section(found, pictures.embedded(pictures.BY_SIZE, what))


def _overhead(scale: float, folder: Path | None) -> str:
    found = list(overhead.hosts(seconds=0.5 * scale))
    moving = list(overhead.scheduled(seconds=0.5 * scale))
    if folder is None:
        return overhead.section([*found, *moving])
    pictures.by_number(found, folder / pictures.BY_NUMBER)
    picture = pictures.embedded(pictures.BY_NUMBER, "Time by number of tensors")
    return overhead.section([*found, *moving], picture)


def _one_pass(threads: tuple[int, ...], scale: float) -> str:
    return one_pass.section(one_pass.measured(threads, seconds=2 * scale))


def _matrices(threads: int, scale: float) -> str:
    cases = {name: [*_fitting(own)] for name, own in matrices.MATRICES.items()}
    if "Muon" in cases:
        cases["Muon"] = [*matrices.fitting(cases["Muon"])]
    return matrices.section(_told(matrices.measured((threads,), cases, scale=scale)))


def _training(threads: int, scale: float) -> str:
    return training.section(training.trained((threads,), seconds=3 * scale))


def _neighbour(threads: tuple[int, ...], scale: float) -> str:
    return neighbour.section(neighbour.disturbed(threads, seconds=1.5 * scale))


def _peers(threads: int, scale: float) -> str:
    there, absent = peers.loaded()
    cases = [*_fitting(encounters.ENCOUNTERS, sides=4 + len(there))]
    found = encounters.encounters(there, threads, cases, seconds=2 * scale)
    return encounters.section(found, there, absent)


def _memory(optimizers: tuple[str, ...] = fresh.MEMORY) -> str:
    return fresh.memory_section(fresh.memory(optimizers))


def _startup() -> str:
    return fresh.startup_section(fresh.first_steps(), fresh.imports())


def _team(threads: int, scale: float) -> str:
    if threads < 2:
        return "## One thread or a team\n\nMeasured with two threads or more only."
    sizes = team.sizes(threads, seconds=0.25 * scale)
    return team.section(threads, sizes, team.grains(threads, seconds=2 * scale))


def _schedules(scale: float) -> str:
    return schedules.section(
        schedules.stepped(seconds=0.3 * scale), schedules.curves(seconds=0.5 * scale)
    )


def _averages(threads: tuple[int, ...], scale: float) -> str:
    return averages.section(
        averages.averaged(threads, seconds=scale),
        averages.in_step(threads, seconds=scale),
    )


def _told(results: Iterable[Result]) -> Iterator[Result]:
    """The results, while it is shown that something is going on."""
    for result in results:
        ratio = result.ratio()
        print(
            f"{result.case.title}: {result.contender.name},",
            f"threads: {result.threads},",
            f"{number(1e6 * result.times[POLYAK].minimum)} µs,",
            f"{markdown.times_faster(ratio)} times faster than torch",
            file=sys.stderr,
        )
        yield result


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
