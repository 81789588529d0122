"""Sweeps with figures that were thought out, for what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shardbroker.bench import board
from shardbroker.bench.histogram import Histogram
from shardbroker.bench.run import Outcome
from shardbroker.tune.sweep import Point, Sweep
from shardbroker.tune.workload import from_words


def made(
    rates: Mapping[int, Sequence[float]], *, bound: str = "server", ring_full: int = 0, late: bool = False
) -> Sweep:
    """One load, for each worker count its rates."""
    workload = from_words(["fanout:1x8:128B"])
    load = workload.parts[0].load
    points = []
    for workers, found in rates.items():
        point = Point(workers, [[]], [[]])
        for rate in found:
            one = Outcome(load, round(rate) * 8, 1.0, round(rate), bound_by=bound, server_cpu_seconds=1.0)
            one.shards = [
                {"in_msgs": round(rate), "xs_out_msgs": round(rate) if workers > 1 else 0, "ring_full": ring_full}
            ]
            timed = Outcome(load, 4, 1.0, 4, late=late)
            timed.latency = Histogram.of([board.record([10_000, 20_000, 30_000, 400_000])])
            point.throughput[0].append(one)
            point.latency[0].append(timed)
        points.append(point)
    return Sweep(workload, points, [100.0])
