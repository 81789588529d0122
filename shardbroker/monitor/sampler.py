"""The shards' counters as they were a moment ago: what rates, processor use and loop lag are of.

    refresh() once a second, or when someone asks     newest snapshot; the one before is what it is compared with

So a rate does not depend on who asks how often.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from shardbroker.monitor.source import Statistics, total

WINDOW_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All rows at one time (monotonic, seconds)."""

    at: float
    rows: list[dict[str, int]]
    lags: list[list[int]]


class Sampler:
    """Two snapshots. Not more often than every WINDOW_SECONDS, however often it is asked."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics
        self.before = self.after = self._take()

    def _take(self) -> Snapshot:
        shards = range(self._statistics.shards)
        rows = [self._statistics.row(shard) for shard in shards]
        return Snapshot(time.monotonic(), rows, [self._statistics.lag_buckets(shard) for shard in shards])

    def refresh(self) -> None:
        if time.monotonic() - self.after.at >= WINDOW_SECONDS:
            self.before, self.after = self.after, self._take()

    @property
    def seconds(self) -> float:
        """Between the two; 0 before there are two."""
        return self.after.at - self.before.at

    def rate(self, shard: int, name: str) -> float:
        """A counter's growth per second. Counters of a replaced shard go on where it was, but for its processor's."""
        grown = self.after.rows[shard][name] - self.before.rows[shard][name]
        return max(grown, 0) / self.seconds if self.seconds else 0.0

    def cpu_percent(self, shard: int) -> float:
        """Of one core."""
        used = self.rate(shard, "cpu_user_us") + self.rate(shard, "cpu_system_us")
        return round(used / 1e4, 1)

    def cpu_percent_all(self) -> float:
        return round(sum(self.cpu_percent(shard) for shard in range(self._statistics.shards)), 1)

    def lags(self, shard: int) -> list[int]:
        """Turns of the window by length."""
        pairs = zip(self.after.lags[shard], self.before.lags[shard], strict=True)
        return [max(new - old, 0) for new, old in pairs]

    def totals(self) -> dict[str, int]:
        """Of the newest moment, not of the snapshot."""
        return total([self._statistics.row(shard) for shard in range(self._statistics.shards)])


def percentile(buckets: list[int], quantile: float) -> float:
    """A value (ns) of a histogram of powers of two: bucket i holds [2^(i-1), 2^i). Linear within a bucket; 0 when empty."""
    target = quantile * sum(buckets)
    seen = 0
    for at, count in enumerate(buckets):
        if count and seen + count >= target:
            low, high = ((1 << at) >> 1), 1 << at
            return low + (high - low) * max(target - seen, 0) / count
        seen += count
    return 0.0
