"""The output of a connection against the bytes that it should be."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shardbroker.hot.probe import Outbound

sizes = st.one_of(
    st.integers(0, 40), st.integers(0, 5000), st.sampled_from([2047, 2048, 2049, 16383, 16384, 65536, 65537, 200_000])
)


class OutboundModel(RuleBasedStateMachine):
    """Appended and borrowed bytes in any order; sockets that take little; whole turns that end with keep."""

    def __init__(self) -> None:
        super().__init__()
        self.out = Outbound()
        self.expected = bytearray()
        self.number = 0

    def some(self, size: int) -> bytes:
        self.number += 1
        return bytes((self.number + i // 7) & 0xFF for i in range(min(size, 512))) * (size // 512 + 1)

    @rule(size=sizes)
    def append(self, size: int) -> None:
        data = self.some(size)[:size]
        self.out.append(data)
        self.expected += data

    @rule(size=sizes, cut=st.integers(0, 100))
    def borrow(self, size: int, cut: int) -> None:
        data = self.some(size)[:size]
        self.out.borrow(data, cut)
        self.expected += data

    @rule(size=st.integers(1, 30), times=st.integers(1, 30))
    def mix(self, size: int, times: int) -> None:
        """Many short runs: spans pile up."""
        for _ in range(times):
            self.append(size)
            self.borrow(size, 0)

    @rule(most=sizes, spans=st.integers(1, 64))
    def send(self, most: int, spans: int) -> None:
        got = self.out.send(most, spans)
        assert got == self.expected[: len(got)]
        del self.expected[: len(got)]

    @rule(spans=st.integers(1, 64))
    def send_all(self, spans: int) -> None:
        while self.out.pending:
            got = self.out.send(1 << 30, spans)
            assert got
            assert got == self.expected[: len(got)]
            del self.expected[: len(got)]
        assert self.out.owned == 0
        assert self.out.spans == 0

    @rule()
    def keep(self) -> None:
        self.out.keep()

    @rule()
    def drop(self) -> None:
        self.out.drop()
        self.expected.clear()
        assert self.out.owned == 0

    @invariant()
    def pending_is_what_was_added_and_not_sent(self) -> None:
        assert self.out.pending == len(self.expected)

    def teardown(self) -> None:
        self.out.keep()
        self.send_all(2)
        assert not self.expected


TestOutbound = OutboundModel.TestCase
TestOutbound.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_a_quiet_connection_owns_nothing() -> None:
    out = Outbound()
    for _ in range(1000):
        out.append(b"PONG\r\n")
        assert out.owned == 2048
        assert out.send(100) == b"PONG\r\n"
        assert out.owned == 0


def test_one_run_of_short_frames_is_one_span() -> None:
    """As long as a chunk has room: a busy connection is sent long runs."""
    out = Outbound()
    for _ in range(100):
        out.append(b"MSG a 1 2\r\nxx\r\n")
    assert out.spans == 1
    for _ in range(10_000):
        out.append(b"MSG a 1 2\r\nxx\r\n")
    assert out.spans <= 2 + 150_000 // 65_536 + 1


@pytest.mark.parametrize("size", [2048, 5000, 16_386, 40_000, 70_000, 300_000])
def test_what_waits_takes_little_more_memory_than_its_bytes(size: int) -> None:
    """A receiver that is always behind: payloads are borrowed, the socket takes less, the rest is kept."""
    out = Outbound()
    while out.pending < 8 << 20:
        for _ in range(max(1, 100_000 // size)):
            out.append(b"MSG subject 1 16384\r\n")
            out.borrow(b"x" * size)
        out.send(60_000)
        out.keep()
        assert out.owned < out.pending * 1.02 + 3 * 65_536
    while out.pending:
        out.send(250_000)
        assert out.owned < out.pending * 1.02 + 3 * 65_536
    assert out.owned == 0
