"""What a client of another shard is told while a shard that died is being replaced: the answer, or that nobody is there now."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from stream.client import Asker, run
from stream.everything import ALL_GOOD, ask_everything, fill

from harness import Broker, wait_until

# Nobody there, of what goes to the stream itself; "not available" (10008), of what the API asks its shard, or all of them.
ALLOWED = {
    "account 10008", "names 10008", "list 10008", "publish 503", "next 503", "stream 10008", "consumer 10008", "get 503",
}  # fmt: skip
# More than what the API waits for a shard, less than the watchdog of a client.
REPLACED_SECONDS = 5.0


@pytest.mark.ours
def test_nothing_is_said_to_be_missing(tmp_path: Path) -> None:
    """The new process is stopped in its start for a while, to have the answers of that time."""
    with Broker(tmp_path, workers=3, args=["-js", "-sd", str(tmp_path / "store")]) as broker:

        async def test(asker: Asker) -> None:
            await fill(asker)
            home = broker.shards_in_use()[0]
            victim = (home + 1) % 3
            dead = broker.kill_shard(victim)

            def replacement() -> int:
                pid = broker.shard_pids().get(victim, dead)
                return pid if pid != dead else 0

            new = await asyncio.to_thread(wait_until, replacement, "a new process of the shard")
            os.kill(new, signal.SIGSTOP)
            goes_on = threading.Timer(REPLACED_SECONDS, os.kill, (new, signal.SIGCONT))
            goes_on.start()
            try:
                seen: Counter[str] = Counter()
                while seen != ALL_GOOD:
                    seen = await ask_everything(asker)
                    assert set(seen) - set(ALL_GOOD) <= ALLOWED, seen
            finally:
                goes_on.cancel()
                with suppress(ProcessLookupError):
                    os.kill(new, signal.SIGCONT)
                goes_on.join()

        run(test, broker)
