"""A connection that floods costs the others no more than its share of a turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import Broker, wait_until
from harness.raw import msg, pub

# More than a socket's worth of messages, so that the shard has learned what kind of connection this is.
FLOOD = pub("flood.away", b"x" * 64) * 20000
# Fits into the receive buffer of a socket that nobody reads.
BACKLOG = 200


@pytest.mark.ours
def test_light_connections_are_served_before_a_flood(tmp_path: Path) -> None:
    """Both have sent when the shard looks: the flood first, the light one last. The light one's message leaves first."""
    with Broker(tmp_path, workers=1) as broker:
        listener = broker.client().connect()
        listener.sub("fair.*", 1)
        flooder, light = broker.client().connect(), broker.client().connect()
        flooder.send(FLOOD).flush()
        with broker.stopped_shard(0):
            flooder.send(pub("fair.flood", b"f" * 64) * BACKLOG)
            light.send(pub("fair.light", b"l"))
            for client in (flooder, light):
                wait_until(lambda c=client: not broker.has_read([c]), "its bytes to have arrived")  # type: ignore[misc]
        listener.expect(msg("fair.light", 1, b"l"))
        listener.expect(msg("fair.flood", 1, b"f" * 64) * BACKLOG)


@pytest.mark.ours
def test_a_flood_is_not_starved_by_light_connections(tmp_path: Path) -> None:
    """While requests come without a pause, what floods is read all the same, and in order."""
    with Broker(tmp_path, workers=1) as broker:
        listener = broker.client().connect()
        listener.sub("flood.counted", 1)
        flooder, light = broker.client().connect(), broker.client().connect()
        flooder.send(FLOOD).flush()
        flooder.send(b"".join(pub("flood.counted", b"%06d" % n) for n in range(20000)))
        for _ in range(200):
            light.flush()
        listener.expect(b"".join(msg("flood.counted", 1, b"%06d" % n) for n in range(20000)))
