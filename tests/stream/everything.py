"""Many streams on all shards, and every kind of request to each of them at once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

from stream.client import Asker

STREAMS = 40
NAMES = [f"S{number}" for number in range(STREAMS)]
# What is counted when nothing is amiss.
EACH = ("publish", "next", "stream", "consumer", "get")
ALL_GOOD = Counter({"account": 1, "names": 1, "list": 1, **dict.fromkeys(EACH, STREAMS)})


async def fill(asker: Asker) -> None:
    """Each stream with a durable consumer and a message."""

    async def one(name: str) -> None:
        await asker.create(name, subjects=[f"{name}.>"], allow_direct=True)
        consumer = {"durable_name": "c", "ack_policy": "explicit"}
        await asker.api(f"CONSUMER.DURABLE.CREATE.{name}.c", {"stream_name": name, "config": consumer})
        assert (await asker.publish(f"{name}.a", "1"))["seq"] == 1

    await asyncio.gather(*map(one, NAMES))


async def ask_everything(asker: Asker) -> Counter[str]:
    """How often each kind was answered; behind the kind the status and the error's number, if it was not what one hopes for.

    A list is `short` when streams are missing in it."""
    seen: Counter[str] = Counter()

    async def ask(kind: str, subject: str, payload: str = "") -> None:
        message = await asker.next_message(subject, payload.encode())
        said = json.loads(message.data) if message.data[:1] == b"{" else {}
        status = (message.headers or {}).get("Status", "") or str(said.get("error", {}).get("err_code", ""))
        total = said.get("total" if kind in ("names", "list") else "streams", STREAMS)
        if not status and total < STREAMS and kind in ("names", "list", "account"):
            status = "short"
        seen[f"{kind} {status}".strip()] += 1

    await asyncio.gather(
        ask("account", "$JS.API.INFO"),
        ask("names", "$JS.API.STREAM.NAMES"),
        ask("list", "$JS.API.STREAM.LIST"),
        *(ask("publish", f"{name}.b", "2") for name in NAMES),
        *(ask("next", f"$JS.API.CONSUMER.MSG.NEXT.{name}.c", '{"batch":1,"no_wait":true}') for name in NAMES),
        *(ask("stream", f"$JS.API.STREAM.INFO.{name}") for name in NAMES),
        *(ask("consumer", f"$JS.API.CONSUMER.INFO.{name}.c") for name in NAMES),
        *(ask("get", f"$JS.API.DIRECT.GET.{name}", '{"seq":1}') for name in NAMES),
    )
    return seen
