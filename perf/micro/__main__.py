"""Single parts of the broker, driven natively: `python -m perf.micro [NAME or GLOB ...]`.

Nanoseconds and operations per second (median and least of several runs), and with --instructions what callgrind
counts. Every run's sum is checked against a plain model.
"""

from __future__ import annotations

import argparse
import fnmatch
import statistics
import sys
import time
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from perf.micro.cases import CASES, Case
from perf.micro.instructions import CannotCount, count

RUN_SECONDS = 0.05


def choose(patterns: list[str]) -> list[str]:
    """Case names by glob, in the table's order."""
    missing = [p for p in patterns if not fnmatch.filter(CASES, p)]
    if missing:
        raise SystemExit(f"no case is called {', '.join(missing)}; there are: {', '.join(CASES)}")
    return [name for name in CASES if any(fnmatch.fnmatch(name, p) for p in patterns)]


def timed(case: Case, repeat: int) -> list[float]:
    """Nanoseconds per operation of `repeat` runs of about RUN_SECONDS each."""
    made = case.make()
    passes, seconds = 1, 0.0
    made.loop.run(2)
    while True:
        began = time.perf_counter()
        total = made.loop.run(passes)
        seconds = time.perf_counter() - began
        if total != passes * made.total:
            raise SystemExit(f"{case.name}: the loop's sum is {total}, {passes * made.total} was due")
        if seconds > RUN_SECONDS / 4:
            break
        passes *= 2
    passes = max(1, round(passes * RUN_SECONDS / seconds))
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        total = made.loop.run(passes)
        times.append((time.perf_counter() - began) / (passes * made.operations) * 1e9)
        if total != passes * made.total:
            raise SystemExit(f"{case.name}: the loop's sum is {total}, {passes * made.total} was due")
    return times


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m perf.micro", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=["*"], help="cases or globs; default: all")
    parser.add_argument("--repeat", type=int, default=9, help="timed runs of each case")
    parser.add_argument("--instructions", action="store_true", help="count with callgrind as well")
    parser.add_argument("--no-time", action="store_true", help="only count")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    names = choose(given.names)
    instructions: dict[str, float] = {}
    if given.instructions or given.no_time:
        try:
            instructions = count(names)
        except CannotCount as reason:
            parser.error(str(reason))
    table = Table(title="one process, one thread; least is the figure of an undisturbed run", title_justify="left")
    for column in ("case", "operation", "ns median", "ns least", "M/s at least", "instructions"):
        table.add_column(column, justify="left" if column in ("case", "operation") else "right")
    figures = {}
    for name in names:
        times = [] if given.no_time else timed(CASES[name], given.repeat)
        figures[name] = {
            "operation": CASES[name].operation,
            **({"ns_median": statistics.median(times), "ns_least": min(times)} if times else {}),
            **({"instructions": instructions[name]} if name in instructions else {}),
        }
        table.add_row(
            name,
            CASES[name].operation,
            f"{statistics.median(times):.1f}" if times else "",
            f"{min(times):.1f}" if times else "",
            f"{1e3 / min(times):.2f}" if times else "",
            f"{instructions[name]:.1f}" if name in instructions else "",
        )
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    if given.json:
        given.json.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
