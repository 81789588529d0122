"""Streams, consumers and buckets, on several servers in turn: `python -m perf.jetstream`, then `--enter`.

    for each load: for each of --repeat rounds: for each server: start it on an empty store, measure, stop it

The first server is 1. Each syncs as its own default says (nats-server: every two minutes; ours: before each acknowledgement),
but where a load says another policy, which then all have. One client, on a connection of its own. For the load with a sync
for each message, `disk` is measured in the same rounds: a write of as many bytes into a preallocated file of the same file
system, then fdatasync, one after the other. Every message is checked (shardbroker/bench). Results go to
perf/results/jetstream/<cpu>.json, load by load, and with --enter from there into docs/performance.md.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from perf.compare import commit, medians, now, number, versions
from perf.figures import entered, peers
from perf.latency import results_path
from perf.servers import HOST, ROOT, Server, find_nats_server
from shardbroker.bench import LoadError
from shardbroker.bench.connect import Endpoint
from shardbroker.bench.machine import machine
from shardbroker.bench.run import Settings, Target, run
from shardbroker.bench.shapes import parse

DOCUMENT = ROOT / "docs/performance.md"
DISK = "disk"
RECORD_BYTES = 208  # of a message of 128 bytes, with its head and subject, as our log has it
DISK_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Case:
    """One load. bench: as for `shardbroker bench`, with its options. sync: what all servers have for `sync_interval`;
    empty: their default. least: how many times the first server's rate is aimed at; of `disk`'s, where that is measured."""

    name: str
    bench: str
    least: float
    sync: str = ""
    disk: bool = False
    msgs: int = 0
    in_flight: int = 1
    storage: str = "file"
    subjects: int | None = None


CASES = {
    case.name: case
    for case in (
        Case("publish_128", "js-pub-async:1:128", 2.0, in_flight=1000),
        Case("publish_1024", "js-pub-async:1:1024", 2.0, in_flight=1000),
        Case("publish_memory_128", "js-pub-async:1:128", 2.0, in_flight=1000, storage="memory"),
        Case("publish_memory_1024", "js-pub-async:1:1024", 2.0, in_flight=1000, storage="memory"),
        Case("ordered_128", "js-ordered:1:128", 2.0, msgs=300_000),
        Case("ordered_1024", "js-ordered:1:1024", 2.0, msgs=300_000),
        Case("consume_128", "js-consume:1:128", 1.5, msgs=200_000),
        Case("fetch_128", "js-fetch:1:128", 1.5, msgs=200_000),
        Case("fetch_1024", "js-fetch:1:1024", 1.5, msgs=200_000),
        Case("put_128", "kv-put:1:128", 1.5, in_flight=1000),
        Case("get_128", "kv-get:1:128", 1.5, in_flight=1000),
        Case("get_one_128", "kv-get:1:128", 1.5),
        Case("publish_one_interval_128", "js-pub-sync:1:128", 1.0, sync="2m"),
        Case("publish_one_always_128", "js-pub-sync:1:128", 0.8, sync="always", disk=True),
    )
}


def disk(directory: Path, seconds: float) -> dict[str, Any]:
    """Writes of a record, each with its fdatasync, a second."""
    payload = bytes(RECORD_BYTES)
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        os.posix_fallocate(file.fileno(), 0, DISK_FILE_BYTES)
        os.fsync(file.fileno())
        began = time.monotonic()
        count = 0
        while (passed := time.monotonic() - began) < seconds:
            os.pwrite(file.fileno(), payload, count * RECORD_BYTES % (DISK_FILE_BYTES - RECORD_BYTES))
            os.fdatasync(file.fileno())
            count += 1
    return {"count": count, "seconds": passed, "rate": count / passed}


def measure(case: Case, spec: str, seconds: float, directory: Path) -> dict[str, Any]:
    """One run on a server, and a store, of its own."""
    with tempfile.TemporaryDirectory(prefix="perf-jetstream-", dir=directory) as made:
        store = Path(made)
        if spec == DISK:
            return disk(store, seconds)
        conf = store / "server.conf"
        sync = f"sync_interval: {case.sync}" if case.sync else ""
        conf.write_text(f"jetstream {{ store_dir: '{store / 'store'}'\n{sync} }}\n")
        with Server(f"{spec} -c {conf}") as server:
            load = parse(
                case.bench, seconds=seconds, msgs=case.msgs, in_flight=case.in_flight, storage=case.storage,
                subjects=case.subjects,
            )  # fmt: skip
            try:
                outcome = run(load, Target(Endpoint(HOST, server.port), server.pid), Settings(timeout=60))
            except LoadError as failure:
                raise LoadError(f"{failure}\n{server.log_tail()}") from failure
    cpu = outcome.server_cpu_seconds or 0.0
    figures = {"count": outcome.count, "seconds": outcome.seconds, "rate": outcome.rate, "cpu_seconds": cpu,
               "load_cpu_share": max(outcome.generator_cpu_shares)}  # fmt: skip
    if cpu:
        figures |= {"rate_per_cpu_second": outcome.count / cpu, "cpu_us_each": cpu / outcome.count * 1e6}
    if outcome.latency:
        figures |= {key: value for key, value in outcome.latency.figures().items() if key in ("p50_us", "p99_us")}
    return figures


def compare(case: Case, specs: list[str], repeat: int, seconds: float, directory: Path, progress: Console) -> dict[str, Any]:
    """All rounds of one load."""
    specs = [*specs, DISK] if case.disk else specs
    runs: dict[str, list[dict[str, Any]]] = {spec: [] for spec in specs}
    for turn in range(repeat):
        for spec in specs:
            runs[spec].append(measure(case, spec, seconds, directory))
            progress.print(f"{case.name} {turn + 1}/{repeat} {spec} {runs[spec][-1]['rate']:,.0f}", style="dim", markup=False)
    return {"taken": now(), "commit": commit(), "repeat": repeat, "seconds": seconds,
            "servers": {spec: {"medians": medians(ones), "runs": ones} for spec, ones in runs.items()}}  # fmt: skip


def table(kept: dict[str, Any]) -> str:
    """The medians as Markdown: rates, and how they stand against what is aimed at."""
    about = kept["machine"]
    first, *ours = kept["servers"]
    head = ["load", first, *(cell for spec in ours for cell in (spec, "times", "aim", "per CPU s"))]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, load in kept["loads"].items():
        case, servers = CASES[name], load["servers"]
        found = {spec: one["medians"] for spec, one in servers.items()}
        against = found[DISK] if case.disk else found[first]
        row = [f"`{name}`", number(found[first]["rate"]["median"])]
        for spec in ours:
            mine = found[spec]
            times = mine["rate"]["median"] / against["rate"]["median"]
            cpu = mine["rate_per_cpu_second"]["median"] / found[first]["rate_per_cpu_second"]["median"]
            of = " of the disk" if case.disk else ""
            row += [number(mine["rate"]["median"]), f"{times:.2f}{of}", f"{case.least:g}", f"{cpu:.2f}"]
        if case.disk:
            row[0] += f" (disk: {number(against['rate']['median'])})"
        rows.append(row)
    where = (
        f"A second; {about['cpu']}, {about['cpus']} cores shared with the load generator, Linux {about['kernel']}, "
        f"beside {', '.join(peers(kept))}; medians of interleaved runs; commits "
        f"{', '.join(sorted({load['commit'] for load in kept['loads'].values()}))}."
    )
    return where + "\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m perf.jetstream", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("loads", nargs="*", default=["*"], metavar="LOAD", help=f"names or globs of {', '.join(CASES)}")
    parser.add_argument("--servers", help="comma separated specs (servers.py); default: nats-server and one worker of ours")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each run that ends by time")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where stores are made")
    parser.add_argument("--out", type=Path, help="default: perf/results/jetstream/<cpu>.json; - for none")
    parser.add_argument("--enter", action="store_true", help="do not measure: put what is kept into docs/performance.md")
    given = parser.parse_args()
    path = given.out or results_path("jetstream")
    kept: dict[str, Any] = orjson.loads(path.read_bytes()) if path.exists() else {"loads": {}}
    if given.enter:
        DOCUMENT.write_text(entered(DOCUMENT.read_text(), "jetstream", table(kept)))
        return 0
    specs = given.servers.split(",") if given.servers else [*(["nats-server"] if find_nats_server() else []), "shardbroker:1"]
    names = [name for name in CASES if any(fnmatch.fnmatch(name, pattern) for pattern in given.loads)]
    if not names:
        parser.error(f"no load is called {' '.join(given.loads)}")
    kept |= {"machine": machine(), "versions": versions(specs), "servers": specs}
    progress = Console(stderr=True)
    for name in names:
        kept["loads"][name] = compare(CASES[name], specs, given.repeat, given.seconds, given.directory, progress)
        kept["loads"] = {each: kept["loads"][each] for each in CASES if each in kept["loads"]}
        if str(path) != "-":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2) + b"\n")
    print(table({**kept, "loads": {name: kept["loads"][name] for name in names}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
