"""Enter a results file's medians into README.md and docs/performance.md, between their `figures` marks.

    python -m perf.figures [perf/results/....json]     default: the newest

The README gets the ratios as a picture in text; docs/performance.md gets the figures of every server.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import orjson

from perf.compare import number
from perf.load.shapes import SHAPES
from perf.servers import ROOT

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
BAR_MOST = 40  # characters; a ratio of 10 and more fills it

Record = dict[str, Any]


def value(load: Record, server: str, key: str) -> float | None:
    """The median of one figure of one server, when that server has it."""
    medians = load["servers"].get(server, {}).get("medians", {})
    found = medians.get(key)
    return float(found["median"]) if found else None


def better(name: str, load: Record, mine: str, first: str) -> float | None:
    """How many times as good as the first server: of times and bytes, less is better."""
    ours, theirs = value(load, mine, load["metric"]), value(load, first, load["metric"])
    if not ours or not theirs:
        return None
    return theirs / ours if SHAPES[name].lower else ours / theirs


def machine_line(record: Record) -> str:
    machine, versions = record["machine"], record["versions"]
    said = ", ".join(f"{spec}: {text.splitlines()[0]}" for spec, text in versions.items() if text)
    return (
        f"{machine['cpu']}, {machine['cpus']} cores shared with the load generator, Linux {machine['kernel']}, "
        f"{record['taken'][:10]}, commit {record['commit']}; medians of {record['options']['repeat']} interleaved runs. {said}."
    )


def picture(record: Record) -> str:
    """A bar a load: one worker against the first server."""
    first, mine = record["options"]["servers"][0], "shardbroker:1"
    lines = []
    for name, load in record["loads"].items():
        times = better(name, load, mine, first)
        if times is None:
            continue
        bar = "█" * max(1, round(min(times, 10) * BAR_MOST / 10))
        lines.append(f"{name:<27}{times:6.1f}x  {bar}{'+' if times > 10 else ''}")
    scale = f"{'one worker, nats-server = 1':<27}{1:6.1f}x  {'█' * (BAR_MOST // 10)}"
    return "```\n" + "\n".join([scale, *lines]) + "\n```\n\n" + machine_line(record)


def table(record: Record) -> str:
    """Every load and server: median, and how it stands against the first, by the wall and by the server's own CPU."""
    servers = record["options"]["servers"]
    first = servers[0]
    head = ["load", first]
    for spec in servers[1:]:
        head += [spec, "times", "per CPU s"]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for name, load in record["loads"].items():
        theirs = value(load, first, load["metric"])
        row = [f"`{name}` ({load['unit']})", number(theirs) if theirs else "failed"]
        for spec in servers[1:]:
            ours, times = value(load, spec, load["metric"]), better(name, load, spec, first)
            cpu = [value(load, one, "rate_per_cpu_second") for one in (spec, first)]
            row += [
                number(ours) if ours else "failed",
                f"{times:.2f}" if times else "",
                f"{cpu[0] / cpu[1]:.2f}" if cpu[0] and cpu[1] else "",
            ]
        rows.append(row)
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{machine_line(record)}\n\n{text}\n\nTimes: how many times as good (of times and bytes: as small)."


def enter(path: Path, text: str) -> None:
    """Put text between the marks of a file."""
    before, rest = path.read_text().split(BEGIN, 1)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.figures", description=__doc__)
    parser.add_argument("results", nargs="?", type=Path)
    given = parser.parse_args()
    path = given.results or max((ROOT / "perf/results").glob("*.json"))
    record = orjson.loads(path.read_bytes())
    enter(ROOT / "README.md", picture(record))
    enter(ROOT / "docs/performance.md", table(record))


if __name__ == "__main__":
    main()
