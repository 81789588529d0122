"""How long a request takes, alone and beside a flood: `python -m perf.latency`, then `--enter`.

    for each of --repeat rounds: for each server: idle, then the same while a publisher saturates another subject

With --stream what goes on beside it is a stream in a file that is written as fast as it acknowledges, 1000 in flight, each server
with its own policy of syncing.

One request is in flight. Servers are specs (servers.py) and take turns, so that a slow minute hits all of them; the median
of the rounds counts. Every answer is checked, and the background's messages too. Results go to perf/results/latency/<cpu>.json,
and with --enter from there into docs/performance.md, between its `latency` (`latency-stream`) marks.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from perf.compare import number, output, versions
from perf.figures import entered, peers
from perf.servers import HOST, ROOT, Server, find_nats_server
from shardbroker.bench.connect import Endpoint
from shardbroker.bench.machine import machine
from shardbroker.bench.run import Settings, Target, run
from shardbroker.bench.shapes import background, parse

REQUEST, FLOOD, STREAM = "request:1x1:16", "pub:1:16", "js-pub-async:1:128"
STREAM_IN_FLIGHT = 1000
FIGURES = ("p50_us", "p99_us")
DOCUMENT = ROOT / "docs/performance.md"


def measure(spec: str, seconds: float, flood: str) -> dict[str, dict[str, float]]:
    """p50 and p99 in us of one server: `idle`, and `beside` the flood, with the flood's own rate."""
    with ExitStack() as stack:
        if flood == STREAM:
            spec += f" -js -sd {stack.enter_context(tempfile.TemporaryDirectory(prefix='perf-latency-'))}"
        server = stack.enter_context(Server(spec))
        target = Target(Endpoint(HOST, server.port), server.pid)
        found: dict[str, dict[str, float]] = {}
        for name, beside in (("idle", ""), ("beside", flood)):
            load = parse(REQUEST, seconds=seconds, token=name)
            other = replace(background(beside, load), in_flight=STREAM_IN_FLIGHT) if beside else None
            outcome = run(load, target, Settings(), beside=other)
            assert outcome.latency is not None
            figures = outcome.latency.figures()
            found[name] = {key: figures[key] for key in FIGURES} | {"rate": outcome.rate}
            if beside:
                found[name]["flood_rate"] = outcome.more["background"]["rate"]
    return found


def medians(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        name: {key: statistics.median(one[name][key] for one in rounds) for key in figures}
        for name, figures in rounds[0].items()
    }


def table(kept: dict[str, Any]) -> str:
    """The medians of each server as Markdown."""
    about, options = kept["machine"], kept["options"]
    head = "| server | idle p50 | p99 | beside the flood p50 | p99 | times the idle p99 | flood, messages/s |"
    rows = [head, "|---|" + "---:|" * 6]
    for spec, found in kept["servers"].items():
        idle, beside = found["medians"]["idle"], found["medians"]["beside"]
        cells = [f"{one[key]:.0f}" for one in (idle, beside) for key in FIGURES]
        cells += [f"{beside['p99_us'] / idle['p99_us']:.1f}", number(beside["flood_rate"])]
        rows.append(f"| {spec} | {' | '.join(cells)} |")
    where = (
        f"Microseconds; {about['cpu']}, {about['cpus']} cores shared with both generators, Linux {about['kernel']}, "
        f"{kept['taken'][:10]}, commit {kept['commit']}, beside {', '.join(peers(kept))}; "
        f"medians of {options['repeat']} interleaved runs of {options['seconds']:g} s."
    )
    return where + "\n\n" + "\n".join(rows)


def results_path(kind: str = "latency") -> Path:
    """Of this machine's results of a kind."""
    name = re.sub(r"[^a-z0-9]+", "-", str(machine()["cpu"]).lower()).strip("-")
    return ROOT / "perf/results" / kind / f"{name}.json"


def default_specs() -> list[str]:
    return (["nats-server"] if find_nats_server() else []) + [f"shardbroker:{n}" for n in (1, 2, 3)]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m perf.latency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--servers", help="comma separated specs; default: nats-server, and ours with 1, 2 and 3 workers")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--stream", action="store_true", help="the flood goes into a stream")
    parser.add_argument("--out", type=Path, help="default: perf/results/latency/<cpu>.json; latency-stream with --stream")
    parser.add_argument("--enter", action="store_true", help="do not measure: put what is kept into docs/performance.md")
    given = parser.parse_args()
    kind, flood = ("latency-stream", STREAM) if given.stream else ("latency", FLOOD)
    path = given.out or results_path(kind)
    if given.enter:
        DOCUMENT.write_text(entered(DOCUMENT.read_text(), kind, table(orjson.loads(path.read_bytes()))))
        return
    specs = given.servers.split(",") if given.servers else default_specs()
    rounds: dict[str, list[dict[str, dict[str, float]]]] = {spec: [] for spec in specs}
    progress = Console(stderr=True)
    kept: dict[str, Any] = {
        "taken": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "commit": output("git", "describe", "--always", "--dirty", "--exclude", "*"),
        "versions": versions(specs),
        "options": {"repeat": given.repeat, "seconds": given.seconds, "load": REQUEST, "beside": flood},
    }
    for turn in range(given.repeat):
        for spec in specs:
            rounds[spec].append(measure(spec, given.seconds, flood))
            progress.print(f"{turn + 1}/{given.repeat} {spec}", style="dim", markup=False)
    kept["machine"]["load_average_after"] = os.getloadavg()[0]
    kept["servers"] = {spec: {"medians": medians(ones), "runs": ones} for spec, ones in rounds.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2) + b"\n")
    print(table(kept))
    print(f"written: {path}")


if __name__ == "__main__":
    main()
