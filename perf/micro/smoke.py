"""Has the data path become dearer? `python -m perf.micro.smoke`, or `tox -e perf-smoke`.

Counts instructions, of single parts (perf.micro.instructions) and of a whole broker with one worker
(perf.micro.callgrind; `server_*`), and compares them with the recorded baseline: exit status 1 when any
case grew by more than --limit percent. Where callgrind cannot be had, or the baseline is of another compiler, it says
so and passes: a count of another build says nothing. `--record` writes the baseline; do that in the commit that means
to change it, and say there why.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from perf.micro import baseline, counting
from perf.micro.callgrind import DATA_PATH, counted
from perf.micro.cases import CASES
from perf.micro.instructions import CannotCount, count

LIMIT_PERCENT = 5.0
LOADS = ("1x1_16", "1x1_1024", "fan_out_1x8_16", "mesh_4x4x16_64", "queue_2x8_64")
LARGE = "_100000"                       # their inputs take valgrind long to build: not here


def count_all() -> dict[str, float]:
    """Instructions of the micro cases, and per message of the loads. CannotCount."""
    counts = count([name for name in CASES if not name.endswith(LARGE)])
    with counted("shardbroker:1") as broker:
        counts.update({f"server_{load}": broker.each(load)[DATA_PATH, ""] for load in LOADS})
    return counts


def changes(before: dict[str, float], now: dict[str, float]) -> Iterator[tuple[str, float, float, float]]:
    """(name, before, now, percent) of what is in both, the dearest first."""
    both = [(name, before[name], now[name], (now[name] / before[name] - 1) * 100) for name in now if name in before]
    yield from sorted(both, key=lambda row: -row[3])


def report(console: Console, rows: list[tuple[str, float, float, float]], limit: float) -> list[str]:
    """Print what changed; the names that grew by more than `limit` percent."""
    table = Table(title="instructions per operation", title_justify="left")
    for column in ("case", "baseline", "now", "change"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, was, is_now, percent in rows:
        if abs(percent) >= 0.5:
            table.add_row(name, f"{was:.1f}", f"{is_now:.1f}", f"{percent:+.1f}%")
    same = sum(abs(row[3]) < 0.5 for row in rows)
    if table.row_count:
        console.print(table)
    console.print(f"{same} of {len(rows)} within half a percent of the baseline")
    return [row[0] for row in rows if row[3] > limit]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m perf.micro.smoke", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true", help="write the baseline of this compiler instead")
    parser.add_argument("--limit", type=float, default=LIMIT_PERCENT, metavar="PERCENT", help="default: %(default)s")
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    if counting.DEBUG_BUILD:
        console.print("skipped: this is a debug build (SB_DEBUG), whose checks are not what users run")
        return 0
    what = baseline.conditions()
    console.print(", ".join(f"{key} {value}" for key, value in what.items()))
    before, reason = ({}, "") if given.record else baseline.load(what)
    if reason:
        console.print(f"skipped: the baseline does not apply: {reason}. To have one: python -m perf.micro.smoke --record")
        return 0
    try:
        now = count_all()
    except CannotCount as why:
        console.print(f"skipped: instructions cannot be counted here: {why}")
        return 1 if given.record else 0
    if given.record:
        console.print(f"recorded {len(now)} cases in {baseline.save(what, now)}")
        return 0
    grown = report(console, list(changes(before, now)), given.limit)
    for name in sorted(now.keys() ^ before.keys()):
        console.print(f"{name}: {'not in the baseline yet' if name in now else 'in the baseline, but no case any more'}")
    if grown:
        console.print(f"FAILED: more than {given.limit:g}% dearer: {', '.join(grown)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
