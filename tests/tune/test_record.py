"""What is derived from a running server is what it was doing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg

from harness import Broker
from shardbroker.tune import record
from shardbroker.tune.record import responders, watch_url
from shardbroker.tune.workload import derived


def test_responders_are_as_many_as_the_answers_need() -> None:
    assert responders([], 0) == 0
    assert responders([100], 0) == 0
    assert responders([60, 40], 100) == 2
    assert responders([100, 40, 3], 100) == 1
    assert responders([50, 20], 100) == 2


@contextmanager
def answers(monkeypatch: pytest.MonkeyPatch, rows: list[list[dict[str, Any]]]) -> Iterator[None]:
    """A monitoring port whose connections are `rows[0]`, then `rows[1]`; its totals are their sums."""
    turn = iter([0, 0, 1, 1])

    def get(url: str) -> dict[str, Any]:
        now = rows[next(turn)]
        if "/connz" in url:
            return {"connections": now}
        sent = sum(row["in_msgs"] for row in now)
        return {"in_msgs": sent, "in_bytes": 100 * sent, "out_msgs": sum(row["out_msgs"] for row in now)}

    with monkeypatch.context() as patch:
        patch.setattr(record, "get", get)
        yield


def row(cid: int, sent: int, got: int, *subjects: str) -> dict[str, Any]:
    return {"cid": cid, "in_msgs": sent, "out_msgs": got, "subscriptions_list": list(subjects)}


def test_responders_are_no_publishers(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [row(1, 0, 0, "_INBOX.a.*"), row(2, 0, 0, "ask"), row(3, 0, 0), row(4, 0, 0, "data")]
    after = [
        row(1, 500, 500, "_INBOX.a.*"),
        row(2, 500, 500, "ask"),
        row(3, 1000, 0),
        row(4, 0, 1000, "data"),
    ]
    with answers(monkeypatch, [before, after]):
        seen = watch_url("http://there", 1.0, lambda seconds: None)
    assert (seen.publishers, seen.requesters, seen.responders, seen.request_msgs) == (3, 1, 1, 500)
    loads = {part.load.describe(): part.share for part in derived(seen, "there").parts}
    assert loads == {"request:1x1:100B": pytest.approx(1 / 3), "pubsub:1x1:100B": pytest.approx(2 / 3)}


def test_a_real_broker(tmp_path: Path, workers: int) -> None:
    async def main(broker: Broker) -> None:
        url = f"nats://127.0.0.1:{broker.port}"
        clients = [await nats.connect(url) for _ in range(4)]
        asker, answerer, publisher, subscriber = clients

        async def answer(message: Msg) -> None:
            await message.respond(message.data)

        async def take(message: Msg) -> None:
            pass

        await answerer.subscribe("ask", cb=answer)
        await subscriber.subscribe("data", cb=take)
        # The inbox is subscribed to at the first request.
        await answerer.flush()
        await asker.request("ask", b"x" * 64, timeout=60)
        found = re.search(r"Starting http monitor on 127\.0\.0\.1:(\d+)", broker.log())
        assert found
        base = f"http://127.0.0.1:{found[1]}"

        async def load() -> None:
            for _ in range(30):
                await asker.request("ask", b"x" * 64, timeout=60)
                await publisher.publish("data", b"x" * 64)
            for client in clients:
                await client.flush()

        loop = asyncio.get_running_loop()

        def wait(seconds: float) -> None:
            asyncio.run_coroutine_threadsafe(load(), loop).result()

        seen = await loop.run_in_executor(None, watch_url, base, 1.0, wait)
        assert (seen.publishers, seen.requesters, seen.responders, seen.request_msgs) == (3, 1, 1, 30)
        loads = {part.load.describe(): part.share for part in derived(seen, base).parts}
        assert loads == {"request:1x1:64B": pytest.approx(1 / 2), "pubsub:1x1:64B": pytest.approx(1 / 2)}
        for client in clients:
            await client.close()

    with Broker(tmp_path, workers=workers, args=["-m", "-1"]) as broker:
        asyncio.run(main(broker))
