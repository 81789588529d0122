"""When a consumer's state is saved: an answer that waits for it does not wait for the next round of all states."""

from __future__ import annotations

import pytest

from shardbroker.store.handle import Log, Store
from shardbroker.stream.hub import EVENTS, Consumer, Retained
from shardbroker.stream.probe import ProbeHub

from .test_consumer_random import SECOND, SETTINGS, TEXTS

MESSAGES = 6


def saves(hub: ProbeHub) -> list[bool]:
    """Of the saves that are asked for since the last call: whether an answer waits."""
    hub.run()
    return [event[2] != 0 for event in hub.take_events() if event[0] == EVENTS["save"]]


@pytest.mark.parametrize("first", [b"i.answer", b""])
def test_an_answer_that_waits_is_urgent_each_time(first: bytes) -> None:
    """Whatever was asked for before: nothing, or a save without hurry."""
    store = Store(0)
    log = Log(store)
    hub = ProbeHub()
    hub.listeners |= {b"i.1", b"i.answer"}
    retained = Retained(hub, log, "limits")
    consumer = Consumer(retained, 1, [], [30 * SECOND], TEXTS, {**SETTINGS}, True)
    consumer.start_at(1)
    consumer.start()
    for _ in range(MESSAGES):
        log.append(b"a", b"x")
    log.submit()
    retained.on_stored()
    consumer.post("request", b"", b"i.1", b'{"batch":6}')
    assert saves(hub) == [False]
    for seq in range(1, MESSAGES + 1, 2):
        hub.dirty()
        consumer.saved(consumer.save(True)[0])
        for at, answer in ((seq, first), (seq + 1, b"i.answer")):
            consumer.post("ack", f"$JS.ACK.S.c.1.{at}.{at}.5.5".encode(), answer, b"+ACK")
            assert saves(hub) == [answer != b""]
    consumer.close()
    log.close()
    store.close()
