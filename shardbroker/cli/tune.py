"""`shardbroker tune`: how many shards a workload wants on this machine. The work is done in shardbroker/tune."""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from shardbroker.bench import LoadError
from shardbroker.bench.connect import Endpoint
from shardbroker.bench.machine import machine, versions
from shardbroker.bench.run import Settings, Target, default_generators, pinning
from shardbroker.bench.server import HOST, Process, free_port, shardbroker_words
from shardbroker.bench.shapes import Load
from shardbroker.cli import load_options
from shardbroker.cli.bench import EXIT_FAILED, EXIT_INTERRUPTED, open_files, statistics_of, told, write_json
from shardbroker.tune import advice as advising
from shardbroker.tune.html import HEADINGS, cells, report
from shardbroker.tune.record import watch_statistics, watch_url
from shardbroker.tune.sweep import Point, Sweep, as_json, sweep, sweep_rings
from shardbroker.tune.workload import Workload, derived, from_file, from_words

HELP = """Find how many workers a workload wants on this machine.

Starts brokers of ours with 1, 2, 4 ... workers in turn, loads each, and says where more workers stop to pay.
The workload is one or several shapes as `shardbroker bench` has them (fanout:1x8:128B), a TOML file of weighted ones, or
--record, which watches a running server: http://HOST:8222 (its monitoring), or the process number of a broker of ours.
"""


def counts_of(text: str | None, cores: int) -> list[int]:
    """Worker counts: 1, 2, 4 ... and the number of cores, or as given."""
    if text:
        try:
            found = sorted({int(word) for word in text.split(",")})
        except ValueError:
            raise LoadError(f"--workers {text!r}: numbers with commas between them, such as 1,2,4") from None
    else:
        found = sorted({cores, *(1 << i for i in range(7) if 1 << i <= cores)})
    if not found or not 1 <= found[0] <= found[-1] <= 64:
        raise LoadError("--workers: counts of 1 to 64")
    return found


def recorded(source: str, seconds: float) -> Workload:
    """A workload derived from what a running server does."""
    if source.isdigit():
        read = statistics_of(int(source))
        if read is None:
            raise LoadError(f"process {source} is no broker of ours, or gives us no access")
        return derived(watch_statistics(read, seconds), f"process {source}")
    if not source.startswith(("http://", "https://")):
        raise LoadError(
            f"--record {source!r}: http://HOST:8222 (a server's monitoring) or a process number is wanted"
        )
    return derived(watch_url(source, seconds), source)


def workload_of(words: Sequence[str], record: str | None, seconds: float) -> Workload:
    if record and words:
        raise LoadError("--workload and --record exclude each other")
    if record:
        return recorded(record, seconds)
    if not words:
        raise LoadError("what is it tuned for? Give --workload SHAPE or FILE.toml, or --record")
    if len(words) == 1 and (words[0].endswith(".toml") or Path(words[0]).is_file()):
        return from_file(Path(words[0]))
    return from_words(words)


def table(made: Sweep, best: int) -> Table:
    """A line for each worker count."""
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in HEADINGS:
        shown.add_column(heading, justify="left" if heading == "bound by" else "right", no_wrap=True)
    for point in made.measured():
        shown.add_row(*cells(made, point), style="bold green" if point.workers == best else None)
    return shown


@click.command(name="tune", help=HELP)
@click.option(
    "-w",
    "--workload",
    "words",
    multiple=True,
    metavar="SHAPE|FILE",
    help="What to tune for; several are of equal weight.",
)
@click.option("--record", metavar="URL|PID", help="Watch a running server and derive the workload.")
@click.option(
    "--record-seconds",
    type=click.FloatRange(0.5, 86400),
    default=10.0,
    show_default=True,
    help="How long to watch.",
)
@click.option(
    "--workers", help="Worker counts, such as 1,2,4. [default: powers of two up to the cores, and the cores]"
)
@click.option(
    "--repeat", type=click.IntRange(1, 100), default=3, show_default=True, help="Runs of each, in turn."
)
@click.option(
    "--duration",
    "--seconds",
    "seconds",
    type=click.FloatRange(0.05, 3600),
    default=1.0,
    show_default=True,
    help="Seconds of each run.",
)
@load_options.options(generators="half of the cores")
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    default="shardbroker-tune.conf",
    show_default=True,
    help="Where the configuration is written.",
)
@click.option(
    "--report",
    "report_file",
    type=click.Path(dir_okay=False, path_type=Path),
    default="shardbroker-tune.html",
    show_default=True,
    help="Where the report is written.",
)
@click.option(
    "--write-workload",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the workload as a TOML file, and measure it.",
)
def tune(
    words: tuple[str, ...],
    record: str | None,
    record_seconds: float,
    workers: str | None,
    repeat: int,
    seconds: float,
    warm_up: float,
    generators: int | None,
    config_file: Path,
    report_file: Path,
    json_file: Path | None,
    write_workload: Path | None,
    timeout: float,
    progress: bool,
) -> None:
    """The command."""
    with told("shardbroker tune"):
        cores = len(os.sched_getaffinity(0))
        counts = counts_of(workers, cores)
        for path in (config_file, report_file, json_file, write_workload):
            if path is not None and str(path) != "-" and not path.absolute().parent.is_dir():
                raise LoadError(f"{path}: no such directory")
        console = Console(
            highlight=False, width=None if sys.stdout.isatty() else 150, stderr=str(json_file) == "-"
        )
        if record:
            console.print(f"Watching {record} for {record_seconds:g} s ...", markup=False)
        workload = workload_of(words, record, record_seconds)
        if write_workload:
            write_workload.write_text(workload.to_toml())
        count = generators or default_generators(cores, cores - cores // 2)
        cpus, server_cpus = pinning(count, counts[-1])
        settings = Settings(count, cpus, warm_up, timeout)
        open_files()
        taken = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        for part in workload.parts:
            console.print(f"{part.share:>5.0%}  {part.load.describe()}", markup=False)
        console.print(
            f"[dim]{workload.story}; {_words(counts)} workers, {repeat} runs of {seconds:g} s each[/dim]"
        )

        @contextmanager
        def start(shards: int, more: Sequence[str]) -> Iterator[Target]:
            port = free_port()
            with Process(
                shardbroker_words(shards, port, *more), port, name="shardbroker", cpus=server_cpus
            ) as server:
                yield Target(Endpoint(HOST, port), server.pid, statistics_of(server.pid))

        made = Sweep(workload, [Point(one) for one in counts])
        failure: LoadError | None = None
        with _progress(progress and sys.stderr.isatty()) as bar:
            task = bar.add_task("", total=2 * repeat * len(counts) * len(workload.parts))
            began: list[float] = []

            def tell(shards: int, load: Load, what: str) -> None:
                if began:
                    bar.advance(task)
                began.append(time.monotonic())
                bar.update(
                    task,
                    description=f"{shards} worker{'s' if shards > 1 else ' '}  {load.describe()}  {what}",
                )

            try:
                sweep(workload, counts, start, settings, repeat=repeat, seconds=seconds, tell=tell, into=made)
                sizes = advising.rings_to_try(made) if made.measured() and not made.interrupted else []
                if sizes:
                    bar.update(
                        task, total=(bar.tasks[0].total or 0) + repeat * len(sizes) * len(workload.parts)
                    )
                    best = advising.knee(made).workers
                    sweep_rings(made, best, sizes, start, settings, repeat=repeat, seconds=seconds, tell=tell)
            except LoadError as error:
                failure = error
        if json_file is not None:
            whole: dict[str, Any] = {
                "taken": taken,
                "machine": machine(),
                "versions": versions(),
                **as_json(made),
            }
            write_json(json_file, {**whole, "failure": str(failure)} if failure else whole)
        if made.measured():
            advice = advising.advise(made, count, cores)
            _print(console, made, advice)
            if failure is None:
                config_file.write_text(advising.fragment(advice, made))
                report_file.write_text(report(made, advice, _about(taken, count, cpus, repeat, seconds)))
                console.print(f"[dim]written: {config_file}, {report_file}[/dim]")
        if failure is not None:
            raise failure
        if made.interrupted:
            print("shardbroker tune: interrupted; what is shown was measured before", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED if made.measured() else EXIT_FAILED)


def _progress(wanted: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True, disable=not wanted,
    )  # fmt: skip


def _print(console: Console, made: Sweep, advice: advising.Advice) -> None:
    console.print()
    console.print(table(made, advice.knee))
    console.print()
    size = f", rings of {advice.ring_bytes >> 20} MiB" if advice.workers > 1 else ""
    console.print(f"[bold]Use {advice.workers} worker{'s' if advice.workers > 1 else ''}{size}.[/bold]")
    for reason in advice.reasons:
        console.print(f"  {reason}", markup=False)
    if advice.doubts:
        console.print("[yellow]What this machine could not tell:[/yellow]")
        for doubt in advice.doubts:
            console.print(f"  {doubt}", markup=False)
    if advice.fit is not None:
        law = advice.fit
        console.print(
            f"Scalability law: contention {law.serial:.3f}, crosstalk {law.crosstalk:.5f}, R² {law.r_squared:.3f}"
            + (f" ({law.warning})" if law.warning else "")
        )


def _words(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts))


def _about(
    taken: str, generators: int, cpus: Sequence[Sequence[int]], repeat: int, seconds: float
) -> dict[str, Any]:
    known, said = machine(), versions()
    return {
        "taken": taken,
        "processor": f"{known['cpu']}, {known['cpus']} usable",
        "kernel": known["kernel"],
        "shardbroker": said["shardbroker"],
        "Python": said["python"],
        "load average": f"{known['load_average']:.2f}",
        "generators": f"{generators} process{'es' if generators > 1 else ''}"
        + (", pinned to " + ", ".join(str(cpu[0]) for cpu in cpus) if cpus else ", not pinned"),
        "runs": f"{repeat} of {seconds:g} s for each worker count, load and phase, in turn",
    }
