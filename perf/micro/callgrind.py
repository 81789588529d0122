"""Instructions per message: a broker with one worker under callgrind, a fixed load, two message counts.

    run 1: start, load of A messages, stop   -> instructions of each process
    run 2: start, load of B messages, stop   -> instructions of each process
    unit: (run 2 - run 1) / (B - A), user-mode instructions per message of the load's count (deliveries
          where there are subscribers), by process and by function

Start, stop and connecting are in both runs and fall out. What goes by the clock (pings, heartbeats) does
not quite: under valgrind all is about fifty times slower; the more messages, the less of it. Three runs
of 1x1_16 gave 580, 587 and 591 for the worker; the front's figure is noise of a few instructions. A
system call is one instruction here, so it says nothing of the kernel's part.

    python -m perf.micro.callgrind 1x1_16 fan_out_1x8_16 [--server shardbroker:1] [--messages 20000,120000]
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from perf.load.shapes import SHAPES, Target, run
from perf.servers import HOST, ROOT, Server
from shardbroker.bench import LoadError
from shardbroker.bench.usage import processes

SECONDS_MAX = 600.0          # of a run; the message count ends it long before
FRONT, WORKERS = "front", "workers"


def instructions(path: Path) -> int:
    """All instructions of one process: the totals of its callgrind file."""
    totals = re.findall(r"^(?:totals|summary): (\d+)", path.read_text(errors="replace"), re.M)
    return int(totals[-1]) if totals else 0


def by_function(path: Path) -> Counter[str]:
    """Instructions of each function itself, without its callees."""
    said = subprocess.run(
        ["callgrind_annotate", "--threshold=99.9", "--auto=no", str(path)],
        capture_output=True, text=True, check=True,
    ).stdout
    counts: Counter[str] = Counter()
    for line in said.splitlines():
        found = re.match(r"^\s*([\d,]+) +\(\s*[\d.]+%\)\s+(\S.*)$", line)
        if found and "PROGRAM TOTALS" not in line:
            function = found.group(2).replace(str(ROOT) + "/", "")
            counts[re.sub(r"\[.*/", "[", function)] += int(found.group(1).replace(",", ""))
    return counts


def one_run(
    spec: str, load: str, messages: int, directory: Path
) -> tuple[int, dict[str, Counter[str]]]:
    """Start, load, stop. The messages counted, and instructions by function: front and workers."""
    valgrind = [
        "valgrind", "--tool=callgrind", "--trace-children=yes", "--quiet",
        f"--callgrind-out-file={directory}/out.%p",
    ]
    server = Server(
        spec, under=valgrind, main="perf.micro.without_pidfd", start_seconds_max=300, stop_seconds_max=120
    )
    with server:
        front = server.pid
        family = processes(front)
        figures = run(load, Target(HOST, server.port, server, seconds=SECONDS_MAX, messages=messages))
    costs: dict[str, Counter[str]] = {FRONT: Counter(), WORKERS: Counter()}
    for path in directory.glob("out.*"):
        pid = int(path.name.split(".")[1])
        if pid in family:
            kind = FRONT if pid == front and len(family) > 1 else WORKERS
            costs[kind].update(by_function(path))
            costs[kind]["all"] += instructions(path)
    if not costs[WORKERS]:
        raise LoadError(f"no figures of the worker in {directory}: it did not end of its own accord")
    return int(figures["count"]), costs


def report(spec: str, load: str, counts: list[int], lines: int) -> None:
    """Two runs and their difference, on stdout."""
    runs = []
    for messages in counts:
        with tempfile.TemporaryDirectory(prefix="callgrind-") as directory:
            runs.append(one_run(spec, load, messages, Path(directory)))
    (few, before), (many, after) = runs
    print(f"{load} on {spec}: {few} and {many} messages")
    for kind in (WORKERS, FRONT):
        each = {
            name: (after[kind][name] - before[kind][name]) / (many - few)
            for name in after[kind].keys() | before[kind].keys()
        }
        print(f"  {each.pop('all', 0.0):10.1f} instructions per message, {kind}")
        shown = sorted(each.items(), key=lambda item: -item[1])[: lines if kind == WORKERS else 0]
        for name, cost in shown:
            if cost >= 0.1:
                print(f"  {cost:10.1f}   {name}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m perf.micro.callgrind", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("loads", nargs="*", default=["1x1_16"], metavar="LOAD", help="a stream of perf.load")
    parser.add_argument("--server", default="shardbroker:1")
    parser.add_argument("--messages", default="20000,120000", help="per publisher, two counts")
    parser.add_argument("--lines", type=int, default=25, help="functions to show")
    given = parser.parse_args()
    counts = [int(text) for text in given.messages.split(",")]
    if len(counts) != 2 or counts[0] >= counts[1] or any(load not in SHAPES for load in given.loads):
        parser.error("two growing message counts and known loads, please")
    if not shutil.which("valgrind"):
        parser.error("valgrind is not installed")
    for load in given.loads:
        report(given.server, load, counts, given.lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
