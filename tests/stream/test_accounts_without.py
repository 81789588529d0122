"""Accounts that have no streams, and accounts that use those of another one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.errors import NoRespondersError

from harness import Broker

from .client import Asker

CONFIG = """
jetstream { store_dir: "%s" }
accounts {
  A {
    users: [{user: a, password: a}], jetstream: enabled
    exports: [{service: "$JS.API.>", response_type: stream}, {service: "$JS.ACK.>", response_type: stream}]
  }
  B { users: [{user: b, password: b}] }
  C {
    users: [{user: c, password: c}]
    imports: [
      {service: {account: A, subject: "$JS.API.>"}, to: "of.a.>"}
      {service: {account: A, subject: "$JS.ACK.>"}}
    ]
  }
}
"""


def test_no_streams_here_and_streams_of_another(tmp_path: Path, workers: int) -> None:
    async def main(broker: Broker) -> None:
        async def client(user: str) -> Any:
            return await nats.connect(f"nats://{user}:{user}@127.0.0.1:{broker.port}", allow_reconnect=False)

        async def ask(by: Any, subject: str, payload: Any = "") -> dict[str, Any]:
            body = payload if isinstance(payload, str) else json.dumps(payload)
            answer: dict[str, Any] = json.loads((await by.request(subject, body.encode(), timeout=60)).data)
            return answer

        a, b, c = await client("a"), await client("b"), await client("c")
        for operation in ("INFO", "STREAM.INFO.S", "STREAM.NAMES", "STREAM.CREATE.S", "CONSUMER.LIST.S"):
            answer = await ask(b, f"$JS.API.{operation}")
            assert answer["error"]["err_code"] == 10039, answer
            assert answer["error"]["code"] == 503
        assert (await ask(b, "$JS.API.STREAM.LIST"))["streams"] == []
        for hot in ("CONSUMER.MSG.NEXT.S.C", "DIRECT.GET.S"):
            with pytest.raises(NoRespondersError):
                await b.request(f"$JS.API.{hot}", b"", timeout=60)

        made = await ask(c, "of.a.STREAM.CREATE.S", {"name": "S", "subjects": ["s"]})
        assert made["did_create"]
        await ask(a, "s", "one")
        durable = {"stream_name": "S", "config": {"durable_name": "D", "name": "D", "ack_policy": "explicit"}}
        assert (await ask(c, "of.a.CONSUMER.CREATE.S.D", durable))["name"] == "D"
        message = await Asker(c).next_message("of.a.CONSUMER.MSG.NEXT.S.D")
        # Under the subject that it was stored under, not the inbox it came to: by that clients tell messages from statuses.
        assert (message.subject, message.data) == ("s", b"one")
        # Not a reply subject for this one answer: clients read the place in the stream out of it.
        assert message.metadata.sequence.stream == 1
        assert (await ask(c, "of.a.CONSUMER.INFO.S.D"))["num_ack_pending"] == 1
        await c.request(message.reply, b"+ACK", timeout=60)
        assert (await ask(c, "of.a.CONSUMER.INFO.S.D"))["num_ack_pending"] == 0
        for by in (a, b, c):
            await by.close()

    with Broker(tmp_path, workers=workers, config=CONFIG % (tmp_path / "store")) as broker:
        asyncio.run(main(broker))


@pytest.mark.ours
def test_operators_limits_for_requests(tmp_path: Path) -> None:
    config = 'jetstream { store_dir: "%s", strict: false, limits { max_ack_pending: 7, max_request_batch: 3 } }'

    async def main(broker: Broker) -> None:
        client = await nats.connect(f"nats://127.0.0.1:{broker.port}", allow_reconnect=False)

        async def ask(subject: str, payload: Any) -> dict[str, Any]:
            message = await client.request(f"$JS.API.{subject}", json.dumps(payload).encode(), timeout=60)
            answer: dict[str, Any] = json.loads(message.data)
            return answer

        later = {"name": "S", "nonsense": [1], "sources": [{"name": "O", "unknown": {"a": 1}}]}
        made = await ask("STREAM.CREATE.S", later)
        assert made["did_create"] and made["config"]["sources"] == [{"name": "O"}]
        assert (await ask("STREAM.CREATE.T", {"name": "T", "max_msgs": "x"}))["error"]["err_code"] == 10025
        consumer = {"durable_name": "D", "name": "D", "ack_policy": "explicit", "priority_groups": ["x"]}
        made = await ask("CONSUMER.CREATE.S.D", {"stream_name": "S", "config": consumer})
        assert made["config"]["max_ack_pending"] == 7 and made["config"]["max_batch"] == 3
        consumer = {"durable_name": "E", "name": "E", "ack_policy": "explicit", "max_ack_pending": 8}
        refused = await ask("CONSUMER.CREATE.S.E", {"stream_name": "S", "config": consumer})
        assert refused["error"]["err_code"] == 10121
        await client.close()

    with Broker(tmp_path, config=config % (tmp_path / "store")) as broker:
        asyncio.run(main(broker))
