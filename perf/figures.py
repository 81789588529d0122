"""Enter a results file's medians into README.md and docs/performance.md, between marks in them, and draw them.

    python -m perf.figures [perf/results/....json]     default: the newest

The README shows docs/comparison.svg, ratios to the first server, and says of what; docs/performance.md has the figures of
every server. Servers of other protocols may be in the same file, or in one of perf/results/peers. All of it is made from
results files, and a test compares it with the newest ones.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import orjson

from perf import chart
from perf.compare import number
from perf.load.shapes import PLAIN, SHAPES
from perf.servers import NATS, ROOT, dialect

CHART = "docs/comparison.svg"
SERIES = {
    "shardbroker:1": "one worker",
    "shardbroker:2": "two workers",
    "redis-server": "Redis",
    "mosquitto": "Mosquitto",
}

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


def peers(record: Record) -> list[str]:
    """Names and versions of the servers that are not ours."""
    made = []
    for spec, text in record["versions"].items():
        version = re.search(r"\d+\.\d+[\w.]*", text)
        if not spec.startswith("shardbroker"):
            made.append(f"{spec.partition('=')[0]} {version.group() if version else '?'}")
    return made


def machine_line(record: Record) -> str:
    machine, options = record["machine"], record["options"]
    return (
        f"{machine['cpu']}, {machine['cpus']} cores shared with the load generator, Linux {machine['kernel']}, "
        f"{record['taken'][:10]}, commit {record['commit']}, beside {', '.join(peers(record))}; "
        f"medians of {options['repeat']} interleaved runs of {options['seconds']:g} s."
    )


def rows(record: Record, others: Record) -> list[tuple[str, list[float | None]]]:
    """(load, how many times as good each of SERIES is as the first server of its own record), where there is anything to
    compare. others: the record that has the servers of other protocols."""
    made = []
    for name, load in record["loads"].items():
        values = []
        for mine in SERIES:
            of = record if dialect(mine) == NATS else others
            found = load if of is record else of["loads"].get(name)
            values.append(better(name, found, mine, of["options"]["servers"][0]) if found else None)
        made.append((name, values))
    return [(name, values) for name, values in made if any(values)]


def picture(record: Record, others: Record) -> str:
    """The chart as SVG."""
    machine = record["machine"]
    return chart.ratios(
        f"Times as good as {peers(record)[0]}",
        f"the same load in turn on {machine['cpu']}, {machine['cpus']} cores shared with the load generator; "
        f"of times and bytes: as small",
        list(SERIES.values()),
        rows(record, others),
    )


def caption(record: Record) -> str:
    """What the README says under the chart."""
    return f"![Comparison with {record['options']['servers'][0]}]({CHART})\n\n{machine_line(record)}"


def table(record: Record) -> str:
    """Every load and NATS server: median, and how it stands against the first, by the wall and by the server's own CPU."""
    servers = [spec for spec in record["options"]["servers"] if dialect(spec) == NATS]
    first = servers[0]
    head = ["load", first]
    for spec in servers[1:]:
        head += [spec, "times", "per CPU s"]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for name, load in record["loads"].items():
        theirs = value(load, first, load["metric"])
        row = [f"`{name}` ({load['unit']}{', anew' if 'commit' in load else ''})", number(theirs) if theirs else "failed"]
        for spec in servers[1:]:
            ours, times = value(load, spec, load["metric"]), better(name, load, spec, first)
            cpu = [value(load, one, "rate_per_cpu_second") for one in (spec, first)]
            row += [
                number(ours) if ours else "failed" if spec in load["servers"] else "–",
                f"{times:.2f}" if times else "",
                f"{cpu[0] / cpu[1]:.2f}" if cpu[0] and cpu[1] else "",
            ]
        rows.append(row)
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    anew = "".join(
        f" `{name}` was measured anew, {load['taken'][:10]}, commit {load['commit']}."
        for name, load in record["loads"].items()
        if "commit" in load
    )
    return f"{machine_line(record)}\n\n{text}\n\nTimes: how many times as good (of times and bytes: as small).{anew}"


def others_table(record: Record) -> str:
    """The plain loads on servers of other protocols, beside the first server and one worker: rate and rate per CPU second."""
    servers = record["options"]["servers"]
    compared = [spec for spec in servers[1:] if spec == "shardbroker:1" or dialect(spec) != NATS]
    rows = [["load"] + [f"{spec}, {what}" for spec in compared for what in ("times", "per CPU s")]]
    rows.append(["---"] + ["---:"] * (len(rows[0]) - 1))
    for name, load in record["loads"].items():
        if name not in PLAIN:
            continue
        row = [f"`{name}`"]
        for spec in compared:
            for key in (load["metric"], "rate_per_cpu_second"):
                mine, first = value(load, spec, key), value(load, servers[0], key)
                row.append(f"{mine / first:.2f}" if mine and first else "failed")
        rows.append(row)
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{machine_line(record)} {servers[0]} is 1.\n\n{text}"


def entered(text: str, mark: str, made: str) -> str:
    """A file's text with what was made between its marks of a name."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{made}\n{end}{rest.split(end, 1)[1]}"


def files(record: Record, others: Record) -> dict[str, str]:
    """What each file should be, by its name from the top."""
    readme, performance = ((ROOT / name).read_text() for name in ("README.md", "docs/performance.md"))
    performance = entered(performance, "figures", table(record))
    return {
        CHART: picture(record, others),
        "README.md": entered(readme, "figures", caption(record)),
        "docs/performance.md": entered(performance, "others", others_table(others)),
    }


def newest() -> Path:
    """The newest results file: their names begin with the date."""
    return max((ROOT / "perf/results").glob("*.json"))


def with_others(record: Record) -> Record:
    """The record of the servers of other protocols: this one, or the newest of perf/results/peers."""
    if any(dialect(spec) != NATS for spec in record["options"]["servers"]):
        return record
    kept: Record = orjson.loads(max((ROOT / "perf/results/peers").glob("*.json")).read_bytes())
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.figures", description=__doc__)
    parser.add_argument("results", nargs="?", type=Path)
    given = parser.parse_args()
    path = given.results or newest()
    record = orjson.loads(path.read_bytes())
    for name, text in files(record, with_others(record)).items():
        (ROOT / name).write_text(text)


if __name__ == "__main__":
    main()
