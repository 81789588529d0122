"""A small write that is synced in the shard's own thread: only when that is allowed, and only where it is quick."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from harness.broker import wait_until
from shardbroker.store.handle import Log, Store
from shardbroker.store.probe import Files
from sim.disk import Disk, Inode

QUICK_NS = 100_000
QUICK_BYTES = 4096


class SlowDisk(Disk):
    def sync(self, inode: Inode) -> None:
        time.sleep(0.001)
        super().sync(inode)


@contextmanager
def a_log(disk: Disk) -> Iterator[tuple[Store, Log]]:
    """With what a small write takes already known."""
    files = Files(disk)
    store = Store(1, files)
    log = Log(store, "stream")
    for _ in range(3):
        write(log)
        store.wait()
    assert store.quick_ns
    yield store, log
    store.wait()
    log.close()
    store.close()


def write(log: Log, size: int = 100) -> int:
    seq = log.append(b"a", b"x" * size)
    log.submit()
    return seq


def quick(store: Store, log: Log) -> bool:
    """On a machine with other work a thread may take long for nothing: until it does not."""
    write(log)
    store.wait()
    return store.quick_ns <= QUICK_NS


def test_a_small_write_is_done_when_submit_returns() -> None:
    with a_log(Disk()) as (store, log):
        wait_until(lambda: quick(store, log), "a quick disk")
        store.at_once = True
        seq = write(log)
        assert log.durable_seq < seq and not store.at_once
        # Told like any other, and nothing is left to wait for.
        assert store.collect() == 1
        assert log.durable_seq == seq and store.idle()
        # Allowed once.
        seq = write(log)
        store.wait()
        assert log.durable_seq == seq and not store.at_once


def test_a_large_write_is_left_to_the_thread() -> None:
    with a_log(Disk()) as (store, log):
        wait_until(lambda: quick(store, log), "a quick disk")
        store.at_once = True
        seq = write(log, QUICK_BYTES)
        assert store.at_once
        store.wait()
        assert log.durable_seq == seq


def test_a_slow_disk_is_left_to_the_thread() -> None:
    with a_log(SlowDisk()) as (store, log):
        for _ in range(5):
            assert store.quick_ns > QUICK_NS
            store.at_once = True
            seq = write(log)
            assert store.at_once
            store.wait()
            assert log.durable_seq == seq


def test_behind_a_write_of_the_thread_it_waits_its_turn() -> None:
    with a_log(Disk()) as (store, log):
        wait_until(lambda: quick(store, log), "a quick disk")
        before = log.durable_seq
        write(log, 50_000)
        store.at_once = True
        write(log)
        assert store.at_once
        store.wait()
        assert log.durable_seq == before + 2


def test_an_error_is_told_as_by_a_thread() -> None:
    disk = Disk()
    with a_log(disk) as (store, log):
        wait_until(lambda: quick(store, log), "a quick disk")
        durable = log.durable_seq
        disk.sync_errors = 1
        store.at_once = True
        write(log)
        assert disk.sync_errors == 0 and not store.at_once
        store.collect()
        assert log.durable_seq == durable
        assert log.state().last_seq == durable + 1
