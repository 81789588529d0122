"""Instructions per message of the whole broker: one worker under callgrind, loads of two lengths, the difference.

    start the broker under callgrind
    each load: mark, A messages, mark, B messages, mark
    (instructions between the last two marks - between the first two) / (B - A)

A mark is a new connection: callgrind writes what it has counted, and begins at 0, each time the worker takes one. Start,
stop and connecting fall out of the difference. What goes by the clock (pings, heartbeats) does not quite, because under
valgrind all is about fifty times slower; so the figure to compare is that of the *data path*: functions of our own
extensions, and of the C library what copies, compares and allocates. It is the same to a few in a thousand at every run,
also on a busy machine. A system call is one instruction here, so this says
nothing of the kernel's part.

    python -m perf.micro.callgrind 1x1_16 fan_out_1x8_16 [--options '--spin 20us'] [--messages 5000,25000]
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from perf.load.shapes import SHAPES, Target, run
from perf.micro.instructions import GLIBC_TUNABLES, CannotCount, check_callgrind
from perf.servers import HOST, Server
from shardbroker.bench import LoadError
from shardbroker.bench.connect import Connection
from shardbroker.bench.usage import processes

SECONDS_MAX = 600.0          # of a run; the message count ends it long before
MESSAGES = (5_000, 25_000)   # per publisher
TAKES_A_CONNECTION = "*connection_connection_new"       # hot/connection.pyx, called for each new client
LIBC = re.compile(r"^_*(mem|str|malloc|free|calloc|realloc|int_malloc|int_free|int_realloc|tcache)")
DATA_PATH = "data path"


def functions(text: str) -> Counter[tuple[str, str]]:
    """Instructions of each (object, function) itself, without its callees, of one dump in callgrind's format.

    Names are written once, as "(12) name", and meant by "(12)" from then on. A line of cost follows its `fn=`; the one
    after `calls=` is the callee's and is left out.
    """
    names: dict[str, dict[str, str]] = {"ob": {}, "fn": {}}
    counts: Counter[tuple[str, str]] = Counter()
    current = {"ob": "", "fn": ""}
    skip = False
    for line in text.splitlines():
        if line[:1] in "+-*0123456789" and line:
            if not skip:
                counts[current["ob"], current["fn"]] += int(line.split()[-1])
            skip = False
        elif line.startswith("calls="):
            skip = True
        elif found := re.match(r"(c?)(ob|fn)=\((\d+)\)(?: (.*))?$", line):
            callee, kind, number, name = found.groups()
            if name is not None:
                names[kind][number] = name
            if not callee:
                current[kind] = names[kind].get(number, "?")
    return counts


def on_data_path(path: str, function: str) -> bool:
    """Whether a function's instructions are those of messages and not of asyncio's timers."""
    if "/shardbroker/" in path:
        return True
    return "libc" in Path(path).name and bool(LIBC.match(function))


@dataclass
class Counted:
    """A broker under callgrind. Costs are read from the dumps that its workers leave in `directory`."""

    server: Server
    directory: Path
    pids: set[int]
    read: set[Path] = field(default_factory=set)

    def mark(self) -> Counter[tuple[str, str]]:
        """What the workers have done since the last mark."""
        with Connection(HOST, self.server.port, name="mark"):
            pass                        # PONG is here: the dump was written before the connection was taken
        counts: Counter[tuple[str, str]] = Counter()
        for path in sorted(set(self.directory.glob("out.*.*")) - self.read):
            self.read.add(path)
            if int(path.name.split(".")[1]) in self.pids:
                counts.update(functions(path.read_text(errors="replace")))
        return counts

    def load(self, name: str, messages: int) -> tuple[int, Counter[tuple[str, str]]]:
        """One load: what it counts (deliveries, or messages where nobody subscribes) and what it cost."""
        self.mark()
        target = Target(HOST, self.server.port, self.server, seconds=SECONDS_MAX, messages=messages)
        figures = run(name, target)
        return int(figures["count"]), self.mark()

    def each(self, name: str, counts: Sequence[int] = MESSAGES) -> dict[tuple[str, str], float]:
        """Instructions per message by (object, function), and under (DATA_PATH, "") those that count."""
        (few, before), (many, after) = (self.load(name, count) for count in counts)
        cost = {key: (after[key] - before[key]) / (many - few) for key in after.keys() | before.keys()}
        return {(DATA_PATH, ""): sum(value for key, value in cost.items() if on_data_path(*key)), **cost}


@contextmanager
def counted(spec: str) -> Iterator[Counted]:
    """Start a broker under callgrind. CannotCount when there is none."""
    check_callgrind()
    with tempfile.TemporaryDirectory(prefix="perf-callgrind-") as directory:
        valgrind = [
            "env", GLIBC_TUNABLES, "valgrind", "--tool=callgrind", "--trace-children=yes", "--quiet",
            f"--dump-before={TAKES_A_CONNECTION}", f"--callgrind-out-file={directory}/out.%p",
        ]
        server = Server(
            spec, under=valgrind, main="perf.micro.without_pidfd", start_seconds_max=300, stop_seconds_max=120
        )
        with server:
            made = Counted(server, Path(directory), set(processes(server.pid)))
            if not made.mark() and not made.mark():
                raise LoadError(f"no dump in {directory} after a connection: is {TAKES_A_CONNECTION} called otherwise now?")
            yield made


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m perf.micro.callgrind", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("loads", nargs="*", default=["1x1_16"], metavar="LOAD", help="a stream of perf.load")
    parser.add_argument("--options", default="", help="for the broker, which has one worker: marks are seen by one only")
    parser.add_argument("--messages", default=",".join(map(str, MESSAGES)), help="per publisher, two counts")
    parser.add_argument("--lines", type=int, default=25, help="functions to show")
    given = parser.parse_args()
    counts = [int(text) for text in given.messages.split(",")]
    if len(counts) != 2 or counts[0] >= counts[1] or any(load not in SHAPES for load in given.loads):
        parser.error("two growing message counts and known loads, please")
    spec = f"shardbroker:1 {given.options}"
    try:
        with counted(spec) as broker:
            for load in given.loads:
                cost = broker.each(load, counts)
                everything = sum(value for (path, _), value in cost.items() if path != DATA_PATH)
                print(f"{load}: {cost.pop((DATA_PATH, '')):.1f} instructions per message on the data "
                      f"path, {everything:.1f} in all")
                for (path, function), each in sorted(cost.items(), key=lambda item: -item[1])[: given.lines]:
                    if each >= 0.1:
                        print(f"  {each:10.1f}   {function}  [{Path(path).name.partition('.')[0]}]")
    except CannotCount as reason:
        parser.error(str(reason))
    return 0


if __name__ == "__main__":
    sys.exit(main())
