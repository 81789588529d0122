"""The sweep: every worker count, every load, several times, in turn, so that a slow minute of the machine hits all.

throughput   for each repeat: for each count: a fresh broker, then each load in a closed loop
latency      the same, each load in an open loop at half of the rate that the slowest count reached: the same offered
             load for all, which all can follow, so that latencies can be compared
rings        when rings were full at the count that is recommended: the same with rings of twice and four times the size
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from shardbroker.bench.histogram import Histogram
from shardbroker.bench.run import Outcome, Settings, Target, run
from shardbroker.bench.shapes import Load
from shardbroker.tune.workload import Workload

LATENCY_SHARE = 0.5
RATED = ("stream", "calls")
# A broker with so many workers and more options of its command line; gives its Target.
Start = Callable[[int, Sequence[str]], AbstractContextManager[Target]]
Tell = Callable[[int, Load, str], None]


@dataclass(slots=True)
class Point:
    """One worker count. throughput and latency: for each part of the workload, its runs."""

    workers: int
    throughput: list[list[Outcome]] = field(default_factory=list)
    latency: list[list[Outcome]] = field(default_factory=list)

    def rates(self, workload: Workload) -> list[float]:
        """Published messages per second of the mix, one figure for each complete repeat."""
        repeats = min((len(runs) for runs in self.throughput), default=0)
        return [
            workload.joined([runs[turn].published / runs[turn].seconds for runs in self.throughput])
            for turn in range(repeats)
        ]

    def rate(self, workload: Workload) -> float:
        """Their median; 0.0 when there is none."""
        return statistics.median(self.rates(workload) or [0.0])

    def spread(self, workload: Workload) -> float:
        """(greatest - least) / median."""
        rates = self.rates(workload) or [0.0]
        return (max(rates) - min(rates)) / statistics.median(rates) if max(rates) > 0 else 0.0

    def times(self, part: int | None = None) -> Histogram:
        """Latencies at the common rate, of one part or of all."""
        chosen = self.latency if part is None else self.latency[part : part + 1]
        found = [one.latency for runs in chosen for one in runs if one.latency]
        if not found:
            return Histogram.of([])
        return Histogram(
            sum((one.buckets for one in found[1:]), start=found[0].buckets),
            min(one.least for one in found),
            max(one.most for one in found),
            sum(one.sum for one in found),
        )

    def cpu_seconds_per_million(self, workload: Workload) -> float | None:
        """Server CPU for a million published messages of the mix."""
        total = 0.0
        for part, runs in zip(workload.parts, self.throughput, strict=True):
            known = [one.server_cpu_seconds / one.published for one in runs
                     if one.server_cpu_seconds is not None and one.published]  # fmt: skip
            if not known:
                return None
            total += part.share * statistics.median(known)
        return total * 1e6

    def cross_shard(self, workload: Workload) -> float | None:
        """Records between shards per published message of the mix."""
        total = 0.0
        for part, runs in zip(workload.parts, self.throughput, strict=True):
            known = [one.cross_shard for one in runs if one.cross_shard is not None]
            if not known:
                return None
            total += part.share * statistics.median(known)
        return total

    def runs(self) -> list[Outcome]:
        return [one for runs in self.throughput for one in runs]

    def bound_by(self) -> str:
        """What limited most of its runs."""
        words = [one.bound_by for one in self.runs()]
        return max(sorted(set(words)), key=words.count) if words else ""

    def counter(self, name: str) -> int:
        """A counter of the shards, over all runs; the greatest of a high-water mark."""
        values = [shard.get(name, 0) for one in self.runs() for shard in one.shards]
        return max(values, default=0) if name.endswith("_max") else sum(values)


@dataclass(slots=True)
class Sweep:
    """What has been measured so far. common_rates: messages per second of the latency runs, for each part; 0: closed loop."""

    workload: Workload
    points: list[Point]
    common_rates: list[float] = field(default_factory=list)
    rings: list[tuple[int, list[float]]] = field(default_factory=list)  # (ring bytes, rates of the mix)
    interrupted: bool = False

    def measured(self) -> list[Point]:
        return [point for point in self.points if point.rates(self.workload)]


def sweep(
    workload: Workload,
    counts: Sequence[int],
    start: Start,
    settings: Settings,
    *,
    repeat: int,
    seconds: float,
    tell: Tell,
    into: Sweep | None = None,
) -> Sweep:
    """Measure. Of Ctrl-C what was measured before remains. LoadError when a check fails."""
    made = into or Sweep(workload, [Point(count) for count in counts])
    for point in made.points:
        point.throughput = [[] for _ in workload.parts]
        point.latency = [[] for _ in workload.parts]
    try:
        for turn in range(repeat):
            for point in made.points:
                with start(point.workers, ()) as target:
                    for part, runs in zip(workload.parts, point.throughput, strict=True):
                        tell(point.workers, part.load, f"throughput {turn + 1}/{repeat}")
                        runs.append(_one(replace(part.load, seconds=seconds), target, settings))
        made.common_rates = _common_rates(made)
        for turn in range(repeat):
            for point in made.points:
                with start(point.workers, ()) as target:
                    for part, rate, runs in zip(
                        workload.parts, made.common_rates, point.latency, strict=True
                    ):
                        tell(point.workers, part.load, f"latency {turn + 1}/{repeat}")
                        runs.append(_one(replace(part.load, seconds=seconds, rate=rate), target, settings))
    except KeyboardInterrupt:
        made.interrupted = True
    return made


def _one(load: Load, target: Target, settings: Settings) -> Outcome:
    outcome = run(load, target, settings)
    if outcome.interrupted:
        raise KeyboardInterrupt
    return outcome


def _common_rates(made: Sweep) -> list[float]:
    """Of each part: half of what the slowest count published; 0 for shapes without a rate."""
    found = []
    for i, part in enumerate(made.workload.parts):
        slowest = min(
            statistics.median(one.published / one.seconds for one in point.throughput[i])
            for point in made.points
        )
        found.append(max(1.0, slowest * LATENCY_SHARE) if part.load.row.kind in RATED else 0.0)
    return found


def sweep_rings(
    made: Sweep,
    workers: int,
    sizes: Sequence[int],
    start: Start,
    settings: Settings,
    *,
    repeat: int,
    seconds: float,
    tell: Tell,
) -> None:
    """Rates of the mix with rings of other sizes, at one worker count, in turn."""
    rates: dict[int, list[float]] = {size: [] for size in sizes}
    try:
        for turn in range(repeat):
            for size in sizes:
                with start(workers, ["--ring-size", str(size)]) as target:
                    ones = []
                    for part in made.workload.parts:
                        tell(workers, part.load, f"rings of {size >> 20} MiB {turn + 1}/{repeat}")
                        ones.append(_one(replace(part.load, seconds=seconds), target, settings))
                    rates[size].append(made.workload.joined([one.published / one.seconds for one in ones]))
    except KeyboardInterrupt:
        made.interrupted = True
    made.rings = [(size, found) for size, found in rates.items() if found]


def as_json(made: Sweep) -> dict[str, Any]:
    """Everything that was measured."""
    workload = made.workload
    return {
        "workload": {
            "story": workload.story,
            "loads": [{"load": part.load.describe(), "share": part.share} for part in workload.parts],
        },
        "interrupted": made.interrupted,
        "latency_rates": made.common_rates,
        "rings": [{"ring_bytes": size, "rates": rates} for size, rates in made.rings],
        "points": [
            {
                "workers": point.workers,
                "rates": point.rates(workload),
                "latency": point.times().figures(),
                "cpu_seconds_per_million": point.cpu_seconds_per_million(workload),
                "cross_shard": point.cross_shard(workload),
                "bound_by": point.bound_by(),
                "throughput_runs": [[one.as_json() for one in runs] for runs in point.throughput],
                "latency_runs": [[one.as_json() for one in runs] for runs in point.latency],
            }
            for point in made.points
        ],
    }
