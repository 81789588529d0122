"""The ring against a deque, and against a writer gone mad."""
from __future__ import annotations

import random
import struct
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shardbroker.shm.layout import RECORD_KIND_MAX, LayoutError
from shardbroker.shm.ring import RingReader, RingWriter, ring_info
from shardbroker.shm.segment import Segment

CAPACITY = 4096


def record_bytes(body: int) -> int:
    return 8 + (body + 7) // 8 * 8


class RingModel(RuleBasedStateMachine):
    """One ring of one page against three deques: pushed, published, taken but not released."""

    def __init__(self) -> None:
        super().__init__()
        self.segment = Segment.create(2, CAPACITY, CAPACITY, level_bits=(3, 3, 3, 3))

    @initialize(laps=st.integers(0, 700))
    def start_anywhere(self, laps: int) -> None:
        writer, reader = RingWriter(self.segment.map, 0, 1), RingReader(self.segment.map, 0, 1)
        for _ in range(laps):
            assert writer.push(b"0123456789")
            writer.publish()
            reader.read()
        self.writer, self.reader = writer, reader
        self.unpublished: deque[tuple[int, int, bytes]] = deque()
        self.published: deque[tuple[int, int, bytes]] = deque()
        self.taken: deque[tuple[int, int, bytes]] = deque()

    def used(self) -> int:
        return sum(record_bytes(len(r[2])) for queue in (self.unpublished, self.published, self.taken) for r in queue)

    @rule(size=st.one_of(st.integers(0, 40), st.integers(0, CAPACITY // 2 - 8)), fill=st.integers(0, 255),
          kind=st.integers(1, RECORD_KIND_MAX), flags=st.integers(0, 0xffff))
    def push(self, size: int, fill: int, kind: int, flags: int) -> None:
        body = bytes([fill]) * size
        pushed = self.writer.push(body, kind, flags)
        assert pushed == (self.used() + record_bytes(size) <= CAPACITY)
        if pushed:
            self.unpublished.append((kind, flags, body))

    @rule(size=st.integers(0, 100))
    def claim_and_forget(self, size: int) -> None:
        self.writer.claim(size)

    @rule()
    def publish(self) -> None:
        assert self.writer.publish() == bool(self.unpublished)
        self.published.extend(self.unpublished)
        self.unpublished.clear()

    @rule()
    def take(self) -> None:
        assert self.reader.readable() == bool(self.published)
        expected = self.published.popleft() if self.published else None
        assert self.reader.next() == expected
        if expected is not None:
            self.taken.append(expected)

    @rule()
    def release(self) -> None:
        self.reader.release()
        self.taken.clear()

    @rule()
    def give_back(self) -> None:
        """Takes nothing away that anyone still reads."""
        if self.writer.give_back():  # not while a record is claimed
            assert self.used() == 0

    @rule()
    def skip(self) -> None:
        self.reader.skip()
        self.published.clear()
        self.taken.clear()

    @rule()
    def read_all(self) -> None:
        assert self.reader.read() == list(self.published)
        self.published.clear()
        self.taken.clear()

    @rule()
    def new_writer(self) -> None:
        """The writer dies and is replaced: what was not published never happened."""
        self.writer = RingWriter(self.segment.map, 0, 1)
        self.unpublished.clear()

    @rule()
    def new_reader(self) -> None:
        """The reader dies and is replaced: what was not released is read again."""
        self.reader = RingReader(self.segment.map, 0, 1)
        self.published.extendleft(reversed(self.taken))
        self.taken.clear()

    @precondition(lambda self: hasattr(self, "writer"))
    @invariant()
    def accounts_agree(self) -> None:
        assert self.writer.used == self.used()
        assert self.writer.free == CAPACITY - self.used()
        assert self.reader.unread == sum(record_bytes(len(body)) for _, _, body in self.published)

    def teardown(self) -> None:
        self.segment.close()


TestRingModel = RingModel.TestCase
TestRingModel.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def test_longest_record(segment: Segment) -> None:
    writer, reader = RingWriter(segment.map, 0, 1), RingReader(segment.map, 0, 1)
    assert writer.body_bytes_max == CAPACITY // 2 - 8
    body = random.Random(1).randbytes(writer.body_bytes_max)
    for _ in range(3):
        assert writer.push(body) and writer.push(body) and not writer.push(b"")
        writer.publish()
        assert reader.read() == [(1, 0, body)] * 2
    with pytest.raises(ValueError, match="at most 2040"):
        writer.push(body + b"x")
    assert not writer.claim(CAPACITY)
    assert not writer.claim(2**32 - 1)


def test_rings_are_separate(segment: Segment) -> None:
    ends = {}
    for writer in range(3):
        for reader in range(3):
            for control in (False, True):
                if writer != reader:
                    ends[writer, reader, control] = (RingWriter(segment.map, writer, reader, control),
                                                     RingReader(segment.map, writer, reader, control))
    for key, (out, _) in ends.items():
        assert out.push(repr(key).encode() * 50)
        assert out.publish()
    for key, (_, inward) in ends.items():
        assert inward.read() == [(1, 0, repr(key).encode() * 50)]


@pytest.mark.parametrize(("writer", "reader"), [(0, 0), (0, 3), (3, 0), (0, 2**32 - 1)])
def test_no_such_ring(segment: Segment, writer: int, reader: int) -> None:
    with pytest.raises(ValueError, match="no ring"):
        RingWriter(segment.map, writer, reader)
    with pytest.raises(ValueError, match="no ring"):
        ring_info(segment.map, writer, reader)


def test_peek_changes_nothing(segment: Segment) -> None:
    assert ring_info(segment.map, 0, 1) is None
    with pytest.raises(LayoutError, match="never used"):
        RingReader(segment.map, 0, 1, peek=True)
    writer, reader = RingWriter(segment.map, 0, 1), RingReader(segment.map, 0, 1)
    writer.push(b"one")
    writer.publish()
    assert RingReader(segment.map, 0, 1, peek=True).read() == [(1, 0, b"one")]
    info = ring_info(segment.map, 0, 1)
    assert info is not None and info[:3] == (CAPACITY, 16, 0)
    assert reader.read() == [(1, 0, b"one")]


# ---- a writer gone mad ----

def header(body_bytes: int, kind: int, flags: int = 0) -> bytes:
    return struct.pack("=IHH", body_bytes, kind, flags)


@pytest.mark.parametrize("raw", [
    header(0, 0), header(8, RECORD_KIND_MAX + 1), header(8, 0xffff), header(9, 1), header(17, 1),
    header(CAPACITY // 2 - 7, 1), header(CAPACITY, 1), header(0x7fffffff, 1), header(0xffffffff, 1),
    header(0xfffffff8, 1)])
def test_corrupt_record_is_refused_and_skipped(segment: Segment, raw: bytes) -> None:
    writer, reader = RingWriter(segment.map, 0, 1), RingReader(segment.map, 0, 1)
    writer.push(b"good")
    place = writer.tail
    writer.push(b"12345678")
    writer.poke(place, raw)
    writer.publish()
    assert reader.next() == (1, 0, b"good")
    for _ in range(2):
        with pytest.raises(LayoutError):
            reader.next()
    reader.skip()
    assert not reader.readable()
    assert reader.next() is None
    assert writer.used == 0
    writer.push(b"again")
    writer.publish()
    assert reader.read() == [(1, 0, b"again")]


@pytest.mark.parametrize("step", [8, 12, 4, 1, 7, CAPACITY, CAPACITY + 8, 1 << 40, -8, -1, -(1 << 40), 2**63])
def test_impossible_tail(segment: Segment, step: int) -> None:
    writer, reader = RingWriter(segment.map, 0, 1), RingReader(segment.map, 0, 1)
    for _ in range(300):
        writer.push(b"some body")
        writer.publish()
        reader.read()
    writer.poke_tail((writer.tail + step) % 2**64)
    for _ in range(3):
        try:
            assert reader.next() is None or 0 < step <= CAPACITY
        except LayoutError:
            reader.skip()
        assert reader.head % 8 == 0
    reader.skip()
    assert not reader.readable()
    assert reader.next() is None
    fresh = RingWriter(segment.map, 0, 1)
    assert fresh.push(b"a replacement")
    fresh.publish()
    assert reader.read() == [(1, 0, b"a replacement")]


def test_impossible_head_is_a_full_ring(segment: Segment) -> None:
    writer, reader = RingWriter(segment.map, 0, 1), RingReader(segment.map, 0, 1)
    other = RingWriter(segment.map, 0, 1)       # moves the tail, then the reader's head, far behind the first writer
    other.poke_tail(1 << 20)
    reader.skip()
    while writer.push(b"x" * 1000):
        pass
    assert writer.free == 0
    assert not writer.push(b"")


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_never_leave_the_ring(segment: Segment, seed: int) -> None:
    """Whatever stands there, every record returned lies inside the ring, and a skip always ends it."""
    rng = random.Random(seed)
    writer, reader = RingWriter(segment.map, 0, 1), RingReader(segment.map, 0, 1)
    for _ in range(200):
        if rng.random() < 0.5:
            raw = rng.randbytes(CAPACITY)
        else:
            raw = b"".join(header(rng.randrange(0, 64), rng.randrange(0, 70)) for _ in range(CAPACITY // 8))
        writer.poke(0, raw)
        writer.poke_tail((reader.head + rng.choice([CAPACITY, rng.randrange(0, CAPACITY + 64)])) % 2**64)
        try:
            while (record := reader.next()) is not None:
                assert len(record[2]) <= CAPACITY // 2 - 8
                assert 1 <= record[0] <= RECORD_KIND_MAX
        except LayoutError:
            pass
        reader.skip()
        assert not reader.readable()
        writer.poke_tail(reader.head)
