"""Where monitoring has its numbers from: the shared statistics, the front, and shards that are asked in small steps.

    HTTP (monitor/server.py)      a process of its own; asks shards through the front
    $SYS (control/system.py)      in the front

Both make the same pages (monitor/pages.py) of a Source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from shardbroker.shard.gauges import Gauges
from shardbroker.shm.layout import SLOT_READY, SegmentMap, SlotRow, structs
from shardbroker.shm.ring import ring_info

FIELDS: Final = tuple(
    field.name
    for field in structs()["shard_stats"][1]
    if not field.name.startswith("reserved") and field.name != "loop_lag_buckets"
)


class Source(Protocol):
    """What pages are made of."""

    statistics: Statistics

    async def front(self, op: str) -> Mapping[str, Any]:
        """What the front says of the broker: varz (lifecycle.Front.describe)."""

    async def ask(self, shard: int, op: str, query: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """One step of one shard (shard/monitoring.py); None when it is dead or stopped."""


class Statistics:
    """The shards' rows and slots in the segment, without numpy. A row is whole numbers, not of one moment."""

    def __init__(self, segment: SegmentMap) -> None:
        self._segment = segment
        self._gauges = Gauges(segment)
        self.shards = segment.shards

    def row(self, shard: int) -> dict[str, int]:
        """All counters of a shard."""
        return {name: self._gauges.read(shard, name) for name in FIELDS}

    def totals(self) -> dict[str, int]:
        """Summed over the shards; high-water marks (..._max): the greatest."""
        return total([self.row(shard) for shard in range(self.shards)])

    def lag_buckets(self, shard: int) -> list[int]:
        """Turns by length: bucket i has those of i binary digits of nanoseconds."""
        return self._gauges.read_array(shard, "loop_lag_buckets")

    def slot(self, shard: int) -> SlotRow:
        return self._segment.slot_row(shard)

    def ready(self) -> int:
        """How many shards serve."""
        return sum(self.slot(shard).state == SLOT_READY for shard in range(self.shards))

    def ring_fill(self, writer: int, reader: int) -> float:
        """How full a ring is, 0 to 1."""
        info = ring_info(self._segment, writer, reader) if writer != reader else None
        # The two cursors are not read at one moment.
        return min(1.0, max(0.0, (info.tail - info.head) / info.capacity)) if info is not None else 0.0


def total(rows: list[dict[str, int]]) -> dict[str, int]:
    """Rows of counters added up."""
    return {
        name: (max if name.endswith("_max") else sum)(row[name] for row in rows)
        for name in FIELDS
    }
