"""The interest directory against a dict of sets, with levels so small that all of them are used and get full."""
from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shardbroker.shm.directory import Directory
from shardbroker.shm.probe import mixed
from shardbroker.shm.segment import Segment

SHARDS = 3
# Some keys collide in every bucket of every level (equal low halves of both 32-bit words), some are spread.
KEYS = st.one_of(st.integers(1, 40).map(lambda i: i << 52 | 1), st.integers(0, 60).map(lambda i: mixed(i) | 1),
                 st.sampled_from([1, 2**64 - 1, 2**63]))


class DirectoryModel(RuleBasedStateMachine):
    """bits set and cleared by three shards, against a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.segment = Segment.create(SHARDS, 4096, 4096, level_bits=(3, 4, 5, 6))
        self.directory = Directory(self.segment.map)
        self.model: dict[int, set[int]] = defaultdict(set)

    @rule(key=KEYS, shard=st.integers(0, SHARDS - 1))
    def add(self, key: int, shard: int) -> None:
        version = self.directory.version(key)
        if self.directory.add(key, shard):
            assert (self.directory.version(key) != version) == (shard not in self.model[key])
            self.model[key].add(shard)
        else:
            # Only a new key can be refused, and only by 16 (or in equal buckets 8) others in each of four levels.
            assert not self.model[key]
            assert self.directory.levels_active == 4
            assert sum(map(bool, self.model.values())) >= 4 * 8

    @rule(key=KEYS, shard=st.integers(0, SHARDS - 1))
    def remove(self, key: int, shard: int) -> None:
        version = self.directory.version(key)
        self.directory.remove(key, shard)
        assert (self.directory.version(key) != version) == (shard in self.model[key])
        self.model[key].discard(shard)

    @rule(shard=st.integers(0, SHARDS - 1))
    def clear_shard(self, shard: int) -> None:
        mine = [key for key, shards in self.model.items() if shard in shards]
        versions = {key: self.directory.version(key) for key in mine}
        assert self.directory.clear_shard(shard) == len(mine)
        for key in mine:
            assert self.directory.version(key) > versions[key]
            self.model[key].discard(shard)

    @invariant()
    def agree(self) -> None:
        expected = {key: sum(1 << shard for shard in shards) for key, shards in self.model.items() if shards}
        assert dict(self.directory.items()) == expected
        for key in self.model:
            assert self.directory.shards(key) == expected.get(key, 0)

    def teardown(self) -> None:
        self.segment.close()


TestDirectoryModel = DirectoryModel.TestCase
TestDirectoryModel.settings = settings(max_examples=60, stateful_step_count=80, deadline=None)


def test_full_is_said_and_recovers(segment: Segment) -> None:
    directory = Directory(segment.map)
    keys = [i << 52 | 1 for i in range(1, 200)]         # low words equal: one or two buckets in each level
    added = [key for key in keys if directory.add(key, 0)]
    assert 32 <= len(added) < len(keys)
    assert directory.add(added[0], 1)                   # a present key always has room for another shard
    directory.remove(added[5], 0)
    assert directory.add(keys[-1], 2)
    assert directory.shards(keys[-1]) == 1 << 2
    assert directory.shards(added[5]) == 0


@pytest.mark.parametrize("bits", [(10, 13, 14, 15)])
def test_levels_fill_well_before_the_next_is_used(bits: tuple[int, int, int, int]) -> None:
    with Segment.create(2, 4096, 4096, level_bits=bits) as segment:
        directory = Directory(segment.map)
        filled = []
        for i in range(20000):
            level = directory.levels_active
            assert directory.add(mixed(i), 0)
            if directory.levels_active != level:
                filled.append(i)
        assert filled[0] > 0.7 * 2**10
        assert filled[1] > 2**10 + 0.7 * 2**13
        assert len(directory.items()) == 20000


def test_arguments(segment: Segment) -> None:
    directory = Directory(segment.map)
    with pytest.raises(ValueError, match="free slot"):
        directory.add(0, 0)
    with pytest.raises(ValueError, match="shards"):
        directory.add(1, 64)
    assert directory.add(1, 63)
    assert directory.shards(1) == 1 << 63


def test_versions_are_per_partition(segment: Segment) -> None:
    directory = Directory(segment.map)
    one, other = 1 << 52 | 7, 2 << 52 | 7
    before = directory.version(other)
    directory.add(one, 0)
    assert directory.version(one) == 1
    assert directory.version(other) == before


def test_clear_shard_leaves_holes_alone() -> None:
    with Segment.create(2, 4096, 4096) as segment:
        directory = Directory(segment.map)
        for i in range(1, 100):
            directory.add(mixed(i) | 1, i % 2)
        held = segment.memory_bytes()
        assert directory.clear_shard(0) == 49
        assert directory.clear_shard(1) == 50
        assert segment.memory_bytes() == held
        assert directory.items() == []
