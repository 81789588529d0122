"""Single numbers of the statistics rows, read and written without numpy (which costs a worker 20 MiB).

A row has one writer, its shard; the front and others only read. Each number is a whole 8-byte word.
"""

from __future__ import annotations

import os
import resource

from shardbroker.shm.layout import SegmentMap, structs

_FIELDS = {field.name: field.offset for field in structs()["shard_stats"][1]}
_COUNTS = {field.name: field.count for field in structs()["shard_stats"][1]}
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")


class Gauges:
    """The rows of all shards as words."""

    def __init__(self, segment: SegmentMap) -> None:
        header = segment.header_fields()
        start, row_bytes = header["stats_offset"], header["stats_bytes"]
        self._words = memoryview(segment)[start : start + segment.shards * row_bytes].cast("Q")
        self._row_words = row_bytes // 8

    def read(self, shard: int, field: str) -> int:
        """Any process."""
        value: int = self._words[shard * self._row_words + _FIELDS[field] // 8]
        return value

    def read_array(self, shard: int, field: str) -> list[int]:
        """Any process; a field of several words."""
        first = shard * self._row_words + _FIELDS[field] // 8
        return self._words[first : first + _COUNTS[field]].tolist()

    def write(self, shard: int, field: str, value: int) -> None:
        """Home shard only."""
        self._words[shard * self._row_words + _FIELDS[field] // 8] = value


class ProcessUsage:
    """Memory and processor time of this process, written to its shard's row."""

    def __init__(self, gauges: Gauges, shard: int) -> None:
        self._gauges = gauges
        self._shard = shard
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def update(self) -> None:
        """Home shard only; about once a second."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        resident_pages = int(os.pread(self._statm, 128, 0).split()[1])
        self._gauges.write(self._shard, "rss_bytes", resident_pages * _PAGE_BYTES)
        self._gauges.write(self._shard, "cpu_user_us", int(usage.ru_utime * 1e6))
        self._gauges.write(self._shard, "cpu_system_us", int(usage.ru_stime * 1e6))
