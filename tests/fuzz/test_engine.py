"""The whole input path of an engine: no input may crash it, and how input is cut into reads must not matter."""

from __future__ import annotations

import random

import pytest

from fuzz.conversations import conversation, pieces
from fuzz.seeds import FIRST, RUNS
from shardbroker.hot.engine import EVENTS
from shardbroker.hot.probe import Shard
from shardbroker.shm.segment import Segment
from sim.shards import boot, connect

BATCH = 50
CLIENT = 1
MAX_PAYLOAD = 5000
MAX_CONTROL_LINE = 1024
# Completes whatever a conversation leaves open, and is then a mistake: of an unfinished operation, a wrong first byte
# behind the payload is seen at once when all comes in one read, but only with the second byte otherwise.
ENDING = b"\r\n" * MAX_PAYLOAD


def answer(shard: Shard) -> list[tuple[int, bytes]]:
    """What the control side does: every CONNECT is accepted. Returns how connections ended and what was logged."""
    seen = []
    # An answer may be followed by the next CONNECT at once.
    while events := shard.engine.take_events():
        for event in events:
            kind, rest = event[0], event[1:]
            if kind == EVENTS["connect"]:
                slot, client_id, argument = rest
                if argument.startswith(b"n"):
                    shard.engine.error(slot, client_id, b"no JSON", 11)
                else:
                    shard.engine.drop_subscriptions(slot, client_id)
                    shard.engine.connected(
                        slot, client_id, verbose=b"verbose" in argument, pedantic=b"pedantic" in argument, echo=True,
                        headers=True, no_responders=True, protocol=1,
                    )  # fmt: skip
            elif kind == EVENTS["closed"]:
                seen.append((rest[2], b""))
            elif kind == EVENTS["log"] and rest[0] != 0:
                seen.append((rest[0], b"log"))
    return seen


def talk(segment: Segment, reads: list[bytes]) -> tuple[bytes, list[tuple[int, bytes]]]:
    """A new engine is sent these bytes in these reads by one client: what that client got, and how it ended."""
    shard = boot(
        segment,
        0,
        read_bytes=max(map(len, reads)),
        max_payload=MAX_PAYLOAD,
        max_control_line=MAX_CONTROL_LINE,
        stall=False,
    )
    connect(shard, CLIENT)
    seen = []
    now = 1_000_000_000
    for data in [*reads, b""]:
        if data and not shard.feed(CLIENT, data):
            break
        if not data:
            shard.hang_up(CLIENT)
        for _ in range(1000):
            now += 1000
            shard.turn(now)
            seen += answer(shard)
            if not shard.busy():
                break
        else:
            raise AssertionError("the engine does not come to rest")
    sizes = shard.sizes()
    assert not any(
        sizes[name] for name in ("subscriptions", "patterns", "literals", "expired", "dead", "garbage")
    ), sizes
    return shard.take_output(CLIENT), seen


@pytest.mark.parametrize("batch", range(-(-RUNS // BATCH)))
def test_how_input_is_cut_does_not_matter(batch: int) -> None:
    for seed in range(batch * BATCH, min(RUNS, (batch + 1) * BATCH)):
        r = random.Random(FIRST * 1_000_003 + seed)
        data = conversation(r, max_payload=MAX_PAYLOAD) + ENDING
        with Segment.create(1) as segment:
            whole = talk(segment, [data])
            for _ in range(2):
                assert talk(segment, pieces(r, data)) == whole, f"seed {seed}: {data[: -len(ENDING)]!r}"
