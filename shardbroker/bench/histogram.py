"""Percentiles of times, from the histograms that the compiled loops fill.

Layout (net.h load_histogram): 64-bit words total, least, most, sum, then the buckets. A time below 256 ns has a bucket of
its own; above, each power of two is parted in 128, so that a bucket spans at most 1/128 (0.8 %) of its values. That is an
HDR histogram with two significant digits. Maintained ones were looked at: the Python package is not for compiled loops,
the C library is no dependency that pip can bring.

What is read from it, as HdrHistogram reads it: the percentile p is the greatest value that the bucket can hold in which
the p-th of all values lies (so never too low, at most 0.8 % too high), and never more than the greatest value counted.
The least, the greatest and the mean are exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardbroker.bench.board import BUCKETS

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


def upper_edges() -> NDArray[np.uint64]:
    """The greatest value of every bucket."""
    number = np.arange(BUCKETS, dtype=np.uint64)
    shift = np.where(number < 256, 0, number // 128 - 1).astype(np.uint64)
    inside = number - shift * np.uint64(128)
    return ((inside + np.uint64(1)) << shift) - np.uint64(1)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Times in ns. `buckets`: (BUCKETS,) uint64 counts."""

    buckets: NDArray[np.uint64]
    least: int = 0
    most: int = 0
    sum: int = 0

    @classmethod
    def of(cls, parts: Iterable[bytes]) -> Histogram:
        """The sum of histograms as the loops gave them."""
        words = [np.frombuffer(part, dtype=np.uint64) for part in parts]
        words = [word for word in words if word[0]]
        if not words:
            return cls(np.zeros(BUCKETS, dtype=np.uint64))
        return cls(
            np.sum([word[4:] for word in words], axis=0, dtype=np.uint64),
            min(int(word[1]) for word in words),
            max(int(word[2]) for word in words),
            sum(int(word[3]) for word in words),
        )

    @property
    def count(self) -> int:
        return int(self.buckets.sum())

    @property
    def mean(self) -> float:
        return self.sum / self.count if self.count else 0.0

    def percentile(self, percent: float) -> int:
        """The value that `percent` (0 to 100) of all times do not exceed; 0 without any."""
        count = self.count
        if not count:
            return 0
        rank = max(1, int(np.ceil(percent / 100 * count - 1e-9)))
        bucket = int(np.searchsorted(np.cumsum(self.buckets), rank))
        return min(int(upper_edges()[bucket]), self.most)

    def figures(self) -> dict[str, float]:
        """count, and min, mean, p50, p90, p99, p99_9 and max in microseconds; empty without any time."""
        if not self.count:
            return {}
        named = {
            f"p{percent:g}_us".replace(".", "_"): self.percentile(percent) / 1e3 for percent in PERCENTILES
        }
        return {
            "count": self.count,
            "min_us": self.least / 1e3,
            "mean_us": self.mean / 1e3,
            **named,
            "max_us": self.most / 1e3,
        }
