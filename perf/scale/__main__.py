"""How cost per message and memory grow: `python -m perf.scale [NAME ...]`, then `--draw`.

    for each of --repeat rounds: for each number: a fresh broker, the load, its CPU time and memory

Numbers take turns, so that a slow minute hits all; the median of the rounds counts. Results of one or more growths go to
perf/results/scale/<cpu>.json, others in it stay. --draw makes docs/scale.svg from that file. --instructions counts, with
callgrind, what a match and a directory lookup execute at several sizes (any machine, busy or not).
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import resource
import statistics
import sys
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from perf import chart
from perf.compare import number, output
from perf.load.shapes import Target
from perf.scale.loads import GROWTHS, Growth, Point
from perf.servers import HOST, ROOT, Server
from shardbroker.bench.machine import machine

COUNTED = ("match_literal_1", "match_literal_1000", "match_literal_100000", "directory_hit_1000", "directory_hit_100000")


def measure(growth: Growth, repeat: int, seconds: float, progress: Console) -> dict[int, list[Point]]:
    """All rounds of one growth."""
    points: dict[int, list[Point]] = {n: [] for n in growth.numbers}
    for _ in range(repeat):
        for n in growth.numbers:
            with Server(growth.spec.format(n=n)) as server:
                target = Target(HOST, server.port, server, seconds=seconds)
                points[n].append(growth.load(target, n))
            progress.print(f"{growth.of} {n}: {points[n][-1]['ns']:.0f} ns", style="dim")
    return points


def summary(points: dict[int, list[Point]]) -> list[dict[str, float]]:
    """For each number: median of each figure, and least and greatest of ns."""
    rows = []
    for n, ones in points.items():
        row: dict[str, float] = {"n": n}
        row.update({key: statistics.median(one[key] for one in ones) for key in ones[0]})
        row.update(ns_least=min(one["ns"] for one in ones), ns_most=max(one["ns"] for one in ones))
        rows.append(row)
    return rows


def draw(kept: dict[str, Any]) -> str:
    """docs/scale.svg."""

    def line(name: str, key: str = "ns") -> list[tuple[float, float]]:
        return [(row["n"], row[key]) for row in kept["growths"].get(name, {}).get("points", []) if key in row]

    held = {"one subject": line("subscriptions_hot"), "all in turn": line("subscriptions_spread")}
    plots = [
        chart.Panel("Subscriptions held", "subscriptions", "server CPU, ns a message", held),
        chart.Panel("Subjects in turn, one wildcard", "subjects", "server CPU, ns a message", {"": line("subjects")}),
        chart.Panel("Idle connections", "connections", "server CPU, ns a message", {"": line("connections")}),
        chart.Panel("Memory of what is held", "number", "bytes each (PSS)",
                    {"subscription": line("subscriptions_hot", "bytes_each"), "connection": line("connections", "bytes_each")}),
        chart.Panel("Shards, 4 publishers to 4 subscribers", "shards", "server CPU, ns a delivery",
                    {"": line("shards")}, log_x=False),
        chart.Panel("Payload", "bytes", "server CPU, ns a message", {"": line("payload")}, log_y=True),
    ]
    about = kept["machine"]
    return chart.panels(
        "Cost against size", f"one worker unless said, {about['cpu']}, {about['cpus']} cores, {kept['taken'][:10]}, "
        f"commit {kept['commit']}", plots)


def results_path() -> Path:
    name = re.sub(r"[^a-z0-9]+", "-", machine()["cpu"].lower()).strip("-")
    return ROOT / "perf/results/scale" / f"{name}.json"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m perf.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(GROWTHS)}; default: all")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each run")
    parser.add_argument("--instructions", action="store_true", help="count instead of timing")
    parser.add_argument("--draw", action="store_true", help="only draw docs/scale.svg from what is kept")
    parser.add_argument("--out", type=Path, help="default: perf/results/scale/<cpu>.json")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in GROWTHS]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}")
    path = given.out or results_path()
    kept: dict[str, Any] = orjson.loads(path.read_bytes()) if path.is_file() else {"growths": {}}
    if given.draw:
        (ROOT / "docs/scale.svg").write_text(draw(kept))
        return 0
    kept.update(
        taken=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), machine=machine(),
        commit=output("git", "describe", "--always", "--dirty", "--exclude", "*"),
    )
    if given.instructions:
        from perf.micro.instructions import count

        kept["instructions"] = {name: round(cost, 1) for name, cost in count(COUNTED).items()}
    else:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        console = Console(width=None if sys.stdout.isatty() else 110)
        for name in given.names or GROWTHS:
            before = os.getloadavg()[0]
            rows = summary(measure(GROWTHS[name], given.repeat, given.seconds, Console(stderr=True)))
            kept["growths"][name] = {
                "of": GROWTHS[name].of, "repeat": given.repeat, "seconds": given.seconds, "points": rows,
                "load_average": [before, os.getloadavg()[0]], "taken": kept["taken"], "commit": kept["commit"],
            }
            table = Table(title=name, title_justify="left")
            for column in (GROWTHS[name].of, "CPU ns a message", "least..most", "messages/s", "bytes each", "all"):
                table.add_column(column, justify="right")
            for row in rows:
                table.add_row(
                    f"{row['n']:,.0f}", f"{row['ns']:.0f}", f"{row['ns_least']:.0f}..{row['ns_most']:.0f}",
                    number(row["rate"]), number(row["bytes_each"]) if "bytes_each" in row else "",
                    number(row["bytes_all"]) if "bytes_all" in row else "",
                )
            console.print(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
