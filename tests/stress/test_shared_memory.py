"""Real processes on one segment: rings, doorbell and directory at native speed.

Allowed outcomes are few: every record once, in order, whole; no wake-up lost; every bit as its last
operation left it.
"""
from __future__ import annotations

import os
import random
import signal

import pytest
from peer import go, peers, results

from shardbroker.shm import probe
from shardbroker.shm.directory import Directory
from shardbroker.shm.doorbell import Doorbell
from shardbroker.shm.ring import RingReader, RingWriter
from shardbroker.shm.segment import Segment

TINY_LEVELS = (3, 3, 3, 3)


@pytest.mark.parametrize(("ring_bytes", "words", "batch", "count"), [
    (4096, (0, 255), 1, 1_000_000),         # full all the time, up to the longest record, a publish for each
    (4096, (1, 20), 7, 10_000_000),
    (65536, (7, 7), 64, 20_000_000),
    (1 << 20, (1, 4000), 16, 100_000),
], ids=str)
def test_every_record_once_and_whole(ring_bytes: int, words: tuple[int, int], batch: int, count: int) -> None:
    with Segment.create(2, ring_bytes, 4096, TINY_LEVELS) as segment:
        reader = RingReader(segment.map, 0, 1)
        with peers(segment, ("pump", "0", str(count), *map(str, words), str(batch))) as processes:
            go(processes)
            assert probe.drain(reader, 0, count, *words, batch) == count
            results(processes)
        assert reader.next() is None
        assert reader.unread == 0


def test_killed_writer_leaves_whole_records() -> None:
    """SIGKILL at any point: what the reader finds is a whole prefix; a new writer goes on behind it."""
    rng = random.Random(7)
    words = (1, 60)
    with Segment.create(2, 16384, 4096, TINY_LEVELS) as segment:
        reader = RingReader(segment.map, 0, 1)
        number = 0
        for _ in range(8):
            with peers(segment, ("pump", str(number), str(1 << 40), *map(str, words), "5")) as processes:
                go(processes)
                number += probe.drain(reader, number, rng.randrange(1000, 2_000_000), *words, 3)
                os.kill(processes[0].pid, signal.SIGKILL)
                assert processes[0].wait() == -signal.SIGKILL
            number += probe.drain(reader, number, 1 << 40, *words, 3, False)
            assert reader.next() is None
            assert reader.unread == 0


def test_no_wake_up_is_lost() -> None:
    rounds = 50_000
    eventfds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
    with Segment.create(2, 4096, 4096, TINY_LEVELS) as segment:
        ends = (RingWriter(segment.map, 0, 1), RingReader(segment.map, 1, 0),
                Doorbell(segment.map, 0, eventfds[0]), Doorbell(segment.map, 1, eventfds[1]))
        # On one processor the two never race, and a waker tends to pull the woken to its own: keep them apart.
        allowed = os.sched_getaffinity(0)
        call = ("ping", str(rounds), str(eventfds[1]), str(eventfds[0]), str(max(allowed)))
        with peers(segment, call, fds=tuple(eventfds)) as processes:
            os.sched_setaffinity(0, {min(allowed)})
            try:
                go(processes)
                sleeps, missed = probe.ping_pong(*ends, rounds, True)
                peer_sleeps, peer_missed = map(int, results(processes)[0].split())
            finally:
                os.sched_setaffinity(0, allowed)
        del ends
    for fd in eventfds:
        os.close(fd)
    assert missed == peer_missed == 0
    # The test is worth nothing when nobody ever slept.
    assert sleeps > 0
    assert peer_sleeps > 0


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two processors are needed to race")
def test_publish_and_sleep_cannot_miss_each_other() -> None:
    """The litmus test of the doorbell's two fences: either the waker sees the flag or the sleeper the record."""
    rounds, seconds = 1_000_000, 10
    allowed = os.sched_getaffinity(0)
    with Segment.create(2, 4096, 4096, TINY_LEVELS) as segment:
        ends = (RingWriter(segment.map, 0, 1), RingReader(segment.map, 1, 0), Doorbell(segment.map, 1, -1))
        with peers(segment, ("sleep", str(rounds), str(max(allowed)))) as processes:
            os.sched_setaffinity(0, {min(allowed)})
            try:
                go(processes)
                _, done = probe.wake_race(*ends, rounds, True, seconds)
                assert results(processes) == [f"0 {done}"]
                assert done > 0
            finally:
                os.sched_setaffinity(0, allowed)
        del ends


def expected_bits(shard: int, seed: int, operations: int, keys: int) -> dict[int, int]:
    """key -> the shard's bit or 0, as probe.hammer leaves it."""
    bits: dict[int, int] = {}
    for i in reversed(range(operations)):
        draw = probe.mixed(seed + i)
        bits.setdefault((draw >> 1) % keys, 1 << shard if draw & 1 else 0)
        if len(bits) == keys:
            break
    return bits


@pytest.mark.parametrize(("keys", "level_bits"), [
    (8, (3, 4, 5, 6)), (400, (5, 7, 9, 11)), (3000, (11, 12, 13, 14))])
def test_directory_under_three_writers(keys: int, level_bits: tuple[int, int, int, int]) -> None:
    """Three shards set and clear their bits; a fourth one's standing interest is always seen by this process."""
    operations = 3_000_000
    with Segment.create(4, 4096, 4096, level_bits) as segment:
        directory = Directory(segment.map)
        standing = range(0, keys, 3)
        for i in standing:
            assert directory.add(probe.mixed(i) | 1, 3)
        calls = [("hammer", str(shard), str(shard << 32), str(operations), str(keys)) for shard in range(3)]
        with peers(segment, *calls) as processes:
            go(processes)
            missing = 0
            while any(process.poll() is None for process in processes):
                missing += sum(not directory.shards(probe.mixed(i) | 1) & 8 for i in standing)
            assert results(processes) == ["0 0"] * 3        # no add was refused, no bit was lost or came back
        assert missing == 0
        wanted: dict[int, int] = dict.fromkeys((probe.mixed(i) | 1 for i in standing), 8)
        for shard in range(3):
            for i, bit in expected_bits(shard, shard << 32, operations, keys).items():
                wanted[probe.mixed(i) | 1] = wanted.get(probe.mixed(i) | 1, 0) | bit
        for key, shards in wanted.items():
            assert directory.shards(key) == shards
        found = directory.items()
        assert {key for key, _ in found} == {key for key, shards in wanted.items() if shards}
        for shard in range(4):                              # each bit in one slot only
            assert sum(shards >> shard & 1 for _, shards in found) == sum(
                shards >> shard & 1 for shards in wanted.values())


def test_dead_shard_is_cleared_while_others_work() -> None:
    with Segment.create(3, 4096, 4096, (8, 9, 10, 11)) as segment:
        directory = Directory(segment.map)
        calls = [("hammer", str(shard), str(shard << 32), str(1 << 40), "500") for shard in range(2)]
        with peers(segment, *calls) as processes:
            go(processes)
            while directory.version(probe.mixed(0) | 1) < 100:
                pass
            os.kill(processes[0].pid, signal.SIGKILL)
            processes[0].wait()
            directory.clear_shard(0)
            assert not any(directory.shards(probe.mixed(i) | 1) & 1 for i in range(500))
            assert processes[1].poll() is None
        assert not any(shards & ~2 for _, shards in directory.items())


def test_watching_natively() -> None:
    """The same without Python between two reads: shard 1 comes and goes around shard 0's standing bit."""
    with Segment.create(2, 4096, 4096, (3, 4, 5, 6)) as segment:
        directory = Directory(segment.map)
        for i in range(10):
            assert directory.add(probe.mixed(i) | 1, 0)
        with peers(segment, ("hammer", "1", "5", str(1 << 40), "10")) as processes:
            go(processes)
            assert probe.watch(directory, 1, 10, 2_000_000) == 0
            assert processes[0].poll() is None
