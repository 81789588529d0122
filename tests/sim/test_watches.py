"""Who watches a subject is told when its interest has changed, on whatever shard, and whatever happens to that shard."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardbroker.shm import stats
from shardbroker.shm.directory import Directory
from sim.shards import boot, connect, small_segment

STEP_NS = 1_000_000
SUBJECTS = [b"to.a", b"to.b", b"far"]
PATTERNS = [b"to.*", b"to.a", b"to.b", b"far", b">", b"else.*"]


class World:
    """Shards with a client each, 10 + shard; `watcher` is shard 0."""

    def __init__(self, shards: int) -> None:
        self.segment = small_segment(shards)
        self.now = 1_000_000_000
        self.shards = [boot(self.segment, number) for number in range(shards)]
        self.turns()
        for number in range(shards):
            self.connect(number)
        self.watcher = self.shards[0]

    def connect(self, shard: int) -> None:
        connect(self.shards[shard], 10 + shard)
        self.turns()

    def turns(self, count: int = 12) -> None:
        for _ in range(count):
            self.now += STEP_NS
            for shard in self.shards:
                shard.turn(self.now)
                shard.engine.take_events()

    def say(self, shard: int, line: bytes) -> None:
        assert self.shards[shard].feed(10 + shard, line + b"\r\n")
        self.turns()

    def told(self) -> set[bytes]:
        """Since the last call."""
        told = set(self.watcher.told)
        self.watcher.told.clear()
        return told


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("subscribed", [b"SUB to.a %d", b"SUB to.a workers %d", b"SUB to.* %d", b"SUB to.* workers %d"])
def test_told_when_the_first_comes_and_the_last_goes(shards: int, subscribed: bytes) -> None:
    world = World(shards)
    for subject in SUBJECTS:
        world.watcher.watch(subject)
    engine = world.watcher.engine
    for shard in range(shards):
        assert world.told() == set() and not engine.interest(b"to.a")
        world.say(shard, subscribed % 1)
        assert b"to.a" in world.told() and engine.interest(b"to.a")
        world.say(shard, b"SUB other.subject 7\r\nUNSUB 7")
        assert world.told() == set(), "nobody is told of what does not concern him"
        world.say(shard, b"UNSUB 1")
        assert b"to.a" in world.told() and not engine.interest(b"to.a")


@pytest.mark.parametrize("shards", [2, 3])
def test_a_shard_that_dies_takes_its_interest_with_it(shards: int) -> None:
    world = World(shards)
    world.watcher.watch(b"to.a")
    world.say(1, b"SUB to.a 1\r\nSUB to.b 2")
    assert world.told() == {b"to.a"}
    # As the front does when a process has ended (control/supervisor.py)
    world.segment.map.mark_dead(1)
    Directory(world.segment.map).clear_shard(1)
    world.segment.map.mark_booting(1)
    world.shards[1] = boot(world.segment, 1, marked=True)
    world.turns()
    assert world.told() == {b"to.a"} and not world.watcher.engine.interest(b"to.a")
    world.connect(1)
    world.told()
    world.say(1, b"SUB to.a 1")
    assert world.told() == {b"to.a"} and world.watcher.engine.interest(b"to.a")


def test_a_replaced_watcher_is_told_when_it_watches_again() -> None:
    world = World(2)
    world.watcher.watch(b"to.a")
    world.segment.map.mark_dead(0)
    Directory(world.segment.map).clear_shard(0)
    world.segment.map.mark_booting(0)
    world.shards[0] = world.watcher = boot(world.segment, 0, marked=True)
    world.turns()
    world.say(1, b"SUB to.a 1")
    assert world.told() == set()
    world.watcher.watch(b"to.a")
    assert world.watcher.engine.interest(b"to.a")
    world.say(1, b"UNSUB 1")
    assert world.told() == {b"to.a"} and not world.watcher.engine.interest(b"to.a")


def test_the_watch_goes_with_the_last_who_watches() -> None:
    world = World(2)
    directory = Directory(world.segment.map)
    before = len(directory.items())
    world.watcher.watch(b"to.a")
    world.watcher.watch(b"to.b")
    assert len(directory.items()) == before + 2
    world.watcher.unwatch(b"to.b")
    world.watcher.unwatch(b"to.a")
    assert len(directory.items()) == before
    sent = int(stats.snapshot(world.segment)["control_out"][1])
    world.say(1, b"SUB to.a 1")
    assert world.told() == set()
    assert int(stats.snapshot(world.segment)["control_out"][1]) == sent


# shard, pattern, whether in a queue group, turns that pass (0: UNSUB)
STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, len(PATTERNS) - 1), st.booleans(), st.integers(0, 4)), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), STEPS)
def test_what_was_seen_when_told_last_is_what_is(shards: int, steps: list[tuple[int, int, bool, int]]) -> None:
    """Whoever looks whenever told, and never else, knows."""
    world = World(shards)
    seen = {}
    for subject in SUBJECTS:
        world.watcher.watch(subject)
        seen[subject] = world.watcher.engine.interest(subject)
    for shard, pattern, queue, turns in steps:
        shard %= shards
        sid = 1 + pattern * 2 + queue
        line = b"SUB %b %b%d\r\n" % (PATTERNS[pattern], b"q " if queue else b"", sid) if turns else b"UNSUB %d\r\n" % sid
        world.shards[shard].feed(10 + shard, line)
        for _ in range(turns):
            world.turns(1)
            for subject in world.told():
                seen[subject] = world.watcher.engine.interest(subject)
    world.turns(40)
    for subject in world.told():
        seen[subject] = world.watcher.engine.interest(subject)
    assert seen == {subject: world.watcher.engine.interest(subject) for subject in SUBJECTS}
