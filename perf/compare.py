"""The same loads on several servers of this machine, in turn: `python -m perf.compare`.

    for each load: for each of --repeat rounds: for each server: start it, warm up, measure, stop it

Servers take turns (A B A B ...), so that a slow minute hits all of them. The first is 1; the others'
ratios are per wall second and per CPU second of the server's own processes. Of several rounds the median
counts; MAD, least and greatest stand beside it. Every run is checked (see shardbroker/bench); one that fails is
reported, and the exit status is 1. All figures go to a file in perf/results.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import os
import platform
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

from perf.load.shapes import SHAPES, Shape, Target, run
from perf.servers import HOST, ROOT, Server, command, default_specs
from shardbroker.bench import LoadError

WARM_UP_SECONDS = 0.2
NOT_WARMED = (
    "start_and_rest",
    "subscribe_",
    "idle_connections",
    "hot_",
    "spread_",
)  # they want a fresh server
Figures = dict[str, list[dict[str, Any]]]  # by server


def measure(shape: Shape, spec: str, seconds: float, threads: int) -> dict[str, Any]:
    """One run of one load on a server of its own."""
    with Server(spec) as server:
        target = Target(HOST, server.port, server, seconds=seconds, threads=threads)
        if not shape.name.startswith(NOT_WARMED):
            run(shape.name, replace(target, seconds=WARM_UP_SECONDS))
        try:
            figures = run(shape.name, target)
        except LoadError as failure:
            raise LoadError(f"{failure}\n{server.log_tail()}") from failure
        return {
            **figures,
            "start_seconds": server.start_seconds,
            "server_version": server.info.get("version", ""),
        }


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
        return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", text, re.M) or re.search(r"^CPU part\s*: (.*)$", text, re.M)
    return {
        "cpu": model.group(1) if model else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average_before": os.getloadavg()[0],
    }


def versions(specs: list[str]) -> dict[str, str]:
    """What each server calls itself (`-v`)."""
    said = {}
    for spec in specs:
        words = command(spec, 0)
        said[spec] = output(*words[:3], "-v") if words[1:2] == ["-m"] else output(words[0], "-v")
    return said


def choose(patterns: Sequence[str]) -> list[Shape]:
    """Loads by name or glob, in the table's order."""
    chosen = [shape for name, shape in SHAPES.items() if any(fnmatch.fnmatch(name, p) for p in patterns)]
    missing = [p for p in patterns if not fnmatch.filter(SHAPES, p)]
    if missing:
        raise SystemExit(f"no load is called {', '.join(missing)}; there are: {', '.join(SHAPES)}")
    return chosen


def results_path(taken: datetime.datetime, cpu: str) -> Path:
    name = re.sub(r"[^a-z0-9]+", "-", cpu.lower()).strip("-")
    return ROOT / "perf/results" / f"{taken:%Y-%m-%d-%H%M}-{name}.json"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m perf.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--servers", help="comma separated specs (perf/servers.py); default: what is found")
    parser.add_argument("--loads", default="*", help="comma separated names or globs: " + ", ".join(SHAPES))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument(
        "--threads", type=int, default=1 if (os.cpu_count() or 1) < 4 else 2, help="of the generator"
    )
    parser.add_argument("--note", default="", help="kept with the results")
    parser.add_argument("--out", type=Path, help="default: perf/results/<date>-<cpu>.json; - for none")
    given = parser.parse_args()
    specs = given.servers.split(",") if given.servers else default_specs()
    shapes = choose(given.loads.split(","))
    if not specs or given.repeat < 1:
        raise SystemExit("no server to measure")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # ours and, inherited, the servers'
    console = Console(width=None if sys.stdout.isatty() else 150)
    progress = Console(stderr=True)
    taken = datetime.datetime.now(datetime.UTC)
    record: dict[str, Any] = {
        "taken": taken.isoformat(timespec="seconds"),
        "machine": machine(),
        "commit": output("git", "describe", "--always", "--dirty", "--exclude", "*"),
        "versions": versions(specs),
        "options": {
            "servers": specs,
            "repeat": given.repeat,
            "seconds": given.seconds,
            "threads": given.threads,
        },
        "note": given.note,
        "loads": {},
    }
    failures = []
    for shape in shapes:
        runs: Figures = {spec: [] for spec in specs}
        for turn in range(given.repeat):
            for spec in specs:
                began = time.monotonic()
                try:
                    runs[spec].append(measure(shape, spec, given.seconds, given.threads))
                except LoadError as failure:
                    failures.append(
                        {"load": shape.name, "server": spec, "round": turn, "reason": str(failure)}
                    )
                    progress.print(f"FAILED {shape.name} on {spec}: {failure}", style="red", markup=False)
                progress.print(
                    f"{shape.name} {turn + 1}/{given.repeat} {spec} {time.monotonic() - began:.1f} s",
                    style="dim",
                    markup=False,
                )
        console.print(table(shape, runs))
        record["loads"][shape.name] = {
            "unit": shape.unit,
            "metric": shape.metric,
            "servers": {spec: {"medians": medians(ones), "runs": ones} for spec, ones in runs.items()},
        }
    record["failures"] = failures
    record["machine"]["load_average_after"] = os.getloadavg()[0]
    if str(given.out) != "-":
        path = given.out or results_path(taken, record["machine"]["cpu"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2) + b"\n")
        console.print(f"written: {path}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
