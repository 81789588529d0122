"""How an operator gets rid of a damaged segment, as docs/durability.md says: by a purge past it, or by a backup and a restore."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from stream.client import WATCHDOG_SECONDS, Asker, run
from stream.test_archives import backup, restore

from harness import Broker

MESSAGES = 60
LOST = 21  # in the second of several segments of 1 MiB and more


def payload(seq: int) -> bytes:
    return b"message %06d " % seq + bytes(60_000)


def verify(directory: Path) -> int:
    command = [sys.executable, "-m", "shardbroker", "stream", "verify", str(directory)]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode


async def sequences(asker: Asker) -> list[int]:
    """Those of all messages that are there; each is as it was."""
    found: list[int] = []
    seq = 1
    while True:
        asked = json.dumps({"seq": seq, "next_by_subj": ">"}).encode()
        message = await asker.client.request("$JS.API.DIRECT.GET.S", asked, timeout=WATCHDOG_SECONDS)
        header = message.headers or {}
        if header.get("Status"):
            return found
        seq = int(header["Nats-Sequence"])
        assert message.data == payload(seq)
        found.append(seq)
        seq += 1


@pytest.mark.ours
@pytest.mark.parametrize("way", ["purge", "restore"])
def test_a_damaged_segment_is_got_rid_of(tmp_path: Path, way: str) -> None:
    args = ["-js", "-sd", str(tmp_path / "store")]
    rest = [seq for seq in range(1, MESSAGES + 1) if seq != LOST]

    def serve(name: str, test: Callable[[Asker], Awaitable[None]]) -> None:
        with Broker(tmp_path / name, workers=1, args=args) as broker:
            run(test, broker)

    async def fill(asker: Asker) -> None:
        await asker.create("S", subjects=["s.>"], allow_direct=True)
        for seq in range(1, MESSAGES + 1):
            assert (await asker.publish(f"s.{seq % 3}", payload(seq)))["seq"] == seq
        consumer = {"stream_name": "S", "config": {"durable_name": "c", "ack_policy": "explicit"}}
        assert "error" not in await asker.api("CONSUMER.DURABLE.CREATE.S.c", consumer)

    async def mend(asker: Asker) -> None:
        assert (await asker.state("S"))["lost"]["msgs"] == [LOST]
        assert await sequences(asker) == rest
        if way == "purge":
            past = next(seq for seq in range(LOST, MESSAGES) if payload(seq)[:14] not in damaged_bytes)
            await asker.api("STREAM.PURGE.S", {"seq": past})
            assert await sequences(asker) == [seq for seq in rest if seq >= past]
            return
        about, data = await backup(asker, "S")
        assert (await asker.api("STREAM.DELETE.S"))["success"]
        await restore(asker, "S", about, data)
        assert await sequences(asker) == rest
        assert (await asker.api("CONSUMER.INFO.S.c"))["num_pending"] == MESSAGES - 1
        assert (await asker.publish("s.new", b""))["seq"] == MESSAGES + 1

    serve("filled", fill)
    (directory,) = (tmp_path / "store").glob("jetstream/*/streams/S")
    damaged = next(path for path in sorted(directory.glob("*.seg")) if payload(LOST)[:14] in path.read_bytes())
    assert damaged not in (min(directory.glob("*.seg")), max(directory.glob("*.seg")))
    damaged_bytes = damaged.read_bytes()
    at = damaged_bytes.index(payload(LOST)[:14]) + 1000
    damaged.write_bytes(damaged_bytes[:at] + b"\1" + damaged_bytes[at + 1 :])
    assert verify(directory) == 1
    serve("damaged", mend)
    assert verify(directory) == 0
