"""Random histories of several shards over one segment with tiny rings.

SHARDBROKER_SIM_RUNS: how many of each kind (default 4); SHARDBROKER_SIM_SEED: the first seed. A failure names its seed.
"""

from __future__ import annotations

import gc
import os
from typing import cast

import pytest

from shardbroker.options import EngineSettings
from sim.shards import boot, connect, small_segment
from sim.world import World, check

RUNS = int(os.environ.get("SHARDBROKER_SIM_RUNS", "4"))
FIRST = int(os.environ.get("SHARDBROKER_SIM_SEED", "1"))
SEEDS = range(FIRST, FIRST + RUNS)


def run(seed: int, shards: int, actions: int, kills: int) -> World:
    world = World(seed, shards)
    at = set(world.draw.sample(range(actions // 5, actions), kills))
    for n in range(actions):
        if n in at:
            world.kill(world.draw.choice(list(world.shards)))
        world.act()
        for _ in range(world.draw.choice([0, 1, 1, 3])):
            world.turn()
        if world.draw.random() < 0.01:
            world.settle()
    world.settle()
    check(world)
    return world


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shards", [2, 3, 4])
def test_nothing_is_lost_doubled_or_out_of_order(shards: int, seed: int) -> None:
    print(f"SHARDBROKER_SIM_SEED={seed}")
    run(seed, shards, 400, 0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shards", [2, 3, 4])
def test_replaced_shards(shards: int, seed: int) -> None:
    """Shards are killed within turns; who is left goes on, and who comes learns everybody's interest."""
    print(f"SHARDBROKER_SIM_SEED={seed}")
    world = run(seed, shards, 400, 5)
    # Everybody's interest is known everywhere: the same as a fresh subscriber's.
    for client in [client for client in world.clients if client.alive]:
        for token in ("a", "b.c"):
            world.publish(client, token, False)
    world.settle()
    check(world)


def test_one_seed_is_one_history() -> None:
    histories = [[(c.sent, c.alive, c.inbox) for c in run(3, 3, 200, 1).clients] for _ in range(2)]
    assert histories[0] == histories[1]


def test_a_replacement_that_boots_before_a_first_process() -> None:
    """Both are BOOTING: each needs to know the other's interest, and neither waits for ever."""
    segment = small_segment(2)
    segment.map.mark_booting(0)
    segment.map.mark_booting(1)
    segment.map.mark_dead(0)
    shards = [boot(segment, 0)]
    shards.append(boot(segment, 1, marked=True))
    for now in range(1, 10):
        for shard in shards:
            shard.turn(now)
    assert segment.map.ready_shards() == [0, 1]


def test_a_full_directory_is_no_wall() -> None:
    """Literal interest that finds no room is told like a pattern, taken back, and in a snapshot."""
    segment = small_segment(2, control_ring_bytes=1 << 20)
    shards = [boot(segment, 0), boot(segment, 1)]
    connect(shards[0], 1)
    count = 12_000
    shards[0].feed(1, b"".join(b"SUB s.%d %d\r\n" % (i, i) for i in range(count)))

    def turns() -> None:
        for now in range(1, 200):
            for shard in shards:
                shard.turn(now * 1_000_000)
            if not any(shard.busy() for shard in shards):
                return

    turns()
    assert all(shards[1].match(b"s.%d" % i)[2] == 1 for i in range(count))
    if not shards[1].sizes()["patterns"]:
        pytest.fail("the directory was not full")
    segment.map.mark_dead(1)
    segment.map.mark_booting(1)
    old = shards[1]
    shards[1] = boot(segment, 1, marked=True)
    turns()
    assert all(shards[1].match(b"s.%d" % i)[2] == 1 for i in range(count))
    shards[0].feed(1, b"".join(b"UNSUB %d\r\n" % i for i in range(count)))
    turns()
    assert not any(shards[1].match(b"s.%d" % i)[2] for i in range(count))
    assert not shards[1].sizes()["patterns"]
    assert not shards[1].sizes()["root"]
    del old


def test_an_engine_in_a_cycle_is_collected() -> None:
    """The collector may take rings and segment apart before the engine that still tells others of its end."""
    segment = small_segment(2)
    shard = boot(segment, 0)
    connect(shard, 1)
    shard.feed(1, b"SUB a.* 1\r\nSUB a q 2\r\nSUB b 3\r\n")
    shard.turn(1)
    cycle = [shard.engine]
    shard.engine.apply(cast(EngineSettings, Settings(shard.engine.settings, cycle)))
    del shard, cycle
    gc.collect()
    segment.close()


class Settings:
    """Settings that hold on to something, as the control side's objects do."""

    def __init__(self, settings: object, held: object) -> None:
        self.settings = settings
        self.held = held

    def __getattr__(self, name: str) -> object:
        return getattr(self.settings, name)
