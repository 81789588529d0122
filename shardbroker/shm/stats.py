"""The shards' statistics as numpy arrays: views, rates, percentiles of the turn lengths.

Any process that has the segment mapped may look, at any time; every number is whole, but the numbers of a row are not
of one moment. Importing this imports numpy (tens of MiB): monitor, console and tools do, the shards do not.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shardbroker.shm.layout import LAG_BUCKETS, dtype_spec, structs
from shardbroker.shm.segment import Segment

STATS = np.dtype(dtype_spec("shard_stats"))
SLOT = np.dtype(dtype_spec("slot"))
# Levels and high-water marks; every other field of a row only grows.
GAUGES = ("connections", "subscriptions", "overflow_bytes", "overflow_bytes_max", "rss_bytes", "loop_lag_ns_max")
COUNTERS = tuple(name for name in STATS.names or () if name not in GAUGES and name != "loop_lag_buckets")
# Upper edges of the histogram's buckets, ns: bucket i holds values below 2^i.
LAG_EDGES_NS: NDArray[np.uint64] = np.uint64(1) << np.arange(LAG_BUCKETS, dtype=np.uint64)


def _rows(segment: Segment, dtype: np.dtype[np.void], offset_field: str) -> NDArray[np.void]:
    fields = segment.map.header_fields()
    return np.frombuffer(segment.buffer, dtype, count=segment.map.shards, offset=int(fields[offset_field]))


def view(segment: Segment) -> NDArray[np.void]:
    """The live rows, (shards,) of STATS, one per shard. The segment cannot be closed while the array lives."""
    return _rows(segment, STATS, "stats_offset")


def slots(segment: Segment) -> NDArray[np.void]:
    """A copy of the slots, (shards,) of SLOT."""
    return _rows(segment, SLOT, "slots_offset").copy()


def snapshot(segment: Segment) -> NDArray[np.void]:
    """A copy of the rows, (shards,) of STATS."""
    return view(segment).copy()


def total(rows: NDArray[np.void], field: str) -> int:
    """The sum of one field over all shards; the greatest value for the high-water marks (…_max)."""
    column = rows[field]
    return int(column.max() if field.endswith("_max") else column.sum())


def rates(a: NDArray[np.void], b: NDArray[np.void], seconds: float) -> dict[str, NDArray[np.float64]]:
    """Counts per second between two snapshots, a first: counter -> (shards,) float64.

    Counters wrap and never go back (a replaced shard goes on with its row), so the unsigned difference is right.
    """
    return {name: (b[name] - a[name]).astype(np.float64) / seconds for name in COUNTERS}


def percentiles(buckets: NDArray[np.uint64], quantiles: Sequence[float]) -> list[float]:
    """Values (ns) at quantiles (0 to 1) of a histogram of powers of two: (LAG_BUCKETS,) counts.

    Linear between a bucket's edges, so at most a factor of two off. All 0.0 when nothing was counted. For the time
    between two snapshots give the difference of their buckets, for all shards their sum over axis 0.
    """
    cumulative = np.concatenate(([0], np.cumsum(buckets, dtype=np.uint64))).astype(np.float64)
    if cumulative[-1] == 0:
        return [0.0 for _ in quantiles]
    upper = LAG_EDGES_NS.astype(np.float64)
    lower = np.concatenate(([0.0], upper[:-1]))
    result = []
    for quantile in quantiles:
        target = quantile * cumulative[-1]
        bucket = int(np.searchsorted(cumulative[1:], target, side="left" if target else "right"))
        bucket = min(bucket, LAG_BUCKETS - 1)
        inside = cumulative[bucket + 1] - cumulative[bucket]
        share = (target - cumulative[bucket]) / inside if inside else 0.0
        result.append(float(lower[bucket] + share * (upper[bucket] - lower[bucket])))
    return result


def as_dict(row: np.void) -> dict[str, int | list[int]]:
    """One row in plain Python, for JSON."""
    return {field.name: row[field.name].tolist() for field in structs()["shard_stats"][1]
            if not field.name.startswith("reserved")}
