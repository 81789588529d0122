"""The layout of shared memory: its snapshot, its rules, and what attaching checks.

After a wanted change of layout.h: raise SB_LAYOUT_VERSION and run `python tests/shm/test_layout.py`.
"""
from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from shardbroker.shm import layout
from shardbroker.shm.layout import LayoutError, SegmentMap, format_segment
from shardbroker.shm.segment import Segment

SNAPSHOT = Path(__file__).with_name("layout_snapshot.json")


def present() -> dict[str, Any]:
    structs = {name: {"bytes": size, "fields": [list(field) for field in fields]}
               for name, (size, fields) in layout.structs().items()}
    return {"version": layout.VERSION, "structs": structs}


def test_layout_changes_only_with_its_version() -> None:
    snapshot = json.loads(SNAPSHOT.read_text())
    now = json.loads(json.dumps(present()))
    if now["structs"] != snapshot["structs"]:
        assert now["version"] != snapshot["version"], "layout.h changed: raise SB_LAYOUT_VERSION"
    assert now == snapshot, "new layout version: run python tests/shm/test_layout.py to take a new snapshot"


@pytest.mark.parametrize("name", sorted(layout.structs()))
def test_table_of_fields_covers_every_byte(name: str) -> None:
    size, fields = layout.structs()[name]
    position = 0
    for field in fields:
        assert field.offset == position, f"{name}.{field.name}"
        position += field.bytes * field.count
    tail = 128 if name == "shard_stats" else 1      # rows are padded to two lines
    assert size - position in range(tail)


def test_attach_sees_what_create_wrote(segment: Segment) -> None:
    segment.map.mark_booting(1)
    with Segment.attach(os.dup(segment.fd)) as other:
        assert other.map.header_fields() == segment.map.header_fields()
        assert other.map.slot_row(1).state == layout.SLOT_BOOTING
        assert other.map.header_fields()["creator_pid"] == os.getpid()
        other.check()


def raw_header(segment: Segment) -> bytearray:
    return bytearray(os.pread(segment.fd, layout.structs()["header"][0], 0))


@pytest.mark.parametrize("field", [
    field for field in layout.structs()["header"][1]
    if field.name not in ("creator_pid", "created_unix_ns", "fingerprint_key", "membership")
    and not field.name.startswith("reserved")], ids=lambda field: field.name)
@pytest.mark.parametrize("change", [1, 0x40, 0xff])
def test_attach_refuses_a_damaged_header(segment: Segment, field: layout.Field, change: int) -> None:
    raw = raw_header(segment)
    raw[field.offset] ^= change
    fd = os.memfd_create("damaged")
    os.ftruncate(fd, segment.map.segment_bytes)
    os.pwrite(fd, raw, 0)
    # Another page size or number of shards may be consistent with nothing else in the header; all must be refused.
    with pytest.raises(LayoutError):
        SegmentMap(fd)
    os.close(fd)


def test_attach_refuses_a_short_file_and_other_files(segment: Segment) -> None:
    fd = os.memfd_create("short")
    with pytest.raises(LayoutError, match="too short"):
        SegmentMap(fd)
    os.pwrite(fd, raw_header(segment), 0)
    os.ftruncate(fd, segment.map.segment_bytes - 1)
    with pytest.raises(LayoutError, match="its header says"):
        SegmentMap(fd)
    os.pwrite(fd, b"\x7fELF" * 1024, 0)
    with pytest.raises(LayoutError, match="magic"):
        SegmentMap(fd)
    os.close(fd)


@pytest.mark.parametrize(("key", "value"), [
    ("shards", 0), ("shards", 65), ("ring_bytes", 0), ("ring_bytes", 5000), ("ring_bytes", 2048),
    ("control_ring_bytes", 1 << 32), ("level_bits", (15, 18, 21, 25)), ("level_bits", (2, 3, 4, 5)),
    ("level_bits", (3, 4, 5))])
def test_create_refuses_bad_sizes(key: str, value: Any) -> None:
    arguments: dict[str, Any] = {"shards": 2, "ring_bytes": 4096, "control_ring_bytes": 4096, key: value}
    fd = os.memfd_create("bad")
    with pytest.raises(LayoutError):
        format_segment(fd, **arguments)
    os.close(fd)


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(present(), indent=1) + "\n")
