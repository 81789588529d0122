"""Who rings, who is woken, table of all cases; the races are in tests/stress."""
from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from shardbroker.shm.doorbell import Doorbell
from shardbroker.shm.segment import Segment


@pytest.fixture
def doorbell(segment: Segment) -> Iterator[Doorbell]:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield Doorbell(segment.map, 1, fd)
    os.close(fd)


def woken(doorbell: Doorbell) -> bool:
    return bool(select.select([doorbell.eventfd], [], [], 0)[0])


@pytest.mark.parametrize(("steps", "rings", "wakes"), [
    (["ring"], [False], False),
    (["sleep", "ring"], [True], True),
    (["sleep", "ring", "ring"], [True, False], True),
    (["sleep", "awake", "ring"], [False], False),
    (["sleep", "ring", "awake", "ring"], [True, False], False),
    (["sleep", "ring", "awake", "sleep", "ring"], [True, True], True),
])
def test_one_wake_up_for_each_sleep(doorbell: Doorbell, steps: list[str], rings: list[bool], wakes: bool) -> None:
    rang = []
    for step in steps:
        if step == "ring":
            rang.append(doorbell.ring())
        elif step == "sleep":
            doorbell.set_asleep()
            assert doorbell.asleep
        else:
            doorbell.awake()
            assert not doorbell.asleep
    assert rang == rings
    assert woken(doorbell) == wakes


def test_full_counter_does_not_block(doorbell: Doorbell) -> None:
    os.eventfd_write(doorbell.eventfd, 2**64 - 2)
    doorbell.set_asleep()
    assert not doorbell.ring()
    assert woken(doorbell)


def test_no_such_shard(segment: Segment) -> None:
    with pytest.raises(IndexError):
        Doorbell(segment.map, 3, 0)
