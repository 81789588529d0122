"""The figures of runs for people: a table, and below it what one should know to read it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.table import Table

from shardbroker.bench.run import BOUND_SHARE, Outcome


def number(value: float) -> str:
    """Three or four digits and a unit prefix."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return (
                f"{value / limit:.3g}{suffix}" if abs(value) < limit * 100 else f"{value / limit:.0f}{suffix}"
            )
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def duration(us: float) -> str:
    """Microseconds in the unit that suits them."""
    for limit, suffix in ((1e6, "s"), (1e3, "ms")):
        if us >= limit:
            return f"{us / limit:.3g} {suffix}"
    return f"{us:.0f} µs"


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def middle(ones: Sequence[Outcome]) -> Outcome:
    """The run with the median rate (the lower one of two)."""
    return sorted(ones, key=lambda one: one.rate)[(len(ones) - 1) // 2]


def table(loads: Sequence[Sequence[Outcome]]) -> Table:
    """One line for each load; of several runs the one with the median rate, and the range of all."""
    repeated = any(len(ones) > 1 for ones in loads)
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    columns = ["load", "messages", "rate", *(["range"] if repeated else []), "p50", "p90", "p99", "p99.9", "max",
               "server CPU", "each", "memory", "generator", "bound by"]  # fmt: skip
    with_latency = any(one.latency for ones in loads for one in ones)
    if not with_latency:
        columns = [name for name in columns if name not in ("p50", "p90", "p99", "p99.9", "max")]
    for name in columns:
        shown.add_column(name, justify="left" if name in ("load", "bound by") else "right", no_wrap=True)
    for ones in loads:
        one = middle(ones)
        rates = [run.rate for run in ones]
        figures = one.latency.figures() if one.latency else {}
        cpu = one.server_cpu_seconds
        cells = {
            "load": one.load.describe(),
            "messages": f"{one.count:,}",
            "rate": f"{number(one.rate)} {one.load.row.unit}" if one.load.row.kind != "idle" else "",
            "range": f"{number(min(rates))}..{number(max(rates))}" if len(ones) > 1 else "",
            **{name: duration(figures[key]) if figures else "" for name, key in (
                ("p50", "p50_us"), ("p90", "p90_us"), ("p99", "p99_us"), ("p99.9", "p99_9_us"), ("max", "max_us"))},
            "server CPU": f"{cpu / one.seconds:.0%}" if cpu is not None else "unknown",
            "each": duration_ns(cpu / one.count * 1e9) if cpu is not None and one.load.row.kind != "idle" else "",
            "memory": size(one.memory["pss_bytes"]) if one.memory else "unknown",
            "generator": f"{max(one.generator_cpu_shares, default=0):.0%}",
            "bound by": one.bound_by,
        }  # fmt: skip
        style = "yellow" if one.bound_by == "generator" or one.late else None
        shown.add_row(*(cells[name] for name in columns), style=style)
    return shown


def duration_ns(ns: float) -> str:
    return f"{ns:.0f} ns" if ns < 1000 else duration(ns / 1000)


def notes(outcomes: Sequence[Outcome], generators: int, cpus: Sequence[Sequence[int]]) -> list[str]:
    """Lines below the table."""
    said = [
        f"[dim]{generators} generator process{'es' if generators > 1 else ''}"
        + (
            f", each pinned to a processor ({', '.join(str(cpu[0]) for cpu in cpus)})"
            if cpus
            else ", not pinned"
        )
        + "; every message was checked[/dim]"
    ]
    seen = {one.bound_by for one in outcomes}
    if "generator" in seen:
        said.append(
            "[yellow]generator-bound:[/yellow] a generator process had no time left "
            f"({BOUND_SHARE:.0%} of a core or more); the server can do more. Give --generators more, or more machines."
        )
    if "cores" in seen:
        said.append(
            "[yellow]cores exhausted:[/yellow] generators waited for a core of this machine while the server had it; "
            "compare rates per CPU second, or use a machine with more cores."
        )
    for one in outcomes:
        load = one.load
        if load.rate and one.bound_by != "rate" and not one.interrupted:
            said.append(
                f"[yellow]{load.describe()}:[/yellow] {number(load.rate)} were to be sent each second, "
                f"{number(one.published / one.seconds)} were; latencies say how far behind they were."
            )
        if one.late and one.lateness:
            said.append(
                f"[yellow]{load.describe()}:[/yellow] the generator itself sent late "
                f"(99 %: {duration(one.lateness.percentile(99) / 1e3)}); the latency is not the server's alone."
            )
        if "slow" in one.more:
            slow = one.more["slow"]
            first = slow["first_cut_seconds"]
            when = f", the first after {first:.2f} s" if first is not None else ""
            said.append(
                f"{load.describe()}: {slow['cut_by_server']} of {slow['consumers']} slow subscribers were cut{when}"
            )
        if "background" in one.more:
            other = one.more["background"]
            said.append(f"{load.describe()}: beside it {other['load']} at {number(other['rate'])} msg/s")
        if load.row.kind == "idle" and one.memory_growth is not None:
            said.append(
                f"{load.describe()}: {size(one.memory_growth / max(one.count, 1))} of server memory for each connection (PSS)"
            )
        if one.cross_shard is not None and len(one.shards) > 1:
            said.append(
                f"[dim]{load.describe()}: {one.cross_shard:.2f} records between shards for each message in[/dim]"
            )
    return list(dict.fromkeys(said))


def median_of(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0
