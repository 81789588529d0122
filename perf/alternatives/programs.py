"""Designs compared in small C programs of their own: `python -m perf.alternatives.programs arena` or `uring`.

    arena    payloads inline in each reader's ring, or once in the writer's arena with descriptors of 8 bytes (arena.c)
    uring    64 sends a turn: sendmsg, io_uring, io_uring with a kernel thread (uring.c)

Designs take turns; medians of --repeat rounds go to perf/results/alternatives/<name>.json. Both programs check what arrives.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from perf.compare import output
from perf.servers import ROOT
from shardbroker.bench.machine import machine

HERE = Path(__file__).resolve().parent
RUN_SECONDS_MAX = 60
RUN_BYTES = 400_000_000                 # of payload in one run, about: some tenths of a second


def arena_cases() -> Iterator[tuple[str, list[str]]]:
    """(what, arguments behind the design): shards are the writer's and the readers'."""
    for shards, fan, size in itertools.product((2, 4), ("all", "one"), (16, 128, 1024, 4096, 16384)):
        readers = shards - 1
        if (shards, fan) == (2, "one"):
            continue                    # with one reader that is all
        count = max(20_000, min(1_000_000, RUN_BYTES // ((size + 300) * (readers if fan == "all" else 1))))
        to = "each" if fan == "all" else "one in turn"
        yield f"{shards} shards, to {to}, {size} B", [str(readers), str(size), fan, str(count)]


def uring_cases() -> Iterator[tuple[str, list[str]]]:
    for size in (128, 1024, 6400, 65536):
        yield f"64 sends of {size} B", [str(size), str(max(160, min(3200, RUN_BYTES // (64 * (size + 3000)))))]


DESIGNS = {"arena": ("inline", "arena"), "uring": ("sendmsg", "uring", "sqpoll")}
CASES = {"arena": arena_cases, "uring": uring_cases}


def figures(name: str, words: list[str]) -> dict[str, float]:
    """From a program's line: ns of CPU and of wall time for each delivery or send."""
    numbers = [float(word) for word in words]
    count, wall, sender, receiver = numbers[:4]
    each = {"writer_ns": sender, "reader_ns": receiver, "cpu_ns": sender + receiver, "wall_ns": wall}
    made = {key: value / count for key, value in each.items()}
    return {**made, "sleeps": numbers[4]} if name == "arena" else made


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m perf.alternatives.programs", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=DESIGNS)
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    runs: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    refused: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="perf-alternatives-") as directory:
        program = f"{directory}/{given.name}"
        subprocess.run(["cc", "-O3", "-Wall", str(HERE / f"{given.name}.c"), "-o", program], check=True)
        for _ in range(given.repeat):
            for what, arguments in CASES[given.name]():
                for design in DESIGNS[given.name]:
                    if design in refused:
                        continue
                    done = subprocess.run([program, design, *arguments], capture_output=True, text=True, timeout=RUN_SECONDS_MAX)
                    if done.returncode == 3:
                        refused[design] = done.stdout.strip()
                    elif done.returncode:
                        raise SystemExit(f"{design} {what}: {done.stderr.strip() or done.returncode}")
                    else:
                        runs[what][design].append(figures(given.name, done.stdout.split()))
    for design, reason in refused.items():
        console.print(f"{design}: {reason}")
    medians: dict[str, dict[str, dict[str, float]]] = {
        what: {design: {key: statistics.median(one[key] for one in ones) for key in ones[0]} for design, ones in designs.items()}
        for what, designs in runs.items()
    }
    unit = "delivery" if given.name == "arena" else "send"
    table = Table(title=f"ns for each {unit}, medians of {given.repeat}", title_justify="left")
    for column in ("", "design", "sender", "receiver", "both", "ratio", "wall"):
        table.add_column(column, justify="left" if column in ("", "design") else "right")
    for what, designs in medians.items():
        first = next(iter(designs.values()))
        for design, m in designs.items():
            table.add_row(what if m is first else "", design, f"{m['writer_ns']:.1f}", f"{m['reader_ns']:.1f}",
                          f"{m['cpu_ns']:.1f}", f"{m['cpu_ns'] / first['cpu_ns']:.2f}", f"{m['wall_ns']:.1f}")
    console.print(table)
    kept: dict[str, Any] = {
        "taken": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "machine": machine(),
        "commit": output("git", "describe", "--always", "--dirty", "--exclude", "*"), "repeat": given.repeat,
        "refused": refused, "cases": medians,
    }
    path = ROOT / f"perf/results/alternatives/{given.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
