"""Streams belong to their account: names, subjects, listings and usage of one are nothing to another."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import nats
import pytest

from harness import Broker

CONFIG = """
jetstream { store_dir: "%s" }
accounts {
  A { users: [{user: a, password: a}], jetstream: { max_streams: 2, max_file: 1G } }
  B { users: [{user: b, password: b}], jetstream: enabled }
  C { users: [{user: c, password: c}] }
}
"""


@pytest.mark.ours
def test_each_account_has_its_own_streams(tmp_path: Path, workers: int) -> None:
    async def main(broker: Broker) -> None:
        async def client(user: str) -> Any:
            return await nats.connect(f"nats://{user}:{user}@127.0.0.1:{broker.port}", allow_reconnect=False)

        async def ask(by: Any, subject: str, payload: Any = "") -> dict[str, Any]:
            body = payload if isinstance(payload, str) else json.dumps(payload)
            answer: dict[str, Any] = json.loads((await by.request(subject, body.encode(), timeout=60)).data)
            return answer

        a, b, c = await client("a"), await client("b"), await client("c")
        for by in (a, b):
            made = await ask(by, "$JS.API.STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"], "allow_direct": True})
            assert made["did_create"]
        for number in range(3):
            assert (await ask(a, "s.x", f"of a {number}"))["seq"] == number + 1
        assert (await ask(b, "s.x", "of b"))["seq"] == 1
        got = await b.request("$JS.API.DIRECT.GET.S.s.x", b"", timeout=60)
        assert got.data == b"of b" and got.headers["Nats-Sequence"] == "1"
        assert (await ask(a, "$JS.API.INFO"))["limits"]["max_streams"] == 2
        assert (await ask(a, "$JS.API.INFO"))["storage"] > (await ask(b, "$JS.API.INFO"))["storage"] > 0
        await ask(a, "$JS.API.STREAM.CREATE.T", {"name": "T"})
        assert (await ask(a, "$JS.API.STREAM.CREATE.U", {"name": "U"}))["error"]["err_code"] == 10027
        assert (await ask(b, "$JS.API.STREAM.NAMES"))["streams"] == ["S"]
        big = await ask(a, "$JS.API.STREAM.UPDATE.T", {"name": "T", "max_bytes": 2 << 30})
        assert big["error"]["err_code"] == 10047
        assert (await ask(c, "$JS.API.INFO"))["error"]["err_code"] == 10039
        for by in (a, b, c):
            await by.close()

    with Broker(tmp_path, workers=workers, config=CONFIG % (tmp_path / "store")) as broker:
        asyncio.run(main(broker))
