"""A client for tests of streams: ask the API, publish and wait, in a few words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import nats
from nats.aio.client import Client

from harness import Broker
from harness.broker import WATCHDOG_SECONDS


class Asker:
    """`client` is nats-py's; api() asks $JS.API, publish() waits for the acknowledgement."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def api(self, subject: str, payload: Any = "", *, prefix: str = "$JS.API.") -> dict[str, Any]:
        body = payload if isinstance(payload, str) else json.dumps(payload)
        message = await self.client.request(prefix + subject, body.encode(), timeout=WATCHDOG_SECONDS)
        answer: dict[str, Any] = json.loads(message.data)
        return answer

    async def publish(self, subject: str, payload: str | bytes = b"", **headers: str) -> dict[str, Any]:
        """Header names with _ for -."""
        body = payload.encode() if isinstance(payload, str) else payload
        said = {name.replace("_", "-"): value for name, value in headers.items()} or None
        message = await self.client.request(subject, body, timeout=WATCHDOG_SECONDS, headers=said)
        answer: dict[str, Any] = json.loads(message.data)
        return answer

    async def next_message(self, subject: str, payload: bytes = b"1") -> Any:
        """What a pull request brings; `subject` is $JS.API.CONSUMER.MSG.NEXT.<stream>.<consumer> or leads there."""
        inbox = self.client.new_inbox()
        subscription = await self.client.subscribe(inbox)
        await self.client.publish(subject, payload, reply=inbox)
        message = await subscription.next_msg(timeout=WATCHDOG_SECONDS)
        await subscription.unsubscribe()
        return message

    async def create(self, name: str, **config: Any) -> dict[str, Any]:
        answer = await self.api(f"STREAM.CREATE.{name}", {"name": name, **config})
        assert "error" not in answer, answer
        return answer

    async def state(self, name: str, **asked: Any) -> dict[str, Any]:
        answer = await self.api(f"STREAM.INFO.{name}", asked or "")
        assert "error" not in answer, answer
        state: dict[str, Any] = answer["state"]
        return state

    async def until(self, condition: Callable[[], Awaitable[Any]], what: str) -> Any:
        """Wait until it is true."""
        async with asyncio.timeout(WATCHDOG_SECONDS):
            while not (value := await condition()):
                await asyncio.sleep(0.01)
        assert value, what
        return value


def run(test: Callable[[Asker], Awaitable[None]], broker: Broker) -> None:
    """Run a test with a client of a broker."""

    async def main() -> None:
        client = await nats.connect(f"nats://127.0.0.1:{broker.port}", allow_reconnect=False)
        try:
            await test(Asker(client))
        finally:
            await client.close()

    asyncio.run(main())
