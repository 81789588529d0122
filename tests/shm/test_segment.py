"""Creating, closing, slots, and that what is unused costs nothing."""
from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from shardbroker.shm import layout, stats
from shardbroker.shm.directory import Directory
from shardbroker.shm.ring import RingReader, RingWriter
from shardbroker.shm.segment import Segment


def test_one_shard_has_no_rings() -> None:
    with Segment.create(1) as segment:
        fields = segment.map.header_fields()
        assert fields["rings_offset"] == fields["control_rings_offset"] == fields["segment_bytes"]
        with pytest.raises(ValueError, match="no ring"):
            RingWriter(segment.map, 0, 0)


@pytest.mark.parametrize("shards", [1, 4, 64])
def test_create_commits_almost_nothing(shards: int) -> None:
    with Segment.create(shards) as segment:
        assert segment.memory_bytes() <= 64 * 1024
        directory = Directory(segment.map)
        assert directory.shards(12345) == 0
        assert directory.clear_shard(0) == 0
        if shards > 1:
            RingWriter(segment.map, 0, 1)
            RingReader(segment.map, 0, 1)
        assert segment.memory_bytes() <= 128 * 1024
        assert segment.map.segment_bytes > 140 * 1024 * 1024    # virtual only


def test_nothing_is_left_in_dev_shm() -> None:
    mine = f"shardbroker.{os.getpid()}."
    with Segment.create(2, 4096, 4096) as segment:
        assert segment.fd >= 0
        assert not [path for path in Path("/dev/shm").iterdir() if path.name.startswith(mine)]


def test_small_dev_shm_falls_back_to_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fstatvfs

    def full(fd: int) -> os.statvfs_result:
        return os.statvfs_result([*real(fd)[:4], 16, *real(fd)[5:]])

    monkeypatch.setattr(os, "fstatvfs", full)
    with Segment.create(2) as segment:
        segment.check()
        assert os.readlink(f"/proc/self/fd/{segment.fd}").startswith("/memfd:shardbroker")


def test_close_releases_descriptor_and_mapping() -> None:
    gc.collect()  # what earlier tests have left
    descriptors = sorted(os.listdir("/proc/self/fd"))
    segment = Segment.create(2, 4096, 4096)
    writer = RingWriter(segment.map, 0, 1)
    segment.close()
    segment.close()
    assert writer.push(b"rings have their own mapping")
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
    for use in (segment.map.header_fields, segment.check, lambda: segment.map.slot_row(0), lambda: segment.buffer,
                lambda: Directory(segment.map)):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_close_waits_for_arrays(segment: Segment) -> None:
    rows = stats.view(segment)
    with pytest.raises(BufferError):
        segment.close()
    del rows


def test_read_only_attach(segment: Segment) -> None:
    with Segment.attach(os.dup(segment.fd), writable=False) as other:
        assert other.buffer.readonly
        assert not stats.view(other).flags.writeable


def test_slot_life(segment: Segment) -> None:
    m = segment.map
    generation = m.membership
    assert m.slot_row(2).state == layout.SLOT_EMPTY
    assert m.mark_booting(2) == 1
    m.set_pid(2, 4711)
    assert m.slot_row(2).pid == 4711
    assert m.ready_shards() == []
    m.mark_ready(2)
    assert m.ready_shards() == [2]
    m.mark_dead(2)
    assert m.slot_row(2).state == layout.SLOT_DEAD
    assert m.slot_row(2).restarts == 0
    assert m.mark_booting(2) == 2
    row = m.slot_row(2)
    assert (row.restarts, row.pid, row.state) == (1, 0, layout.SLOT_BOOTING)
    assert m.membership == generation + 4
    with pytest.raises(IndexError):
        m.slot_row(3)


def test_statistics_rows(segment: Segment) -> None:
    before = stats.snapshot(segment)
    rows = stats.view(segment)
    rows["in_msgs"] += np.array([10, 20, 30], dtype=np.uint64)
    rows["connections"] = 5
    rows["overflow_bytes_max"] = [1, 9, 2]
    after = stats.snapshot(segment)
    assert stats.rates(before, after, 2.0)["in_msgs"].tolist() == [5.0, 10.0, 15.0]
    assert "connections" not in stats.rates(before, after, 1.0)
    assert stats.total(after, "connections") == 15
    assert stats.total(after, "overflow_bytes_max") == 9
    assert stats.as_dict(after[1])["in_msgs"] == 20
    assert len(stats.as_dict(after[1])["loop_lag_buckets"]) == layout.LAG_BUCKETS  # type: ignore[arg-type]
    assert stats.slots(segment)["epoch"].tolist() == [0, 0, 0]
    del rows


def test_percentiles() -> None:
    buckets = np.zeros(layout.LAG_BUCKETS, dtype=np.uint64)
    assert stats.percentiles(buckets, [0.5, 0.99]) == [0.0, 0.0]
    buckets[11] = 100                                   # 1024 to 2047 ns
    assert stats.percentiles(buckets, [0.0, 0.5, 1.0]) == [1024.0, 1536.0, 2048.0]
    buckets[21] = 1
    p50, p999 = stats.percentiles(buckets, [0.5, 0.999])
    assert 1024 <= p50 <= 2048
    assert 2**20 <= p999 <= 2**21
