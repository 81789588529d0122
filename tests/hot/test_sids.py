"""Subscriptions of a connection by sid, against a dict: numbers near and far, words, and what looks like a number."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from shardbroker.hot.probe import Shard
from sim.shards import boot, connect, small_segment

CLIENT = 7
# Counted, far ahead, as long as numbers get, words, and texts that are no way to write a number.
SIDS = st.one_of(
    st.integers(0, 40).map(lambda n: b"%d" % n),
    st.integers(0, 400).map(lambda n: b"%d" % n),
    st.sampled_from([b"99999999", b"100000000", b"4294967295", b"4294967296", b"007", b"00", b"-1", b"1a", b"a", b"+2"]),
    st.text("abc1", min_size=1, max_size=4).map(str.encode),
)
# (add or remove, sids)
HISTORY = st.lists(st.tuples(st.booleans(), st.lists(SIDS, max_size=60)), max_size=12)


def held(shard: Shard) -> dict[bytes, bytes]:
    """sid -> subject, as the engine has it."""
    rows = shard.engine.subscriptions(shard.slots[CLIENT], CLIENT)[1]
    found = {row[2]: row[0] for row in rows}
    assert len(found) == len(rows), "a sid stands in two places"
    return found


@given(HISTORY)
@settings(max_examples=60, deadline=None)
def test_against_a_dict(history: list[tuple[bool, list[bytes]]]) -> None:
    shard = boot(small_segment(1), 0)
    connect(shard, CLIENT)
    model: dict[bytes, bytes] = {}
    serial = 0
    for adds, sids in history:
        for sid in sids:
            serial += 1
            if adds:
                # A sid that is taken keeps its subscription (client.go processSub).
                shard.feed(CLIENT, b"SUB s.%d %b\r\n" % (serial, sid))
                model.setdefault(sid, b"s.%d" % serial)
            else:
                shard.feed(CLIENT, b"UNSUB %b\r\n" % sid)
                model.pop(sid, None)
        shard.turn(1_000_000_000 + serial)
        assert held(shard) == model
    shard.take_output(CLIENT)
    for sid, subject in model.items():
        shard.feed(CLIENT, b"PUB %b 1\r\nx\r\n" % subject)
        shard.turn(2_000_000_000 + serial)
        assert shard.take_output(CLIENT) == b"MSG %b %b 1\r\nx\r\n" % (subject, sid)


def test_thousands_that_come_and_go() -> None:
    """The array grows, is dissolved when nearly all have gone, and what is left is still found."""
    shard = boot(small_segment(1), 0)
    connect(shard, CLIENT)
    now = 1_000_000_000

    def say(lines: list[bytes]) -> None:
        nonlocal now
        for at in range(0, len(lines), 500):
            now += 1
            assert shard.feed(CLIENT, b"".join(lines[at : at + 500]))
            shard.turn(now)

    say([b"SUB many.%d %d\r\n" % (n, n) for n in range(1, 5001)])
    say([b"UNSUB %d\r\n" % n for n in range(1, 4991)])
    assert held(shard) == {b"%d" % n: b"many.%d" % n for n in range(4991, 5001)}
    say([b"SUB again.%d %d\r\n" % (n, n) for n in range(1, 101)])
    assert len(held(shard)) == 110
    say([b"UNSUB %d\r\n" % n for n in (*range(1, 101), *range(4991, 5001))])
    assert held(shard) == {}
