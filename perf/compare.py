"""The same loads on several servers of this machine, in turn: `python -m perf.compare`.

    for each load: for each of --repeat rounds: for each server: start it, warm up, measure, stop it

Servers take turns (A B A B ...), so that a slow minute hits all of them. The first is 1; the others'
ratios are per wall second and per CPU second of the server's own processes. Of several rounds the median
counts; MAD, least and greatest stand beside it. Every run is checked (see shardbroker/bench); one that fails is
reported, and the exit status is 1. Servers that do not speak NATS get the plain loads only. All figures go to a file in
perf/results, after every load: a run that was broken off goes on with --resume FILE.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from perf.load.shapes import PLAIN, SHAPES, Shape, Target, run
from perf.servers import HOST, NATS, ROOT, Server, command, default_specs, dialect
from shardbroker.bench import LoadError
from shardbroker.bench.machine import machine

WARM_UP_SECONDS = 0.2
PLAIN_SECONDS_MIN = 0.02
NOT_WARMED = (
    "start_and_rest",
    "subscribe_",
    "idle_connections",
    "hot_",
    "spread_",
)  # they want a fresh server
# Names for several loads. `targets`: what DESIGN promises, streams apart; `plain`: what servers of other protocols can do.
SETS = {
    "targets": "pub_only_16,1x1_*,fan_out_*,mesh_*,wildcard_*,queue_*,request_reply,request_reply_in_flight_16,churn,"
               "subscribe_1,hot_1,hot_1000000,idle_connections,start_and_rest",
    "plain": ",".join(PLAIN),
}
Figures = dict[str, list[dict[str, Any]]]  # by server


def measure(shape: Shape, spec: str, seconds: float, threads: int) -> dict[str, Any]:
    """One run of one load on a server of its own."""
    with Server(spec) as server:
        target = Target(HOST, server.port, server, seconds=seconds, threads=threads)
        if server.dialect != NATS:
            return measure_plain(shape.name, server, target)
        if not shape.name.startswith(NOT_WARMED):
            run(shape, replace(target, seconds=WARM_UP_SECONDS))
        try:
            figures = run(shape, target)
        except LoadError as failure:
            raise LoadError(f"{failure}\n{server.log_tail()}") from failure
        return {
            **figures,
            "start_seconds": server.start_seconds,
            "server_version": server.info.get("version", ""),
        }


def measure_plain(name: str, server: Server, target: Target) -> dict[str, Any]:
    """The same load on a server of another protocol. Needs perf/build, which comparing NATS servers does without."""
    from perf.load import dialects

    spoken = {made.name: made for made in (dialects.REDIS, dialects.MQTT)}[server.dialect]

    # What they have not delivered yet they keep without bound, so a fan-out is published for a shorter time: Mosquitto
    # needs a minute for what comes in within 0.4 s for 64 subscribers.
    subscribers = max(PLAIN[name][2], 1)

    def load(seconds: float) -> dict[str, Any]:
        seconds = max(seconds / subscribers, PLAIN_SECONDS_MIN)
        return dialects.run_plain(spoken, HOST, server.port, *PLAIN[name], seconds, target.messages)

    load(WARM_UP_SECONDS)
    with target.meter():
        figures = load(target.seconds)
    count = figures["received"] if PLAIN[name][2] else figures["published"]
    rate = {"count": count, "seconds": figures["seconds"], "rate": count / figures["seconds"]}
    return {**target.accounted(rate), "start_seconds": server.start_seconds}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, median absolute deviation, least and greatest."""
    middle = statistics.median(values)
    return {
        "median": middle,
        "mad": statistics.median(abs(v - middle) for v in values),
        "min": min(values),
        "max": max(values),
    }


def medians(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """`spread` of every numeric figure that all runs have."""
    keys = [key for key, value in runs[0].items() if isinstance(value, (int, float))] if runs else []
    return {key: spread([one[key] for one in runs if key in one]) for key in keys}


def number(value: float) -> str:
    """Three or four digits and a unit prefix."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return (
                f"{value / limit:.3g}{suffix}" if abs(value) < limit * 100 else f"{value / limit:.0f}{suffix}"
            )
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def table(shape: Shape, runs: Figures) -> Table:
    """One load's lines, a server each."""
    made = Table(
        title=f"{shape.name}  ({shape.unit}{', less is better' if shape.lower else ''})", title_justify="left"
    )
    figures = ("median", "MAD", "min..max", "ratio", "per CPU s", "CPU ratio")
    for column in ("server", *figures, "load CPU", "p50/p99 us", "each B", "PSS"):
        made.add_column(column, justify="left" if column == "server" else "right")
    first = medians(next(iter(runs.values()))) if runs else {}
    for spec, ones in runs.items():
        m = medians(ones)
        if shape.metric not in m:
            made.add_row(spec, "failed")
            continue
        rate, cpu = m[shape.metric], m.get("rate_per_cpu_second")
        made.add_row(
            spec,
            number(rate["median"]),
            number(rate["mad"]),
            f"{number(rate['min'])}..{number(rate['max'])}",
            ratio(m, first, shape.metric),
            number(cpu["median"]) if cpu else "",
            ratio(m, first, "rate_per_cpu_second"),
            f"{m['load_cpu_share']['median']:.0%}" if "load_cpu_share" in m else "",
            f"{m['p50_us']['median']:.0f}/{m['p99_us']['median']:.0f}" if "p50_us" in m else "",
            f"{m['bytes_each']['median']:.0f}" if "bytes_each" in m else "",
            number(m["pss_bytes"]["median"]) if "pss_bytes" in m else "",
        )
    return made


def ratio(mine: dict[str, dict[str, float]], first: dict[str, dict[str, float]], key: str) -> str:
    if key not in mine or key not in first or not first[key]["median"]:
        return ""
    return f"{mine[key]['median'] / first[key]['median']:.2f}x"


def output(*words: str) -> str:
    """What a command says, or nothing when it cannot."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    except OSError:
        return ""
    return done.stdout.strip()


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def commit() -> str:
    """Of the tree that is measured."""
    return output("git", "describe", "--always", "--dirty", "--exclude", "*")


def versions(specs: list[str]) -> dict[str, str]:
    """What each server calls itself (`-v`)."""
    said = {}
    for spec in specs:
        words = command(spec, 0)
        ask = {"redis": ["--version"], "mqtt": ["-h"]}.get(dialect(spec), ["-v"])
        text = output(*words[: 3 if words[1:2] == ["-m"] else 1], *ask)
        said[spec] = text.splitlines()[0] if text else ""
    return said


def choose(patterns: Sequence[str]) -> list[Shape]:
    """Loads by name, glob or the name of a set, in the table's order."""
    patterns = [part for p in patterns for part in SETS.get(p, p).split(",")]
    chosen = [shape for name, shape in SHAPES.items() if any(fnmatch.fnmatch(name, p) for p in patterns)]
    missing = [p for p in patterns if not fnmatch.filter(SHAPES, p)]
    if missing:
        raise SystemExit(f"no load is called {', '.join(missing)}; there are: {', '.join(SHAPES)}")
    return chosen


def results_path(taken: datetime.datetime, cpu: str) -> Path:
    name = re.sub(r"[^a-z0-9]+", "-", cpu.lower()).strip("-")
    return ROOT / "perf/results" / f"{taken:%Y-%m-%d-%H%M}-{name}.json"


def offered(shape: Shape, spec: str) -> bool:
    """Whether this server can be given this load."""
    return dialect(spec) == NATS or shape.name in PLAIN


def begin(given: argparse.Namespace) -> dict[str, Any]:
    """The record of a comparison: a new one, or the one that is resumed."""
    if given.resume:
        kept: dict[str, Any] = orjson.loads(given.resume.read_bytes())
        return kept
    specs = given.servers.split(",") if given.servers else default_specs()
    if not specs or given.repeat < 1:
        raise SystemExit("no server to measure")
    before = machine()
    return {
        "taken": now(),
        "machine": {**before, "load_average_before": before.pop("load_average"), "python": sys.version.split()[0]},
        "commit": commit(),
        "versions": versions(specs),
        "options": {"servers": specs, "repeat": given.repeat, "seconds": given.seconds, "threads": given.threads,
                    "loads": given.loads},
        "note": given.note,
        "loads": {},
        "failures": [],
    }


def compare(shape: Shape, options: dict[str, Any], progress: Console) -> tuple[Figures, list[dict[str, Any]]]:
    """All rounds of one load. The runs, and the failures."""
    specs = [spec for spec in options["servers"] if offered(shape, spec)]
    runs: Figures = {spec: [] for spec in specs}
    failures = []
    for turn in range(options["repeat"]):
        for spec in specs:
            began = time.monotonic()
            try:
                runs[spec].append(measure(shape, spec, options["seconds"], options["threads"]))
            except LoadError as failure:
                failures.append({"load": shape.name, "server": spec, "round": turn, "reason": str(failure)})
                progress.print(f"FAILED {shape.name} on {spec}: {failure}", style="red", markup=False)
            progress.print(
                f"{shape.name} {turn + 1}/{options['repeat']} {spec} {time.monotonic() - began:.1f} s",
                style="dim",
                markup=False,
            )
    return runs, failures


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m perf.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--servers", help="comma separated specs (perf/servers.py); default: what is found")
    parser.add_argument(
        "--loads", default="*", help=f"comma separated names or globs, or {' or '.join(SETS)}: " + ", ".join(SHAPES)
    )
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument(
        "--threads", type=int, default=1 if (os.cpu_count() or 1) < 4 else 2, help="of the generator"
    )
    parser.add_argument("--note", default="", help="kept with the results")
    parser.add_argument("--out", type=Path, help="default: perf/results/<date>-<cpu>.json; - for none")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="go on with a run that was broken off, as it began")
    parser.add_argument("--again", default="", metavar="LOADS", help="with --resume: measure these anew; each says when it was")
    parser.add_argument("--most-seconds", type=float, default=0, help="stop before a load when so long has passed")
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # ours and, inherited, the servers'
    console = Console(width=None if sys.stdout.isatty() else 150)
    progress = Console(stderr=True)
    record = begin(given)
    options = record["options"]
    path = given.resume or given.out
    if path is None:
        path = results_path(datetime.datetime.fromisoformat(record["taken"]), record["machine"]["cpu"])
    began = time.monotonic()
    anew = choose(given.again.split(",")) if given.again else []
    left = anew or [shape for shape in choose(options["loads"].split(",")) if shape.name not in record["loads"]]
    for shape in left:
        if given.most_seconds and time.monotonic() - began > given.most_seconds:
            console.print(f"to be gone on with: python -m perf.compare --resume {path}")
            return 2
        runs, failures = compare(shape, options, progress)
        console.print(table(shape, runs))
        record["loads"][shape.name] = {
            "unit": shape.unit,
            "metric": shape.metric,
            "servers": {spec: {"medians": medians(ones), "runs": ones} for spec, ones in runs.items()},
        }
        if shape in anew:
            record["loads"][shape.name].update(taken=now(), commit=commit())
        record["failures"] += failures
        record["machine"]["load_average_after"] = os.getloadavg()[0]
        if str(path) != "-":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2) + b"\n")
    console.print(f"written: {path}")
    return 1 if record["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
