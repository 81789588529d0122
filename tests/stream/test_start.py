"""Whoever is let in after a start finds every stream and every consumer at once, on whatever shard."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError

from harness import Broker, wait_until
from stream.client import WATCHDOG_SECONDS, Asker, run
from stream.everything import ALL_GOOD, ask_everything, fill

SLOW_SECONDS = 0.5


async def come_in(ports: Path) -> Client:
    """A client that is there as soon as anybody can be."""
    end = time.monotonic() + WATCHDOG_SECONDS
    while time.monotonic() < end:
        with suppress(OSError, NatsError, ValueError):
            for file in ports.glob("*.ports"):
                url = json.loads(file.read_text())["nats"][0]
                return await nats.connect(url, allow_reconnect=False, connect_timeout=int(WATCHDOG_SECONDS))
        await asyncio.sleep(0.001)
    raise AssertionError("could not connect")


def delay_a_shard(broker: Broker, number: int) -> None:
    """Stop a shard in the middle of its start, for a moment."""
    with suppress(ProcessLookupError):
        pid = wait_until(lambda: broker.shard_pids().get(number), "the shard's process")
        os.kill(pid, signal.SIGSTOP)
        time.sleep(SLOW_SECONDS)  # what is tried does not depend on it: it only makes what must not be more likely
        os.kill(pid, signal.SIGCONT)


@pytest.mark.ours
@pytest.mark.parametrize("count", [1, 4])
def test_everything_is_there_for_the_first_client(tmp_path: Path, count: int) -> None:
    ports = tmp_path / "ports"
    ports.mkdir()
    args = ["-js", "-sd", str(tmp_path / "store"), "--ports_file_dir", str(ports)]
    with Broker(tmp_path / "first", workers=count, args=args) as broker:
        run(fill, broker)
    broker = Broker(tmp_path / "second", workers=count, args=args)
    start = threading.Thread(target=broker.start)
    start.start()
    wait_until(lambda: broker.pid, "the process")
    slow = threading.Thread(target=delay_a_shard, args=(broker, count - 1))
    slow.start()

    async def first_client() -> Counter[str]:
        client = await come_in(ports)
        try:
            return await ask_everything(Asker(client))
        finally:
            await client.close()

    try:
        seen = asyncio.run(first_client())
    finally:
        slow.join()
        start.join()
        broker.stop()
    assert seen == ALL_GOOD
