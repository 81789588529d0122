"""A segment that is cut while a broker has it mapped costs what was cut off, and no shard."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from stream.client import Asker, run

from harness import Broker

PAYLOAD = b"x" * 1000


@pytest.mark.ours
def test_a_shard_lives_on(tmp_path: Path) -> None:
    async def test(ask: Asker) -> None:
        await ask.create("S", subjects=["s.>"], allow_direct=True)
        await ask.create("OTHER", subjects=["o"])
        for _ in range(3000):
            await ask.client.publish("s.a", PAYLOAD)
        assert (await ask.publish("s.b", PAYLOAD))["seq"] == 3001
        (directory,) = (tmp_path / "store").glob("jetstream/*/streams/S")
        pids = broker.shard_pids()
        os.truncate(min(directory.glob("*.seg")), 100_000)
        answer = await ask.api("STREAM.MSG.GET.S", {"seq": 500})
        assert answer["error"]["code"] == 404, answer
        assert (await ask.api("STREAM.MSG.GET.S", {"seq": 1}))["message"]["seq"] == 1
        assert (await ask.publish("s.b", PAYLOAD))["seq"] == 3002
        assert (await ask.publish("o", PAYLOAD))["seq"] == 1
        assert (await ask.state("S"))["lost"]["msgs"]
        assert broker.shard_pids() == pids

    with Broker(tmp_path, args=["-js", "-sd", str(tmp_path / "store")]) as broker:
        run(test, broker)
