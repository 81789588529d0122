"""`shardbroker bench`: load a NATS server, check every message, print the figures. The work is done in shardbroker/bench."""

from __future__ import annotations

import datetime
import os
import resource
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from shardbroker.bench import SUBJECTS_MAX, LoadError, interrupt, shapes
from shardbroker.bench.connect import Connection, Endpoint
from shardbroker.bench.credentials import read_credentials, read_nkey
from shardbroker.bench.machine import machine, versions
from shardbroker.bench.report import notes, table
from shardbroker.bench.run import Outcome, Settings, Target, default_generators, pinning, run
from shardbroker.bench.server import HOST, Process, free_port, listener, shardbroker_words
from shardbroker.cli import load_options
from shardbroker.errors import BrokerError

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
SHAPE_HELP = "\b\nShapes:\n" + "\n".join(
    f"  {shape.name:13} {shape.text}" for shape in shapes.SHAPES.values()
)
HELP = f"""Load a NATS server and check every message that comes back.

A SHAPE is NAME[:COUNTS][:SIZE][@RATE], such as fanout:1x8:128B or pubsub:2x4:1KB@50000. Without --server a broker of
ours is started for each shape. Lost, doubled, reordered or changed messages end the run with status 1 and no figure.

{SHAPE_HELP}

\b
Sizes: 128, 4KB, 64..4096 (uniform), lognormal:512,1.0 (median, sigma), 64=80,1KB=20 (weights).
The full story is in docs/load-testing.md.
"""


def statistics_of(pid: int) -> Callable[[], list[dict[str, int]]] | None:
    """A function that reads a broker's per-shard counters; None if this is no broker of ours, or we may not look."""
    from shardbroker.cli.status import attach, brokers
    from shardbroker.shm import stats

    if pid not in brokers():
        return None
    try:
        _, segment = attach(pid)
    except BrokerError:
        return None

    def read() -> list[dict[str, int]]:
        rows = [stats.as_dict(row) for row in stats.snapshot(segment)]
        return [
            {"shard": shard, **{key: value for key, value in row.items() if isinstance(value, int)}}
            for shard, row in enumerate(rows)
        ]

    return read


def pid_of(endpoint: Endpoint, given: int | None) -> int:
    """The server's first process, as far as it can be known: given, or what listens on that port of this machine."""
    if given is not None:
        return given
    return listener(endpoint.port) if endpoint.is_local else 0


@dataclass(frozen=True)
class Started:
    """The server that each run has anew: ours, or of a command with {port} in it."""

    workers: int
    command: str
    cpus: list[int]
    store_dir: Path | None


@contextmanager
def started(wanted: Started, *, streams: bool) -> Iterator[Process]:
    """One of them, for one run. streams: ours serves them, from a directory of its own that is gone afterwards."""
    port, command = free_port(), wanted.command
    with ExitStack() as stack:
        if command:
            words = [word.replace("{port}", str(port)) for word in shlex.split(command)]
        else:
            words = shardbroker_words(wanted.workers, port)
            if streams:
                made = TemporaryDirectory(prefix="shardbroker-bench-", dir=wanted.store_dir)
                words += ["-js", "-sd", stack.enter_context(made)]
        name = words[0] if command else "shardbroker"
        yield stack.enter_context(Process(words, port, name=name, cpus=wanted.cpus))


class Shown:
    """A progress bar on a terminal; nothing elsewhere."""

    def __init__(self, console: Console, wanted: bool) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<32}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[what]:>11} {task.fields[rate]:>16}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not wanted,
        )
        self._task = self._progress.add_task("", total=None, what="", rate="")
        self._unit = ""
        self._began = 0.0

    def __enter__(self) -> Shown:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begin(self, load: shapes.Load, turn: str) -> None:
        self._unit = load.row.unit
        self._began = 0.0
        self._progress.reset(self._task, total=None, description=f"{load.describe()}{turn}", what="", rate="")

    def __call__(self, what: str, share: float, count: int) -> None:
        rate = ""
        now = self._progress.get_time()
        if what == "measuring":
            self._began = self._began or now
            if now - self._began > 0.2:
                rate = f"{count / (now - self._began):,.0f} {self._unit}"
        self._progress.update(
            self._task, what=what, rate=rate, total=None if share < 0 else 1.0, completed=max(share, 0.0)
        )


@click.command(name="bench", help=HELP)
@click.argument("wanted", nargs=-1, required=True, metavar="SHAPE...")
@click.option(
    "-s",
    "--server",
    envvar="NATS_URL",
    help="Load this server: nats://[user:password@]host[:port]. ($NATS_URL)",
)
@click.option("--user", envvar="NATS_USER", default="", help="User name. ($NATS_USER)")
@click.option("--password", envvar="NATS_PASSWORD", default="", help="Password. ($NATS_PASSWORD)")
@click.option("--token", envvar="NATS_TOKEN", default="", help="Token. ($NATS_TOKEN)")
@click.option(
    "--creds",
    envvar="NATS_CREDS",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Credentials file: a user's JWT and seed. ($NATS_CREDS)",
)
@click.option(
    "--nkey",
    envvar="NATS_NKEY",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with a user's nkey seed. ($NATS_NKEY)",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    help="Start a broker of ours with so many workers for each shape. [default: 1]",
)
@click.option(
    "--start",
    "command",
    default="",
    help="Start this server instead: a command with {port} in it, such as 'nats-server -p {port}'.",
)
@click.option(
    "--store-dir",
    type=click.Path(exists=True, file_okay=False, writable=True, resolve_path=True, path_type=Path),
    help="Where a broker of ours keeps its streams meanwhile. [default: the directory for temporary files]",
)
@click.option(
    "--pid", type=int, help="The server's process, for its CPU and memory; found by itself where it can be."
)
@click.option("--msgs", type=click.IntRange(1), help="Messages to publish in all, instead of --duration.")
@click.option(
    "--duration",
    "--seconds",
    "duration",
    type=click.FloatRange(0.05, 86400),
    default=3.0,
    show_default=True,
    help="Seconds of each run.",
)
@click.option(
    "--size", default="128", show_default=True, help="Payload sizes, of shapes that do not say it themselves."
)
@click.option(
    "--clients",
    type=click.IntRange(1),
    help="Publishers or requesters, of shapes that do not say it themselves.",
)
@click.option(
    "-H",
    "--header",
    "headers",
    multiple=True,
    metavar="KEY:VALUE",
    help="A header of every message; may be repeated.",
)
@click.option(
    "--rate",
    "--throughput",
    "rate",
    type=click.FloatRange(0),
    default=0,
    help="Messages per second of all clients: an open loop, with latencies from when each was due.",
)
@click.option(
    "--subjects",
    "--multisubjectmax",
    "subjects",
    type=int,
    help=f"Publish to so many subjects in turn, at most {SUBJECTS_MAX:,}.",
)
@click.option(
    "--zipf",
    type=float,
    default=0.0,
    help="Draw the subjects by Zipf's law with this exponent, instead of in turn.",
)
@click.option("--in-flight", type=click.IntRange(1, 65536), help="Unanswered requests of each requester.")
@click.option(
    "--batch",
    type=click.IntRange(1, 65536),
    default=500,
    show_default=True,
    help="Messages of a JetStream batch or fetch.",
)
@click.option(
    "--slow",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Slow subscribers beside those that keep up (shape slow).",
)
@click.option(
    "--slow-rate",
    type=click.IntRange(0),
    default=0,
    help="Bytes per second that a slow one reads; 0: nothing.",
)
@click.option(
    "--window",
    type=click.IntRange(1, 100_000),
    default=1000,
    show_default=True,
    help="Subscriptions that each connection holds (shape subscribe).",
)
@click.option(
    "--background",
    "beside",
    default="",
    metavar="SHAPE",
    help="Another load that goes on meanwhile, such as pubsub:1x1:1KB@10000.",
)
@click.option(
    "--stream", default="benchstream", show_default=True, help="Stream; made for the run unless it is there."
)
@click.option(
    "--storage",
    type=click.Choice(["file", "memory"]),
    default="file",
    show_default=True,
    help="Of the stream or bucket.",
)
@click.option(
    "--bucket",
    default="benchbucket",
    show_default=True,
    help="Key-value bucket; made for the run unless it is there.",
)
@click.option("--consumer", default="nats-bench", show_default=True, help="Durable consumer.")
@click.option(
    "--repeat",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Runs of each shape, in turn.",
)
@load_options.options(generators="as there are cores left")
@click.option(
    "--pin/--no-pin",
    default=True,
    help="Give generators and our own server processors of their own, where there are enough.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of sizes and subjects that are drawn.")
def bench(
    wanted: tuple[str, ...],
    server: str | None,
    user: str,
    password: str,
    token: str,
    creds: Path | None,
    nkey: Path | None,
    workers: int | None,
    command: str,
    store_dir: Path | None,
    pid: int | None,
    msgs: int | None,
    duration: float,
    size: str,
    clients: int | None,
    headers: tuple[str, ...],
    rate: float,
    subjects: int | None,
    zipf: float,
    in_flight: int | None,
    batch: int,
    slow: int,
    slow_rate: int,
    window: int,
    beside: str,
    stream: str,
    storage: str,
    bucket: str,
    consumer: str,
    repeat: int,
    generators: int | None,
    pin: bool,
    warm_up: float,
    timeout: float,
    seed: int,
    json_file: Path | None,
    progress: bool,
) -> None:
    """The command."""
    options = {
        "size": size,
        "clients": clients or 0,
        "rate": rate,
        "msgs": msgs or 0,
        "seconds": duration,
        "subjects": subjects,
        "zipf": zipf,
        "headers": headers,
        "in_flight": in_flight,
        "batch": batch,
        "slow": slow,
        "slow_rate": slow_rate,
        "window": window,
        "seed": seed,
        "storage": storage,
        "stream": stream,
        "bucket": bucket,
        "consumer": consumer,
    }
    with told():
        if sum(map(bool, (server, workers, command))) > 1:
            raise click.UsageError("--server, --workers and --start exclude each other")
        loads = [shapes.parse(text, **options) for text in wanted]
        other = shapes.background(beside, loads[0]) if beside else None
        endpoint = None
        if server:
            if creds and nkey:
                raise click.UsageError("--creds and --nkey exclude each other")
            jwt, secret = read_credentials(creds) if creds else ("", read_nkey(nkey) if nkey else "")
            endpoint = Endpoint.of(server, user=user, password=password, token=token, seed=secret, jwt=jwt).resolve()
            if endpoint.seed and any(load.shape == "connect" for load in (*loads, *([other] if other else []))):
                raise LoadError("connect: with an nkey each connection has to sign, which would be what is measured")
        cores = len(os.sched_getaffinity(0))
        busy = workers or 1 if not endpoint else cores // 2 if endpoint.is_local else 0
        count = generators or default_generators(cores, busy)
        cpus, server_cpus = pinning(count, busy) if pin and not server and not command else ([], [])
        settings = Settings(count, cpus, warm_up, timeout)
        to_start = Started(workers or 1, command, server_cpus, store_dir)
        open_files()
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
        record: dict[str, Any] = {
            "taken": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions(),
            "generators": {"processes": count, "pinned": cpus, "server_pinned": server_cpus},
            "runs": [],
        }
        outcomes: list[list[Outcome]] = [[] for _ in loads]
        failure: Exception | None = None
        interrupted = False
        with Shown(Console(stderr=True), progress and sys.stderr.isatty()) as shown:
            try:
                for turn in range(repeat):
                    for load, ones in zip(loads, outcomes, strict=True):
                        shown.begin(load, f"  {turn + 1}/{repeat}" if repeat > 1 else "")
                        outcome, about = one_run(load, other, endpoint, to_start, pid, settings, shown)
                        ones.append(outcome)
                        record["runs"].append({**outcome.as_json(), "server": about})
                        if outcome.interrupted:
                            raise KeyboardInterrupt
            except LoadError as error:
                failure = error
                where = load.describe()
            except KeyboardInterrupt:
                interrupted = True
        record["machine"]["load_average_after"] = os.getloadavg()[0]
        if any(outcomes):
            to = Console(stderr=True) if str(json_file) == "-" else console
            to.print(table([ones for ones in outcomes if ones]))
            for note in notes([one for ones in outcomes for one in ones], count, cpus):
                to.print(note)
        if failure is not None:
            record["failure"] = str(failure)
        record["interrupted"] = interrupted
        if json_file is not None:
            write_json(json_file, record)
        if failure is not None:
            raise LoadError(f"{where}: {failure}")
        if interrupted:
            print("shardbroker bench: interrupted; what is shown was checked", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)


def one_run(
    load: shapes.Load,
    other: shapes.Load | None,
    endpoint: Endpoint | None,
    wanted: Started,
    pid: int | None,
    settings: Settings,
    shown: Shown,
) -> tuple[Outcome, dict[str, Any]]:
    """One load on the server that is wanted; what came of it, and what the server says of itself."""
    with ExitStack() as stack:
        if endpoint is None:
            shown("starting", -1, 0)
            streams = any(one.is_jetstream for one in (load, other) if one)
            process = stack.enter_context(started(wanted, streams=streams))
            where, server_pid, info = Endpoint(HOST, process.port), process.pid, process.info
        else:
            where = endpoint
            connection = Connection(where.host, where.port, endpoint=where, timeout_seconds=settings.timeout)
            with connection:
                info = connection.info
            server_pid = pid_of(where, pid)
        # A load of its own: subjects of one run are not those of another that may go on elsewhere.
        fresh = replace(load, token=os.urandom(4).hex())
        try:
            outcome = run(fresh, Target(where, server_pid, statistics_of(server_pid)), settings, shown, other)
        except LoadError as failure:
            if endpoint is None and (said := process.complaints()):
                raise LoadError(f"{failure}\nThe server says:\n{said}") from failure
            raise
        ours = outcome.shards and {"workers": len(outcome.shards)}
        names = ("server_name", "server_id", "version", "go", "headers", "jetstream", "max_payload")
        about = {name: info[name] for name in names if name in info}
        return outcome, {**about, "address": where.address, "pid": server_pid, **(ours or {})}


def write_json(path: Path, record: dict[str, Any]) -> None:
    data = orjson.dumps(record, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n"
    if str(path) == "-":
        sys.stdout.buffer.write(data)
    else:
        path.write_bytes(data)


def open_files() -> None:
    """As many descriptors as we may have, for us and, inherited, for generators and servers."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def told(program: str = "shardbroker bench") -> Iterator[None]:
    """Errors in one line on standard error with their exit status; Ctrl-C and SIGTERM end what runs in order."""
    interrupt.install()
    try:
        yield
    except (LoadError, BrokerError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except OSError as error:
        print(f"{program}: {error.filename or ''} {error.strerror}".replace(":  ", ": "), file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
