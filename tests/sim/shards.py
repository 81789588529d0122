"""Engines without processes and sockets: settings, construction, one segment for several of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from shardbroker.hot.engine import Engine
from shardbroker.hot.probe import Shard
from shardbroker.options import EngineSettings, Options
from shardbroker.shm.layout import structs
from shardbroker.shm.segment import Segment

HOUR_NS = 3_600_000_000_000
QUIET = Options().engine_settings()


def settings(**changes: Any) -> EngineSettings:
    """The defaults, but no timer within a simulated hour."""
    quiet = dataclasses.replace(QUIET, ping_interval_ns=HOUR_NS, write_deadline_ns=HOUR_NS, auth_timeout_ns=HOUR_NS)
    return dataclasses.replace(quiet, **changes)


def small_segment(
    shards: int, ring_bytes: int = 4096, control_ring_bytes: int = 4096, key: bytes | None = None
) -> Segment:
    """Rings that fill all the time, and a directory whose levels overflow. key: 16 bytes that all hashes and draws
    depend on, for histories that can be repeated; else random."""
    segment = Segment.create(shards, ring_bytes, control_ring_bytes, level_bits=(5, 8, 12, 12))
    if key is not None:
        at = next(field.offset for field in structs()["header"][1] if field.name == "fingerprint_key")
        segment.buffer[at : at + 16] = key
    return segment


def boot(segment: Segment, number: int, *, marked: bool = False, read_bytes: int = 65536, **changes: Any) -> Shard:
    """A new process in this slot, as the front starts one; `marked`: the slot has been told already."""
    if not marked:
        segment.map.mark_booting(number)
    shards = segment.map.shards
    return Shard(Engine(number, shards, segment.map, [-1] * shards, settings(**changes)), read_bytes)


def connect(shard: Shard, client_id: int, **options: Any) -> None:
    """A connection that has been through CONNECT; its INFO has been taken."""
    shard.open(client_id)
    accept(shard, client_id, **options)


def accept(shard: Shard, client_id: int, **options: Any) -> None:
    """Answer a CONNECT."""
    given = {"verbose": False, "pedantic": False, "echo": True, "headers": True, "no_responders": True, "protocol": 1}
    shard.engine.connected(shard.slots[client_id], client_id, **(given | options))
