"""The end of a shard with streams: its loop may turn once more when they are closed."""

from __future__ import annotations

from shardbroker.store.handle import Store
from shardbroker.store.probe import Files
from shardbroker.stream.capture import Streams
from sim.disk import Disk
from sim.shards import boot, small_segment


def test_a_turn_after_the_store_is_closed_touches_nothing_of_it() -> None:
    """Under AddressSanitizer this is sure; without, the helpers' mutex is locked in memory that is somebody else's by now."""
    segment = small_segment(1)
    try:
        shard = boot(segment, 0)
        store = Store(0, Files(Disk()))
        streams = Streams(shard.engine, store)
        shard.engine.wake_hooks()
        shard.turn(1)
        streams.stop()
        store.close()
        taken = [bytearray(b"\xff" * size) for size in range(16, 1024, 8) for _ in range(8)]
        for now_ns in range(2, 10):
            shard.engine.wake_hooks()
            shard.turn(now_ns)
        assert all(block == b"\xff" * len(block) for block in taken)
    finally:
        segment.close()
